// Begins: unpacks what the page carries, hands it to the thread, and wakes the sections.

// Nothing can be pressed before there is something to answer.
const controls = [...document.querySelectorAll("main :is(button, input, select):enabled")];
const enable = (on) => controls.forEach((control) => (control.disabled = !on));

async function begin() {
  enable(false);
  readPalette();
  if (!window.DecompressionStream || !window.Worker || !window.WebAssembly) {
    throw new Error("this browser is too old; any of the last years will do");
  }
  const data = JSON.parse(new TextDecoder().decode(await unpacked("payload-data")));
  const steps = {};
  for (const [name, { train, predict }] of Object.entries(data.steps)) {
    steps[name] = { train: fromBase64(train), predict: fromBase64(predict) };
  }
  const digits = {};
  for (const [part, { x, target }] of Object.entries(data.digits)) {
    digits[part] = {
      x: Float32Array.from(fromBase64(x), (value) => value / 16),
      target: fromBase64(target),
    };
  }
  const saved = Object.fromEntries(
    Object.entries(data.saved).map(([rule, bytes]) => [rule, fromBase64(bytes)]),
  );
  const thread = new Thread();
  const hosted = $("payload-runtime").dataset.href;
  const runtime = hosted
    ? new URL(hosted, document.baseURI).href
    : await unpacked("payload-runtime");
  const wasm = await unpacked("payload-wasm");
  $("status").textContent = "Getting ready: reading the exported steps …";
  const version = await thread.ask("begin", { runtime, wasm, steps, data: digits });

  const teacher = new Teacher(thread);
  const reader = new Digits(thread, digits, saved);
  window.forwardly = {
    test: { ask: (call, given) => thread.ask(call, given), bytes: (rule) => reader.bytes(rule) },
    teacher,
    digits: reader,
  };
  await teacher.start();
  await reader.start();
  const redraw = () => {
    readPalette();
    teacher.draw();
    teacher.passes.draw();
    reader.draw();
    reader.pad.draw();
  };
  redraw();
  new ResizeObserver(redraw).observe(document.body);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
  document.addEventListener("visibilitychange", () => {
    if (document.hidden) [teacher, reader].forEach((one) => one.running && one.run(false));
  });
  enable(true);
  $("status").textContent = `Ready: ONNX Runtime Web ${version}, one thread, nothing from elsewhere.`;
  document.documentElement.dataset.state = "ready";
  const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
  if (!still && !location.hash.includes("still")) await teacher.run(true);
}

begin().catch((error) => {
  $("status").textContent = `It cannot learn here: ${error.message}`;
  document.documentElement.dataset.state = "failed";
});
