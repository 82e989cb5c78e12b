// Section 2: learning to read digits, and drawings of the visitor's.

const teachable = "Up to 4 of the 32 digits of every further batch are then your drawings.";

class Digits extends Section {
  // carried: for each set its images, files to put weights into, and a program that reads them. The
  // images of a set that is not there yet come by fetch(set), once it is chosen.
  constructor(thread, carried, fetch) {
    super(thread, "digits");
    Object.assign(this, { carried, fetch, set: "digits" });
    const shares = [0, 0.2, 0.4, 0.6, 0.8, 1].map((v) => [v, `${Math.round(100 * v)} %`]);
    const y = { place: (share) => share, ticks: shares };
    this.chart = new Chart(this.at("chart"), this.epochs(), y, "epochs");
    this.pad = new Pad($("pad"), $("seen"), () => this.read());
    $("pad-clear").onclick = () => this.pad.clear();
    $("pad-sample").onclick = () => {
      const { test, full } = this.carried[this.set].images;
      const size = this.pad.picture.length;
      const pixels = test.x.subarray(this.sample * size, (this.sample + 1) * size);
      this.pad.put(Float32Array.from(pixels, (value) => value / full));
      this.sample = (this.sample + 1) % test.target.length;
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
    for (const radio of document.getElementsByName("digits-set")) {
      radio.onchange = () => this.choose(radio.value);
    }
  }

  get settings() {
    return { ...super.settings, set: this.set };
  }

  // The axis of the curves.
  epochs() {
    const { last, tick } = sets[this.set];
    const ticks = Array.from({ length: last / tick + 1 }, (_, i) => [i * tick, String(i * tick)]);
    return { place: (epoch) => epoch / last, ticks };
  }

  // Learn another set of digits, from the start.
  async choose(set) {
    const radios = [...document.getElementsByName("digits-set")];
    try {
      if (!this.carried[set].images) {
        this.say("Fetching the images …");
        this.carried[set].images = await this.fetch(set);
      }
    } catch (error) {
      for (const radio of radios) radio.checked = radio.value === this.set;
      this.say(`The images did not come: ${error.message}`, true);
      return;
    }
    if (!radios.some((radio) => radio.checked && radio.value === set)) return; // changed their mind
    Object.assign(this, { set, sample: 0 });
    this.chart.x = this.epochs();
    this.pad.see(sets[set]);
    $("python").textContent = this.carried[set].python;
    $("teach-said").textContent = teachable;
    await this.start();
  }

  update(snapshot) {
    super.update(snapshot);
    if (snapshot.error) return;
    $("forget").disabled = !snapshot.own;
    this.read();
  }

  draw() {
    this.chart.draw();
    const texts = rules.map((rule) => {
      const share = this.now?.rows[rule].at(-1)?.[1] ?? 0;
      return `${titles[rule]} ${(100 * share).toFixed(1)}\u00a0%`;
    });
    const text = `After ${(this.now?.epoch ?? 0).toFixed(1)} epochs: ${texts.join(", ")}.`;
    this.at("chart-text").textContent = text;
    this.at("now").textContent = text;
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
    return withState(this.carried[this.set].saved[rule], state);
  }

  async save(rule) {
    const blob = new Blob([await this.bytes(rule)], { type: "application/octet-stream" });
    const link = document.createElement("a");
    link.href = URL.createObjectURL(blob);
    link.download = `${this.set}-${rule}.safetensors`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
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
