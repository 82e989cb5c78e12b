// What is learned: the blog post's teacher, and digits. Three rules each, from equal weights.

const RULES = ["pepita", "readout-only", "backprop"];
const W1 = "model.0.weight";
const W2 = "model.2.weight";

// y = W2 relu(W1 x) of samples in rows; for the teacher's targets and for drawings of passes.
function layers(weights, x, sizes) {
  const [d, h, k] = sizes;
  const samples = x.length / d;
  const hidden = new Float32Array(samples * h);
  const output = new Float32Array(samples * k);
  for (let s = 0; s < samples; s++) {
    for (let j = 0; j < h; j++) {
      let sum = 0;
      for (let i = 0; i < d; i++) sum += weights[0][j * d + i] * x[s * d + i];
      hidden[s * h + j] = Math.max(sum, 0);
    }
    for (let o = 0; o < k; o++) {
      let sum = 0;
      for (let j = 0; j < h; j++) sum += weights[1][o * h + j] * hidden[s * h + j];
      output[s * k + o] = sum;
    }
  }
  return { hidden, output };
}

function meanAbsolute(outputs, targets) {
  let sum = 0;
  for (let i = 0; i < outputs.length; i++) sum += Math.abs(outputs[i] - targets[i]);
  return sum / outputs.length;
}

// Three rules that learn the same from equal weights.
class Task {
  // name: the page's; steps: what names of exported steps begin with; last: epoch;
  // settings: seed, length of F, rate, presynaptic
  constructor(name, models, steps, last, settings) {
    Object.assign(this, { name, models, steps, last, settings });
    this.random = new Random(settings.seed);
    this.learners = {};
    this.rows = {};
    this.diverged = {};
  }

  // Give all rules their weights, and PEPITA an F of the length that is set.
  equip(weights, unitF, shape) {
    this.unitF = unitF;
    const F = { data: unitF.map((f) => f * this.settings.length), shape };
    for (const rule of RULES) {
      this.learners[rule] = new Learner(this.exported(rule), { ...weights, F });
      this.rows[rule] = [];
    }
  }

  exported(rule) {
    const form = rule === "pepita" ? `pepita-${this.settings.presynaptic}` : rule;
    return this.models[`${this.steps}/${form}`];
  }

  // Settings that may change on the way: the rate, F's length, the presynaptic term.
  change(settings) {
    Object.assign(this.settings, settings);
    const { pepita } = this.learners;
    const F = this.unitF.map((f) => f * this.settings.length);
    pepita.state.F = tensor(F, pepita.state.F.dims);
    pepita.exported = this.exported("pepita");
    this.diverged = {};
  }

  get done() {
    return this.epoch >= this.last || RULES.every((rule) => this.diverged[rule]);
  }

  // One step of every rule that has not diverged.
  async learnFrom(x, target, rate) {
    for (const rule of RULES) {
      if (this.diverged[rule]) continue;
      const result = await this.learners[rule].step(x, target, rate);
      if (result.kept) this.diverged[rule] = { ...result, epoch: this.epoch };
    }
  }

  async measure() {
    for (const rule of RULES) {
      if (this.diverged[rule] || this.rows[rule].at(-1)?.[0] === this.epoch) continue;
      this.rows[rule].push([this.epoch, ...(await this.measured(rule))]);
    }
  }

  snapshot(others) {
    const { name, epoch, rows, diverged, done, last } = this;
    return { task: name, epoch, rows, diverged, done, last, ...others };
  }
}

class TeacherTask extends Task {
  static sizes = [16, 8, 1];
  static samples = { train: 1000, validation: 500 };

  // The rate is on updates summed over the samples, and F's length its bound.
  constructor(models, settings) {
    super("teacher", models, "teacher", 100000, settings);
    const { random } = this;
    const [d, h, k] = TeacherTask.sizes;
    const teacher = [random.normals(h * d, 0.5), random.normals(k * h, 0.5)];
    const draw = (samples) => {
      const x = Float32Array.from({ length: samples * d }, () => random.uniform());
      const y = layers(teacher, x, TeacherTask.sizes).output;
      return { x: tensor(x, [samples, d]), target: tensor(y, [samples, k]), y };
    };
    this.train = draw(TeacherTask.samples.train);
    this.validation = draw(TeacherTask.samples.validation);
    const unitF = random.uniforms(d * k, 1);
    const weights = {
      [W1]: { data: random.uniforms(h * d, 0.5), shape: [h, d] },
      [W2]: { data: random.uniforms(k * h, 0.5), shape: [k, h] },
    };
    this.equip(weights, unitF, [d, k]);
    this.epoch = 0;
    this.next = 0;
  }

  // One update of every rule by all samples.
  async advance() {
    const { x, target } = this.train;
    this.epoch += 1;
    // A step takes the mean.
    await this.learnFrom(x, target, this.settings.rate * TeacherTask.samples.train);
    if (this.epoch >= this.next) await this.measure();
  }

  async measure() {
    this.next = Math.max(this.epoch + 1, Math.ceil(this.epoch * 1.04));
    await super.measure();
  }

  async measured(rule) {
    const parts = [];
    for (const { x, y } of [this.train, this.validation]) {
      parts.push(meanAbsolute(await this.learners[rule].predict(x), y));
    }
    return parts;
  }

