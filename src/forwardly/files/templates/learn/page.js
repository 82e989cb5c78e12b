// Begins: unpacks what the page carries, hands it to the thread, and wakes the sections.

// Nothing can be pressed before there is something to answer.
const controls = [...document.querySelectorAll("main :is(button, input, select):enabled")];
const enable = (on) => controls.forEach((control) => (control.disabled = !on));

// Images as the page has them: pixels and classes of so many to learn from, then those of the test.
function apart(bytes, set, { parts, full }) {
  const pixels = sets[set].side ** 2;
  const images = { full };
  let from = 0;
  for (const [part, count] of Object.entries(parts)) {
    const next = (size) => bytes.subarray(from, (from += size));
    images[part] = { x: next(count * pixels), target: next(count) };
  }
  if (from !== bytes.length) throw new Error("they are not as many as they should be");
  return images;
}

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
  const carried = {};
  for (const [name, own] of Object.entries(data.sets)) {
    const images = own.images && apart(fromBase64(own.images), name, own);
    const saved = Object.entries(own.saved).map(([rule, bytes]) => [rule, fromBase64(bytes)]);
    carried[name] = { ...own, images, saved: Object.fromEntries(saved) };
  }
  const thread = new Thread();
  const hosted = $("payload-runtime").dataset.href;
  const runtime = hosted
    ? new URL(hosted, document.baseURI).href
    : await unpacked("payload-runtime");
  const wasm = await unpacked("payload-wasm");
  $("status").textContent = "Getting ready: reading the exported steps …";
  const version = await thread.ask("begin", { runtime, wasm, steps });
  await thread.ask("give", { set: "digits", given: carried.digits.images });

  const teacher = new Teacher(thread);
  const reader = new Digits(thread, carried, async (set) => {
    const given = apart(new Uint8Array(await unpacked(`payload-${set}`)), set, carried[set]);
    await thread.ask("give", { set, given });
    return given;
  });
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
