// One step of PEPITA on one sample, its two passes one after another.

const PARTS = ["Question", "Clean pass", "Error", "F e arrives", "Modulated pass", "Updates"];
const MOVE = 900; // milliseconds of a part that moves
const REST = 1900; // and until the next

class Passes {
  constructor(canvas, list, said) {
    Object.assign(this, { canvas, list, said, step: null, part: 0, moved: 1, playing: false });
    for (const part of PARTS) {
      const item = document.createElement("li");
      item.textContent = part;
      list.append(item);
    }
  }

  show(step) {
    this.step = step;
    this.go(this.part, false);
  }

  // Go to a part; things move there unless the visitor wants no motion.
  go(part, moving = true) {
    this.part = Math.max(0, Math.min(PARTS.length - 1, part));
    [...this.list.children].forEach((item, i) => {
      if (i === this.part) item.setAttribute("aria-current", "step");
      else item.removeAttribute("aria-current");
    });
    if (this.step) this.said.textContent = this.words();
    const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
    const start = performance.now();
    const frame = () => {
      this.moved = moving && !still ? Math.min((performance.now() - start) / MOVE, 1) : 1;
      this.draw();
      if (this.moved < 1 && this.current === frame) requestAnimationFrame(frame);
    };
    this.current = frame;
    frame();
  }

  async play() {
    const run = (this.playing = {});
    for (let part = 0; part < PARTS.length; part++) {
      this.go(part);
      await new Promise((resolve) => setTimeout(resolve, MOVE + REST));
      if (this.playing !== run) return;
    }
    this.playing = false;
  }

  stop() {
    this.playing = false;
  }

  words() {
    const { target, clean, e, modulated, F, updates, presynaptic } = this.step;
    const sum = Math.hypot(...F);
    const moved = Math.hypot(...F.map((f) => f * e[0]));
    const changes = clean.hidden.filter((h, j) => h !== modulated.hidden[j]).length;
    return [
      `Sixteen numbers from 0 to 1 come in, the fuller a circle the larger. The teacher's answer is ${short(target[0])}.`,
      `They pass through both layers, as in any network. The student's answer is ${short(clean.output[0])}.`,
      `Its error e is ${short(clean.output[0])} − ${enclosed(target[0])} = ${short(e[0])}. The last layer can learn from it at once; the hidden layer does not know it.`,
      `F, sixteen random numbers of length ${short(sum)}, takes the error to the input: each number is moved a little, all together by ${short(moved)}. No weight is passed on the way.`,
      `The moved input goes through the same weights. ${changes} of 8 hidden units answer differently than before; rings show how (drawn larger than they are). That difference is all the hidden layer hears of the error.`,
      `Each weight changes by what its two ends know. Hidden: (clean − modulated activity) × its ${presynaptic} input. Last layer: e × its ${presynaptic} input. Lines show what is subtracted, times the learning rate; the largest is ${short(Math.max(...updates.flatMap((u) => [...u].map(Math.abs))))}. These numbers come out of the exported step.`,
    ][this.part];
  }

  draw() {
    const [c, width, height] = blank(this.canvas);
    if (!this.step) return;
    const { x, weights, clean, e, modulatedX, modulated, F, updates, target } = this.step;
    const { part, moved } = this;
    const [left, right] = [36, 104];
    const places = layout(width, height - 50, 0, [16, 8, 1]).map((layer, l) =>
      layer.map(([, y]) => [left + (l * (width - left - right)) / 2, y + 8]),
    );
    const radius = Math.min(8, height / 48);

    if (part === 5) {
      const own = updates.map((u) => Math.max(...[...u].map(Math.abs), 1e-12));
      updates.forEach((u, l) => connections(c, places[l], places[l + 1], u, own[l] / moved));
    } else {
      c.globalAlpha = 0.35;
      weights.forEach((w, l) => connections(c, places[l], places[l + 1], w, 1.6));
    }
    c.globalAlpha = 1;

    // The wave of a pass: how far each layer has been reached.
    const passing = part === 1 || part === 4;
    const reached = (l) => (passing ? Math.max(0, Math.min(1, moved * 3 - l)) : 1);
    if (passing && moved < 1) this.wave(c, places, moved);

    const shown = part >= 4 ? modulated : clean;
    const largest = Math.max(...clean.hidden, ...modulated.hidden, 1e-6);
    places[0].forEach((place, i) => {
      const value = part < 3 ? x[i] : x[i] + (modulatedX[i] - x[i]) * (part === 3 ? moved : 1);
      unit(c, place, radius, mix(Math.max(0, Math.min(1, value))), palette.soft);
    });
    places[1].forEach((place, j) => {
      const now = part === 0 ? 0 : part === 4 ? reached(1) : 1;
      const before = part >= 4 ? clean.hidden[j] : 0;
      const value = before + (shown.hidden[j] - before) * (part === 1 ? reached(1) : now);
      unit(c, place, radius + 1, mix(value / largest), palette.soft);
    });
    unit(c, places[2][0], radius + 3, palette.page, palette.ink);

    if (part >= 3) this.feedback(c, places, height, part === 3 ? moved : 1);
    if (part >= 3) {
      const most = Math.max(...[...F].map((f) => Math.abs(f * e[0])), 1e-12);
      this.rings(c, places[0], F.map((f) => f * e[0]), most, radius, part === 3 ? moved : 1);
    }
    if (part >= 4) {
      const differences = modulated.hidden.map((h, j) => h - clean.hidden[j]);
      const most = Math.max(...differences.map(Math.abs), 1e-12);
      this.rings(c, places[1], differences, most, radius + 1, part === 4 ? reached(2) : 1);
    }
    this.labels(c, places, part, { clean, e, target });
  }

