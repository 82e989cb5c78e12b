// A drawing board, and how the networks see what is drawn: as scikit-learn's digits were made, of
// 32 × 32 points of ink or paper, of which blocks of 4 × 4 are counted.

class Pad {
  constructor(canvas, seen, changed) {
    Object.assign(this, { canvas, seen, changed, pen: [0.5, 0.3], down: false, keys: false });
    this.ink = document.createElement("canvas");
    this.ink.width = this.ink.height = 256;
    this.ink.getContext("2d", { willReadFrequently: true });
    this.picture = new Float32Array(64);
    canvas.addEventListener("pointerdown", (event) => {
      canvas.setPointerCapture(event.pointerId);
      this.keys = false;
      this.to(this.place(event), false);
      this.pointer = event.pointerId;
      event.preventDefault();
      canvas.focus({ preventScroll: true });
    });
    canvas.addEventListener("pointermove", (event) => {
      if (event.pointerId !== this.pointer) return;
      for (const one of event.getCoalescedEvents?.() ?? [event]) this.to(this.place(one), true);
    });
    for (const end of ["pointerup", "pointercancel"]) {
      canvas.addEventListener(end, () => (this.pointer = null));
    }
    canvas.addEventListener("keydown", (event) => this.key(event));
    canvas.addEventListener("blur", () => {
      this.down = this.keys = false;
      this.draw();
    });
  }

  place(event) {
    const box = this.canvas.getBoundingClientRect();
    return [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
  }

  key(event) {
    const moves = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    if (event.key in moves) {
      const to = this.pen.map((at, i) => Math.max(0.08, Math.min(0.92, at + moves[event.key][i] / 24)));
      if (this.down) this.to(to, true);
      this.pen = to;
    } else if (event.key === " ") {
      this.down = !this.down;
      if (this.down) this.to(this.pen, false);
    } else if (event.key === "Delete" || event.key === "Backspace") {
      this.clear();
    } else {
      return;
    }
    this.keys = true;
    event.preventDefault();
    this.draw();
  }

  // Draw to a place, from the last one or a new stroke there.
  to(place, on) {
    if (this.shown) this.clear(); // what was put there is no drawing to go on with
    const c = this.ink.getContext("2d");
    const [from, to] = [on ? this.pen : place, place].map(([x, y]) => [x * 256, y * 256]);
    c.strokeStyle = "#000";
    c.lineWidth = 22;
    c.lineCap = c.lineJoin = "round";
    line(c, [from, to]);
    this.pen = place;
    this.look();
  }

  clear() {
    this.shown = false;
    this.ink.getContext("2d").clearRect(0, 0, 256, 256);
    this.look();
  }

  // Show a picture of the data set's in place of a drawing.
  put(picture) {
    this.clear();
    const c = this.ink.getContext("2d");
    picture.forEach((value, i) => {
      c.fillStyle = `rgba(0, 0, 0, ${value})`;
      c.fillRect((i % 8) * 32, Math.floor(i / 8) * 32, 32, 32);
    });
    this.picture = Float32Array.from(picture);
    this.shown = true;
    this.draw();
    this.changed();
  }

  look() {
    this.picture = reduced(this.ink);
    this.draw();
    this.changed();
  }

  get empty() {
    return this.picture.every((value) => value === 0);
  }

  draw() {
    const [c, width, height] = blank(this.canvas);
    c.drawImage(this.ink, 0, 0, width, height);
    if (this.keys) {
      c.strokeStyle = this.down ? "#b3261e" : "#2f6fd0";
      c.lineWidth = 2;
      c.beginPath();
      c.arc(this.pen[0] * width, this.pen[1] * height, 0.05 * width, 0, 7);
      c.stroke();
    }
    const [s, side] = blank(this.seen);
    this.picture.forEach((value, i) => {
      s.fillStyle = `rgba(0, 0, 0, ${value})`;
      const [x, y] = [i % 8, Math.floor(i / 8)].map((at) => Math.round((at * side) / 8));
      s.fillRect(x, y, Math.ceil(side / 8), Math.ceil(side / 8));
    });
  }
}

function reduced(ink) {
  const { data } = ink.getContext("2d").getImageData(0, 0, 256, 256);
  let [left, top, right, bottom] = [256, 256, -1, -1];
  for (let i = 3; i < data.length; i += 4) {
    if (data[i] < 128) continue;
    const [x, y] = [((i - 3) / 4) % 256, Math.floor((i - 3) / 1024)];
    [left, right] = [Math.min(left, x), Math.max(right, x)];
    [top, bottom] = [Math.min(top, y), Math.max(bottom, y)];
  }
  const picture = new Float32Array(64);
  if (right < 0) return picture;
  const scale = 32 / (Math.max(right - left, bottom - top) + 1);
  const middle = [(left + right + 1) / 2, (top + bottom + 1) / 2];
  for (let y = 0; y < 32; y++) {
    for (let x = 0; x < 32; x++) {
      const column = Math.floor(middle[0] + (x + 0.5 - 16) / scale);
      const row = Math.floor(middle[1] + (y + 0.5 - 16) / scale);
      const inside = column >= 0 && column < 256 && row >= 0 && row < 256;
      if (inside && data[(row * 256 + column) * 4 + 3] >= 128) {
        picture[(y >> 2) * 8 + (x >> 2)] += 1 / 16;
      }
    }
  }
  return picture;
}
