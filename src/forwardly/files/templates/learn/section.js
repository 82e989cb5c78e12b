// What the sections share: the controls of a task of the thread's, and what they say of it.

class Section {
  // task: "teacher" or "digits", with which the names of its elements begin
  constructor(thread, task) {
    Object.assign(this, { thread, task, running: false, sample: 0 });
    this.drawing = () => this.draw();
    this.at("run").onclick = () => this.run(!this.running);
    this.at("one").onclick = async () => {
      await this.run(false);
      this.update(await this.ask("one"));
      await this.look();
    };
    this.at("reset").onclick = () => this.start();
    this.at("seed").oninput = () => {
      this.values();
      clearTimeout(this.soon);
      this.soon = setTimeout(() => this.start(), 150);
    };
    const change = async () => {
      this.values();
      this.update(await this.ask("change", { settings: this.settings }));
      await this.look();
    };
    this.at("rate").oninput = this.at("length").oninput = change;
    for (const radio of document.getElementsByName(`${task}-pre`)) radio.onchange = change;
    thread.listeners[task] = (snapshot) => this.update(snapshot);
    this.values();
  }

  at(part) {
    return $(`${this.task}-${part}`);
  }

  ask(call, given) {
    return this.thread.ask(call, { task: this.task, ...given });
  }

  get settings() {
    return {
      seed: Number(this.at("seed").value),
      length: Number(this.at("length").value), // of F
      rate: 10 ** Number(this.at("rate").value),
      presynaptic: document.querySelector(`[name=${this.task}-pre]:checked`).value,
    };
  }

  get pace() {
    return 100000; // steps a second: as fast as it goes
  }

  values() {
    const { seed, length, rate } = this.settings;
    this.at("seed-value").textContent = seed;
    this.at("length-value").textContent = length.toFixed(2);
    this.at("rate-value").textContent = rate.toPrecision(2);
  }

  async start() {
    const { running } = this;
    await this.run(false);
    this.chart.marks = [];
    this.say("");
    this.update(await this.ask("start", { settings: this.settings }));
    await this.look();
    if (running) await this.run(true);
  }

  async run(on) {
    if (on && this.now.epoch >= this.now.last) {
      this.say(`${grouped(this.now.last)} epochs are done: start over, or try another seed.`);
    }
    this.running = on && !this.now.done;
    on = this.running;
    this.at("run").textContent = on ? "Pause" : "Learn";
    await this.ask(on ? "run" : "pause", { pace: this.pace });
    if (!on && this.now) await this.look();
  }

  update(snapshot) {
    if (snapshot.error) {
      this.say(`The step failed: ${snapshot.error}`, true);
      this.run(false);
      return;
    }
    this.now = snapshot;
    this.chart.rows = snapshot.rows;
    draw(this.drawing);
    if (snapshot.done && this.running) this.run(false);
    const ended = rules.filter((rule) => snapshot.diverged[rule]);
    if (ended.length && ended.join() !== this.ended) {
      const epoch = (rule) => Math.ceil(snapshot.diverged[rule].epoch);
      const told = ended.map((rule) => `${titles[rule]} in epoch ${epoch(rule)}`);
      this.say(
        `Diverged: ${told.join(", ")}. The step came to no finite numbers, and the last finite ` +
          "weights were kept. A lower learning rate or a shorter F lets it go on from them.",
        true,
      );
    }
    if (this.ended && !ended.length) this.say("");
    this.ended = ended.join();
  }

  // What a section shows of its state besides curves, once it stands still.
  async look() {}

  say(text, bad = false) {
    this.at("said").textContent = text;
    this.at("said").classList.toggle("bad", bad);
  }
}

const grouped = (number) => String(number).replace(/\B(?=(\d{3})+$)/g, ",");