  wave(c, places, moved) {
    const from = places[0][0][0];
    const to = places[2][0][0];
    const x = from + (to - from) * moved;
    const glow = c.createLinearGradient(x - 60, 0, x + 8, 0);
    glow.addColorStop(0, `color-mix(in srgb, ${palette.lit} 0%, transparent)`);
    glow.addColorStop(1, palette.lit);
    c.globalAlpha = 0.35;
    c.fillStyle = glow;
    c.fillRect(x - 60, 0, 68, places[0].at(-1)[1] + 10);
    c.globalAlpha = 1;
  }

  // The way of the error: from the output, beneath the network, to every input.
  feedback(c, places, height, moved) {
    const [x, y] = places[2][0];
    const left = places[0][0][0] - 22;
    const low = height - 22;
    c.strokeStyle = c.fillStyle = palette.bad;
    c.lineWidth = 2;
    const path = [[x, y + 14], [x, low], [left, low], [left, places[0][0][1]]];
    const lengths = path.slice(1).map(([a, b], i) => Math.hypot(a - path[i][0], b - path[i][1]));
    let rest = moved * lengths.reduce((a, b) => a + b);
    const drawn = [path[0]];
    lengths.forEach((length, i) => {
      if (rest <= 0) return;
      const part = Math.min(rest / length, 1);
      const [[a, b], [p, q]] = [path[i], path[i + 1]];
      drawn.push([a + (p - a) * part, b + (q - b) * part]);
      rest -= length;
    });
    line(c, drawn);
    if (moved === 1) for (const [px, py] of places[0]) line(c, [[left, py], [px - 10, py]]);
    c.textAlign = "center";
    c.textBaseline = "bottom";
    c.fillText("F e", (left + x) / 2, low - 3);
  }

  rings(c, places, values, most, radius, share) {
    places.forEach(([x, y], i) => {
      const size = (Math.abs(values[i]) / most) * share;
      if (!size) return;
      c.beginPath();
      c.arc(x, y, radius + 2 + 3 * size, 0, 7);
      c.lineWidth = 0.5 + 2.5 * size;
      c.strokeStyle = values[i] > 0 ? palette.positive : palette.negative;
      c.stroke();
    });
  }

  labels(c, places, part, { clean, e, target }) {
    const [x, y] = places[2][0];
    c.fillStyle = palette.ink;
    c.textBaseline = "middle";
    c.textAlign = "left";
    c.fillText(`teacher ${short(target[0])}`, x - 6, y - 42);
    if (part >= 1 && (part > 1 || this.moved === 1)) {
      c.fillText(`student ${short(clean.output[0])}`, x - 6, y - 26);
    }
    if (part >= 2) {
      c.fillStyle = palette.bad;
      c.font = "bold 13px system-ui, sans-serif";
      c.fillText(`e = ${short(e[0])}`, x + 8, y + 26);
      c.font = "12px system-ui, sans-serif";
    }
  }
}

const enclosed = (value) => (value < 0 ? `(${short(value)})` : short(value));

const short = (value) => {
  if (value === undefined || Number.isNaN(value)) return "–";
  const size = Math.abs(value);
  const text = size && (size < 0.001 || size >= 1e5) ? value.toExponential(1) : value.toPrecision(3);
  return text.replace("-", "−").replace("e+", "e");
};
