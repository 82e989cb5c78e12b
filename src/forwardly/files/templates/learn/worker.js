// The thread that computes. It answers {id, call, given} by {id, result} or {id, error}, and tells
// of what runs by {event: snapshot}.

let ort; // onnxruntime-web
const images = {}; // of sets of digits
const drawings = {}; // of the visitor's, for each set
const models = {};
const tasks = {};
const paces = {}; // of what runs: steps a second
const SLICE = 30; // milliseconds between two looks at messages

const calls = {
  async begin({ runtime, wasm, steps }) {
    // An address of this thread's own: from a disk, those of others are closed to it.
    const own = () => URL.createObjectURL(new Blob([runtime], { type: "text/javascript" }));
    ort = await import(typeof runtime === "string" ? runtime : own());
    ort.env.wasm.numThreads = 1;
    ort.env.wasm.wasmBinary = wasm;
    for (const [name, bytes] of Object.entries(steps)) models[name] = await Exported.load(bytes);
    return ort.env.versions.web;
  },

  // The images of a set of digits.
  async give({ set, given }) {
    images[set] = given;
    drawings[set] = [];
  },

  async start({ task, settings }) {
    delete paces[task];
    const made =
      task === "teacher" ? new TeacherTask(models, settings) : digitsTask(settings);
    await made.measure();
    tasks[task] = made;
    return made.snapshot();
  },

  async run({ task, pace }) {
    paces[task] = pace;
    loop(task);
  },

  async pause({ task }) {
    delete paces[task];
  },

  async one({ task }) {
    await tasks[task].advance();
    await tasks[task].measure();
    return tasks[task].snapshot();
  },

  async change({ task, settings }) {
    tasks[task].change(settings);
    return tasks[task].snapshot();
  },

  async spoil() {
    return tasks.teacher.spoil();
  },

  async look({ sample }) {
    return tasks.teacher.look(sample);
  },

  async read({ picture }) {
    return tasks.digits.read(picture);
  },

  async teach({ picture, target }) {
    tasks.digits.own.push({ x: picture, target });
    return tasks.digits.own.length;
  },

  async forget() {
    tasks.digits.own.length = 0;
  },

  async state({ task, rule }) {
    return tasks[task].learners[rule].plain();
  },

  // For tests: so many steps of a model on one batch, from a state that they give.
  async steps({ model, state, x, target, rate, count }) {
    const learner = new Learner(models[model], state);
    const given = [
      tensor(Float32Array.from(x.data), x.shape),
      target.classes
        ? tensor(BigInt64Array.from(target.data, BigInt), target.shape, "int64")
        : tensor(Float32Array.from(target.data), target.shape),
    ];
    const losses = [];
    for (let i = 0; i < count; i++) losses.push((await learner.step(...given, rate)).loss);
    return { losses, state: learner.plain() };
  },

  // For tests: the digits by batches and from a state that they give.
  async learnDigits({ settings, state, batches }) {
    const task = digitsTask(settings);
    for (const rule of RULES) task.learners[rule] = new Learner(task.exported(rule), state);
    for (const chosen of batches) await task.learn(chosen);
    const found = {};
    for (const rule of RULES) [found[rule]] = await task.measured(rule);
    return found;
  },
};

const digitsTask = (settings) =>
  new DigitsTask(models, settings, images[settings.set], drawings[settings.set]);

// Calls one after another: none sees a step half done.
let last = Promise.resolve();
const inTurn = (work) => (last = last.then(work, work));

onmessage = ({ data: { id, call, given } }) =>
  inTurn(async () => {
    try {
      postMessage({ id, result: await calls[call](given ?? {}) });
    } catch (error) {
      postMessage({ id, error: String(error?.message ?? error) });
    }
  });

const looping = new Set();

async function loop(name) {
  if (looping.has(name)) return;
  looping.add(name);
  while (paces[name] && !tasks[name].done) {
    const start = performance.now();
    await inTurn(() => slice(name, start));
    // Messages come in between; at a slow pace there is time left.
    const rest = paces[name] < 1000 ? SLICE - (performance.now() - start) : 0;
    await new Promise((resolve) => setTimeout(resolve, Math.max(rest, 0)));
  }
  looping.delete(name);
}

const owed = {}; // parts of steps

async function slice(name, start) {
  const task = tasks[name];
  owed[name] = Math.min((owed[name] ?? 0) + (paces[name] * SLICE) / 1000, paces[name]);
  let moved = false;
  try {
    while (paces[name] && owed[name] >= 1 && !task.done) {
      await task.advance();
      moved = true;
      owed[name] -= 1;
      if (performance.now() - start > SLICE) break;
    }
    if (task.done) delete paces[name];
    if (moved) postMessage({ event: task.snapshot() });
  } catch (error) {
    delete paces[name];
    postMessage({ event: { task: name, error: String(error?.message ?? error) } });
  }
}
