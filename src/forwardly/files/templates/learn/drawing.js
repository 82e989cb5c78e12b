// Canvases that are as sharp as the screen, in the colours of the page.

let palette = {};

function readPalette() {
  const style = getComputedStyle(document.documentElement);
  const names = ["ink", "soft", "line", "page", "panel", "pepita", "readout-only", "backprop"];
  for (const name of [...names, "positive", "negative", "bad", "lit"]) {
    palette[name] = style.getPropertyValue(`--${name}`).trim();
  }
}

const dashes = { pepita: [], "readout-only": [7, 4], backprop: [2, 3] };
const titles = { pepita: "PEPITA", "readout-only": "Readout only", backprop: "Backprop" };
const rules = Object.keys(titles);

// An empty canvas of its element's size: its context, width and height.
function blank(canvas) {
  const { clientWidth: width, clientHeight: height } = canvas;
  const scale = window.devicePixelRatio || 1;
  if (canvas.width !== Math.round(width * scale) || canvas.height !== Math.round(height * scale)) {
    canvas.width = Math.round(width * scale);
    canvas.height = Math.round(height * scale);
  }
  const context = canvas.getContext("2d");
  context.setTransform(scale, 0, 0, scale, 0, 0);
  context.clearRect(0, 0, width, height);
  context.font = "12px system-ui, sans-serif";
  return [context, width, height];
}

// Drawings, each at most once a frame.
const due = new Set();

function draw(what) {
  if (due.size === 0) {
    requestAnimationFrame(() => {
      const now = [...due];
      due.clear();
      for (const one of now) one();
    });
  }
  due.add(what);
}

const mix = (share) => `color-mix(in srgb, ${palette.lit} ${Math.round(100 * share)}%, ${palette.page})`;
