// Section 2: learning to read digits, and drawings of the visitor's.

class Digits {
  constructor(thread, data, saved) {
    Object.assign(this, { thread, data, saved, running: false, sample: 0 });
    const epochs = [0, 10, 20, 30, 40, 50, 60].map((v) => [v, String(v)]);
    const shares = [0, 0.2, 0.4, 0.6, 0.8, 1].map((v) => [v, `${Math.round(100 * v)} %`]);
    this.chart = new Chart(
      $("digits-chart"),
      { place: (epoch) => epoch / 60, ticks: epochs },
      { place: (share) => share, ticks: shares },
      "epochs",
    );
    this.pad = new Pad($("pad"), $("seen"), () => this.read());
    this.drawing = () => this.draw();
    this.listen();
    this.values();
  }

  get settings() {
    return {
      seed: Number($("digits-seed").value),
      scale: Number($("digits-scale").value),
      rate: 10 ** Number($("digits-rate").value),
      presynaptic: document.querySelector("[name=digits-pre]:checked").value,
    };
  }

  values() {
    const { seed, scale, rate } = this.settings;
    $("digits-seed-value").textContent = seed;
    $("digits-scale-value").textContent = scale.toFixed(2);
    $("digits-rate-value").textContent = rate.toPrecision(2);
  }

  listen() {
    $("digits-run").onclick = () => this.run(!this.running);
    $("digits-one").onclick = async () => {
      await this.run(false);
      this.update(await this.thread.ask("one", { task: "digits" }));
    };
    $("digits-reset").onclick = () => this.start();
    $("digits-seed").oninput = () => {
      this.values();
      clearTimeout(this.soon);
      this.soon = setTimeout(() => this.start(), 150);
    };
    const change = async () => {
      this.values();
      this.update(await this.thread.ask("change", { task: "digits", settings: this.settings }));
    };
    $("digits-rate").oninput = $("digits-scale").oninput = change;
    for (const radio of document.getElementsByName("digits-pre")) radio.onchange = change;
    $("pad-clear").onclick = () => this.pad.clear();
    $("pad-sample").onclick = () => {
      const { x } = this.data.test;
      this.pad.put(x.subarray(this.sample * 64, (this.sample + 1) * 64));
      this.sample = (this.sample + 1) % this.data.test.target.length;
    };
    for (const button of document.querySelectorAll("[data-digit]")) {
      button.onclick = () => this.teach(Number(button.dataset.digit));
    }
    $("forget").onclick = async () => {
      await this.thread.ask("forget");
      $("forget").disabled = true;
      $("teach-said").textContent = "Forgotten: batches have none of your drawings any more.";
    };
    for (const button of document.querySelectorAll("[data-save]")) {
      button.onclick = () => this.save(button.dataset.save);
    }
    this.thread.listeners.digits = (snapshot) => this.update(snapshot);
  }

  async start() {
    const running = this.running;
    await this.run(false);
    this.say("");
    this.update(await this.thread.ask("start", { task: "digits", settings: this.settings }));
    if (running) await this.run(true);
  }

  async run(on) {
    if (on && this.now.epoch >= 60) this.say("60 epochs are done: start over, or try another seed.");
    this.running = on && !this.now.done;
    on = this.running;
    $("digits-run").textContent = on ? "Pause" : "Learn";
    await this.thread.ask(on ? "run" : "pause", { task: "digits", pace: 100000 });
  }

  update(snapshot) {
    if (snapshot.error) {
      this.say(`The step failed: ${snapshot.error}`);
      this.run(false);
      return;
    }
    this.now = snapshot;
    this.chart.rows = snapshot.rows;
    draw(this.drawing);
    if (snapshot.done && this.running) this.run(false);
    const ended = rules.filter((rule) => snapshot.diverged[rule]).map((rule) => titles[rule]);
    if (this.ended && !ended.length) this.say("");
    this.ended = ended.length > 0;
    if (this.ended) {
      this.say(
        `Diverged: ${ended.join(", ")}. The last finite weights were kept; a lower learning rate or ` +
          "a shorter F lets it go on from them.",
      );
    }
    this.read();
  }

  draw() {
    this.chart.draw();
    const texts = rules.map((rule) => {
      const share = this.now?.rows[rule].at(-1)?.[1] ?? 0;
      return `${titles[rule]} ${(100 * share).toFixed(1)}\u00a0%`;
    });
    const text = `After ${(this.now?.epoch ?? 0).toFixed(1)} epochs: ${texts.join(", ")}.`;
    $("digits-chart-text").textContent = text;
    $("digits-now").textContent = text;
  }

  // What each network takes the drawing for; one question at a time.
  async read() {
    this.again = this.reading;
    if (this.reading) return;
    this.reading = true;
    do {
      this.again = false;
      const empty = this.pad.empty;
      const found = empty ? {} : await this.thread.ask("read", { picture: this.pad.picture });
      for (const rule of rules) this.answer(rule, found[rule]);
    } while (this.again);
    this.reading = false;
  }

  answer(rule, probabilities) {
    const row = $(`read-${rule}`);
    const best = probabilities ? probabilities.indexOf(Math.max(...probabilities)) : "–";
    row.querySelector(".answer").textContent = best;
    row.querySelectorAll(".bar").forEach((bar, digit) => {
      const share = probabilities?.[digit] ?? 0;
      bar.style.height = `${(2 * share).toFixed(2)}rem`;
      bar.parentElement.title = `${(100 * share).toFixed(0)} %`;
    });
  }

  async teach(target) {
    if (this.pad.empty) {
      $("teach-said").textContent = "There is no drawing yet.";
      return;
    }
    const count = await this.thread.ask("teach", { picture: this.pad.picture, target });
    $("forget").disabled = false;
    $("teach-said").textContent =
      `Learned as a ${target} from now on: ${count} drawing${count > 1 ? "s" : ""} of yours, up to 4 in ` +
      `each batch of 32. ${this.running ? "" : "Press Learn to go on."}`;
  }

  async bytes(rule) {
    const state = await this.thread.ask("state", { task: "digits", rule });
    return withState(this.saved[rule], state);
  }

  async save(rule) {
    const blob = new Blob([await this.bytes(rule)], { type: "application/octet-stream" });
    const link = document.createElement("a");
    link.href = URL.createObjectURL(blob);
    link.download = `digits-${rule}.safetensors`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  }

  say(text) {
    $("digits-said").textContent = text;
  }
}

// A file that forwardly saved, with the numbers of a state in place of its own. It has the length
// of its header, the header in JSON, and the tensors' bytes.
function withState(saved, state) {
  const bytes = saved.slice();
  const length = Number(new DataView(bytes.buffer).getBigUint64(0, true));
  const header = JSON.parse(new TextDecoder().decode(bytes.subarray(8, 8 + length)));
  for (const [name, { data }] of Object.entries(state)) {
    const [start, end] = header[name].data_offsets;
    if (end - start !== data.byteLength) throw new Error(`${name} has another size`);
    bytes.set(new Uint8Array(data.buffer, data.byteOffset, data.byteLength), 8 + length + start);
  }
  return bytes;
}
