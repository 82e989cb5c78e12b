// A drawing board, and how the networks see what is drawn: as the digits of a set were made, a pixel
// of 4 × 4 points of ink or paper.

class Pad {
  constructor(canvas, seen, changed) {
    const set = sets.digits;
    Object.assign(this, { canvas, seen, changed, set, pen: [0.5, 0.3], down: false, keys: false });
    this.ink = document.createElement("canvas");
    this.ink.width = this.ink.height = 256;
    this.ink.getContext("2d", { willReadFrequently: true });
    this.picture = reduced(this.ink, set);
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

  // See what is drawn as the digits of a set from now on; the board is empty then.
  see(set) {
    this.set = set;
    this.seen.setAttribute("aria-label", `What the networks see: ${set.side} by ${set.side} pixels`);
    this.clear();
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
    pixels(this.ink.getContext("2d"), picture, this.set.side, 256);
    this.picture = picture;
    this.shown = true;
    this.draw();
    this.changed();
  }

  look() {
    this.picture = reduced(this.ink, this.set);
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
    pixels(s, this.picture, this.set.side, side);
  }
}

// A picture of so many pixels a side, as squares on a canvas of a width.
function pixels(c, picture, side, width) {
  const at = (place) => Math.round((place * width) / side);
  picture.forEach((value, i) => {
    const [column, row] = [i % side, Math.floor(i / side)];
    c.fillStyle = `rgba(0, 0, 0, ${value})`;
    c.fillRect(at(column), at(row), at(column + 1) - at(column), at(row + 1) - at(row));
  });
}

function reduced(ink, { side, fit, byMass }) {
  const { data } = ink.getContext("2d").getImageData(0, 0, 256, 256);
  const inked = (column, row) => data[(row * 256 + column) * 4 + 3] >= 128;
  let [left, top, right, bottom] = [256, 256, -1, -1];
  let [count, x, y] = [0, 0, 0];
  for (let row = 0; row < 256; row++) {
    for (let column = 0; column < 256; column++) {
      if (!inked(column, row)) continue;
      [left, right] = [Math.min(left, column), Math.max(right, column)];
      [top, bottom] = [Math.min(top, row), Math.max(bottom, row)];
      [count, x, y] = [count + 1, x + column + 0.5, y + row + 0.5];
    }
  }
  const picture = new Float32Array(side * side);
  if (!count) return picture;
  const middle = byMass ? [x / count, y / count] : [(left + right + 1) / 2, (top + bottom + 1) / 2];
  const points = 4 * side;
  const size = (Math.max(right - left, bottom - top) + 1) / (4 * fit); // of ink, to a point
  for (let j = 0; j < points; j++) {
    for (let i = 0; i < points; i++) {
      const [column, row] = [i, j].map((at, axis) =>
        Math.floor(middle[axis] + (at + 0.5 - points / 2) * size),
      );
      const inside = column >= 0 && column < 256 && row >= 0 && row < 256;
      if (inside && inked(column, row)) picture[(j >> 2) * side + (i >> 2)] += 1 / 16;
    }
  }
  return picture;
}
