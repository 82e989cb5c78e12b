// Section 1: the controls, curves and networks of the students.

class Teacher {
  constructor(thread) {
    this.thread = thread;
    this.running = false;
    const at = (epoch) => Math.log10(1 + epoch) / 5;
    const ticks = [[0, "0"], [10, "10"], [100, "100"], [1e3, "1k"], [1e4, "10k"], [1e5, "100k"]];
    const share = (mae) => Math.log10(mae / 0.01) / Math.log10(400);
    const error = (mae) => Math.max(-0.1, Math.min(1.1, share(mae))); // what diverges leaves
    const errors = [0.01, 0.03, 0.1, 0.3, 1, 3].map((v) => [v, String(v)]);
    this.chart = new Chart(
      $("teacher-chart"),
      { place: at, ticks },
      { place: error, ticks: errors },
      "epochs",
    );
    this.networks = Object.fromEntries(
      rules.map((rule) => [rule, new NetworkDrawing($(`network-${rule}`).querySelector("canvas"))]),
    );
    this.passes = new Passes($("passes"), $("passes-list"), $("passes-said"));
    this.sample = 0;
    this.drawing = () => this.draw();
    this.listen();
    this.values();
  }

  get settings() {
    return {
      seed: Number($("teacher-seed").value),
      bound: Number($("teacher-bound").value),
      rate: 10 ** Number($("teacher-rate").value),
      presynaptic: document.querySelector("[name=teacher-pre]:checked").value,
    };
  }

  values() {
    const { seed, bound, rate } = this.settings;
    $("teacher-seed-value").textContent = seed;
    $("teacher-bound-value").textContent = bound.toFixed(2);
    $("teacher-rate-value").textContent = rate.toPrecision(2);
  }

  listen() {
    $("teacher-run").onclick = () => this.run(!this.running);
    $("teacher-one").onclick = async () => {
      await this.run(false);
      this.update(await this.thread.ask("one", { task: "teacher" }));
      this.look();
    };
    $("teacher-reset").onclick = () => this.start();
    $("teacher-break").onclick = () => this.spoil();
    $("teacher-pace").onchange = () => this.running && this.run(true);
    $("teacher-seed").oninput = () => {
      this.values();
      clearTimeout(this.soon);
      this.soon = setTimeout(() => this.start(), 150);
    };
    const change = async () => {
      this.values();
      this.update(await this.thread.ask("change", { task: "teacher", settings: this.settings }));
      this.look();
    };
    $("teacher-rate").oninput = $("teacher-bound").oninput = change;
    for (const radio of document.getElementsByName("teacher-pre")) radio.onchange = change;
    $("passes-play").onclick = async () => {
      await this.look();
      this.passes.play();
    };
    const go = (by) => () => {
      this.passes.stop();
      this.passes.go(this.passes.part + by);
    };
    $("passes-back").onclick = go(-1);
    $("passes-next").onclick = go(1);
    $("passes-other").onclick = () => {
      this.sample = (this.sample + 1) % 1000;
      this.look();
    };
    this.thread.listeners.teacher = (snapshot) => this.update(snapshot);
  }

  async start() {
    const running = this.running;
    await this.run(false);
    this.chart.marks = [];
    this.say("");
    this.update(await this.thread.ask("start", { task: "teacher", settings: this.settings }));
    await this.look();
    if (running) await this.run(true);
  }

  async run(on) {
    if (on && this.now.epoch >= 100000) this.say("100,000 epochs are done: start over, or try another seed.");
    this.running = on && !this.now.done;
    on = this.running;
    $("teacher-run").textContent = on ? "Pause" : "Learn";
    const pace = Number($("teacher-pace").value);
    await this.thread.ask(on ? "run" : "pause", { task: "teacher", pace });
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
    for (const rule of rules) this.networks[rule].weights = snapshot.weights[rule];
    draw(this.drawing);
    if (snapshot.done && this.running) this.run(false);
    const ended = rules.filter((rule) => snapshot.diverged[rule]);
    if (ended.length && ended.join() !== this.ended) {
      const told = ended.map((rule) => `${titles[rule]} in epoch ${snapshot.diverged[rule].epoch}`);
      this.say(
        `Diverged: ${told.join(", ")}. The step came to no finite numbers, and the last finite ` +
          "weights were kept. A lower learning rate lets it go on from them.",
        true,
      );
    }
    if (this.ended && !ended.length) this.say("");
    this.ended = ended.join();
  }

  draw() {
    this.chart.draw();
    const texts = [];
    for (const rule of rules) {
      this.networks[rule].draw();
      const [, training, fresh] = this.now?.rows[rule].at(-1) ?? [];
      const figure = $(`network-${rule}`);
      figure.querySelector(".training").textContent = short(training);
      figure.querySelector(".new").textContent = short(fresh);
      texts.push(`${titles[rule]} ${short(training)}`);
    }
    $("teacher-chart-text").textContent =
      `Training error after ${this.now?.epoch ?? 0} epochs: ${texts.join(", ")}.`;
  }

  // The step that is drawn pass by pass, from the state as it is now.
  async look() {
    this.passes.show(await this.thread.ask("look", { sample: this.sample }));
  }

  async spoil() {
    const told = await this.thread.ask("spoil");
    this.chart.marks.push(this.now.epoch);
    const lines = rules.map((rule) => {
      const { loss, kept, spoiled, weights, same } = told[rule];
      const found = `${titles[rule]}: loss ${loss}, ${spoiled} of ${weights} new weights are no numbers`;
      return kept && same ? `${found}; thrown away, the old weights kept.` : `${found}; NOT kept!`;
    });
    this.say(`One of the 1,000 answers was made NaN, “not a number”.\n${lines.join("\n")}`, true);
    for (const rule of rules) {
      const { classList } = $(`network-${rule}`);
      classList.toggle("kept", told[rule].kept);
      setTimeout(() => classList.remove("kept"), 3000);
    }
    draw(this.drawing);
    return told;
  }

  say(text, bad = false) {
    $("teacher-said").textContent = text;
    $("teacher-said").classList.toggle("bad", bad);
  }
}