  // A step on data with one NaN in it. What becomes of each rule is told.
  async spoil() {
    const y = this.train.y.slice();
    y[0] = NaN;
    const spoiled = tensor(y, this.train.target.dims);
    const told = {};
    for (const rule of RULES) {
      const before = this.learners[rule].plain();
      told[rule] = await this.learners[rule].step(this.train.x, spoiled, this.settings.rate);
      const after = this.learners[rule].plain();
      told[rule].same = Object.keys(before).every((name) =>
        before[name].data.every((value, i) => Object.is(value, after[name].data[i])),
      );
    }
    return told;
  }

  // PEPITA's step on one sample. Passes are worked out here; the updates are the exported step's.
  async look(sample) {
    const [d, , k] = TeacherTask.sizes;
    const learner = this.learners.pepita;
    const x = this.train.x.data.slice(sample * d, (sample + 1) * d);
    const target = this.train.y.slice(sample * k, (sample + 1) * k);
    const weights = [learner.state[W1].data.slice(), learner.state[W2].data.slice()];
    const F = learner.state.F.data.slice();
    const clean = layers(weights, x, TeacherTask.sizes);
    const e = clean.output.map((output, i) => output - target[i]);
    const modulatedX = x.map((value, i) => {
      let sum = value;
      for (let o = 0; o < k; o++) sum += F[i * k + o] * e[o];
      return sum;
    });
    const modulated = layers(weights, modulatedX, TeacherTask.sizes);
    const results = await learner.trial(tensor(x, [1, d]), tensor(target, [1, k]), 1);
    const updates = [W1, W2].map((name, l) =>
      weights[l].map((w, i) => w - results[NEW + name].data[i]),
    );
    const { presynaptic } = this.settings;
    return { sample, x, target, weights, F, clean, e, modulatedX, modulated, updates, presynaptic };
  }

  snapshot() {
    const weights = {};
    for (const rule of RULES) {
      const { state } = this.learners[rule];
      weights[rule] = [state[W1].data.slice(), state[W2].data.slice()];
    }
    return super.snapshot({ weights });
  }
}

class DigitsTask extends Task {
  static batch = 32;
  static own = 4; // at most so many of a batch are drawings of the visitor's

  // settings.set: which digits; images: {full: what is ink, train and test: {x, target}};
  // own: drawings
  constructor(models, settings, images, own) {
    const { side, hidden, last } = sets[settings.set];
    super("digits", models, settings.set, last, settings);
    Object.assign(this, { images, own, step: 0, order: [] });
    const [d, h, k] = (this.sizes = [side * side, hidden, 10]);
    const weights = {
      [W1]: { data: this.random.normals(h * d, Math.sqrt(2 / d)), shape: [h, d] },
      [W2]: { data: this.random.normals(k * h, Math.sqrt(2 / h)), shape: [k, h] },
    };
    this.equip(weights, this.random.uniforms(d * k, Math.sqrt(6 / d)), [d, k]);
    const { x, target } = images.test;
    this.testX = tensor(Float32Array.from(x, (value) => value / images.full), [target.length, d]);
  }

  get perEpoch() {
    return Math.floor(this.images.train.target.length / DigitsTask.batch);
  }

  get epoch() {
    return this.step / this.perEpoch;
  }

  batch(chosen) {
    const [d] = this.sizes;
    const { full, train } = this.images;
    const x = new Float32Array(chosen.length * d);
    const target = new BigInt64Array(chosen.length);
    chosen.forEach((from, i) => {
      for (let j = 0; j < d; j++) x[i * d + j] = train.x[from * d + j] / full;
      target[i] = BigInt(train.target[from]);
    });
    const own = Math.min(this.own.length, DigitsTask.own);
    for (let i = 0; i < own; i++) {
      const drawing = this.own[this.random.below(this.own.length)];
      x.set(drawing.x, i * d);
      target[i] = BigInt(drawing.target);
    }
    return [tensor(x, [chosen.length, d]), tensor(target, [chosen.length], "int64")];
  }

  async advance() {
    const within = this.step % this.perEpoch;
    if (within === 0) this.order = this.random.order(this.images.train.target.length);
    const start = within * DigitsTask.batch;
    await this.learn(this.order.subarray(start, start + DigitsTask.batch));
    if (this.step % sets[this.settings.set].every === 0) await this.measure();
  }

  async learn(chosen) {
    const [x, target] = this.batch(chosen);
    this.step += 1;
    await this.learnFrom(x, target, this.settings.rate);
  }

  // The share of the test that is read right.
  async measured(rule) {
    const outputs = await this.learners[rule].predict(this.testX);
    const { target } = this.images.test;
    let right = 0;
    for (let i = 0; i < target.length; i++) right += largest(outputs, i) === target[i];
    return [right / target.length];
  }

  // Probabilities of each class for one picture, by rule; none of another set's picture.
  async read(picture) {
    const [d] = this.sizes;
    const found = {};
    if (picture.length !== d) return found;
    const x = tensor(picture, [1, d]);
    for (const rule of RULES) found[rule] = softmax(await this.learners[rule].predict(x));
    return found;
  }

  snapshot() {
    return super.snapshot({ own: this.own.length });
  }
}

function largest(outputs, sample, classes = 10) {
  const own = outputs.subarray(sample * classes, (sample + 1) * classes);
  return own.indexOf(Math.max(...own));
}

function softmax(outputs) {
  const top = Math.max(...outputs);
  const powers = Array.from(outputs, (z) => Math.exp(z - top));
  const sum = powers.reduce((a, b) => a + b);
  return powers.map((p) => p / sum);
}
