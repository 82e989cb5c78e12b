// A rule that learns by running its exported step: state in, new state out.

const NEW = "new.";

class Exported {
  // The two graphs of an exported step, ready to run.
  static async load(bytes) {
    const exported = new Exported();
    const options = { executionProviders: ["wasm"] };
    exported.train = await ort.InferenceSession.create(bytes.train, options);
    exported.predict = await ort.InferenceSession.create(bytes.predict, options);
    return exported;
  }
}

const tensor = (data, shape, type = "float32") => new ort.Tensor(type, data, shape);

class Learner {
  // state: {name: {data, shape}}; only what the graph asks for is taken.
  constructor(exported, state) {
    this.exported = exported;
    this.state = {};
    for (const [name, value] of Object.entries(state)) {
      this.state[name] = tensor(Float32Array.from(value.data), value.shape);
    }
    this.steps = 0;
  }

  feeds(session, others) {
    const known = { ...this.state, ...others };
    return Object.fromEntries(session.inputNames.map((name) => [name, known[name]]));
  }

  // What one step would come to; nothing has changed yet.
  async trial(x, target, rate) {
    const session = this.exported.train;
    const learning_rate = tensor(Float32Array.of(rate), []);
    return session.run(this.feeds(session, { x, target, learning_rate }));
  }

  // Take a step. The old state stays where the loss or a new weight is no finite number.
  async step(x, target, rate) {
    const results = await this.trial(x, target, rate);
    const fresh = Object.entries(results).filter(([name]) => name.startsWith(NEW));
    const loss = results.loss.data[0];
    let spoiled = 0;
    let weights = 0;
    for (const [, value] of fresh) {
      weights += value.data.length;
      for (const number of value.data) spoiled += !Number.isFinite(number);
    }
    const kept = spoiled > 0 || !Number.isFinite(loss);
    if (!kept) {
      for (const [name, value] of fresh) this.state[name.slice(NEW.length)] = value;
      this.steps += 1;
    }
    return { loss, kept, spoiled, weights, accuracy: results.accuracy?.data[0] };
  }

  async predict(x) {
    const session = this.exported.predict;
    return (await session.run(this.feeds(session, { x }))).output.data;
  }

  // The state as plain arrays, to be sent elsewhere.
  plain() {
    const entries = Object.entries(this.state);
    return Object.fromEntries(
      entries.map(([name, { data, dims }]) => [name, { data: data.slice(), shape: [...dims] }]),
    );
  }
}
