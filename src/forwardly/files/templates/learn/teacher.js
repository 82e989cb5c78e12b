// Section 1: the controls, curves and networks of the students.

class Teacher extends Section {
  constructor(thread) {
    super(thread, "teacher");
    const at = (epoch) => Math.log10(1 + epoch) / 5;
    const ticks = [[0, "0"], [10, "10"], [100, "100"], [1e3, "1k"], [1e4, "10k"], [1e5, "100k"]];
    const share = (mae) => Math.log10(mae / 0.01) / Math.log10(400);
    const error = (mae) => Math.max(-0.1, Math.min(1.1, share(mae))); // what diverges leaves
    const errors = [0.01, 0.03, 0.1, 0.3, 1, 3].map((v) => [v, String(v)]);
    this.chart = new Chart(
      this.at("chart"),
      { place: at, ticks },
      { place: error, ticks: errors },
      "epochs",
    );
    this.networks = Object.fromEntries(
      rules.map((rule) => [rule, new NetworkDrawing($(`network-${rule}`).querySelector("canvas"))]),
    );
    this.passes = new Passes($("passes"), $("passes-list"), $("passes-said"));
    this.at("break").onclick = () => this.spoil();
    this.at("pace").onchange = () => this.running && this.run(true);
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
  }

  get pace() {
    return Number(this.at("pace").value);
  }

  update(snapshot) {
    if (snapshot.weights) {
      for (const rule of rules) this.networks[rule].weights = snapshot.weights[rule];
    }
    super.update(snapshot);
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
    this.at("chart-text").textContent =
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
}
