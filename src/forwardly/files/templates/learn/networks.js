// A network of one hidden layer, its weights as lines.

class NetworkDrawing {
  constructor(canvas) {
    this.canvas = canvas;
    this.weights = null;
  }

  draw() {
    const [c, width, height] = blank(this.canvas);
    if (!this.weights) return;
    const places = layout(width, height, 8, [16, 8, 1]);
    this.weights.forEach((weights, l) => connections(c, places[l], places[l + 1], weights));
    for (const place of places.flat()) unit(c, place, 3.5, palette.soft);
  }
}

// Places of units, a column a layer.
function layout(width, height, margin, sizes) {
  return sizes.map((size, l) => {
    const x = margin + (l * (width - 2 * margin)) / (sizes.length - 1);
    return Array.from({ length: size }, (_, i) => [
      x,
      margin + ((i + 0.5) * (height - 2 * margin)) / size,
    ]);
  });
}

// Lines from each unit to each of the next layer; the colour is the sign, the width the size.
function connections(c, from, to, weights, full = 1) {
  for (let j = 0; j < to.length; j++) {
    for (let i = 0; i < from.length; i++) {
      const w = weights[j * from.length + i] / full;
      if (!w) continue;
      c.strokeStyle = w > 0 ? palette.positive : palette.negative;
      c.globalAlpha = Math.min(0.12 + 0.75 * Math.abs(w), 0.9);
      c.lineWidth = Math.min(0.4 + 3.2 * Math.abs(w), 6);
      line(c, [from[i], to[j]]);
    }
  }
  c.globalAlpha = 1;
}

function unit(c, [x, y], radius, fill, edge) {
  c.beginPath();
  c.arc(x, y, radius, 0, 7);
  c.fillStyle = fill;
  c.fill();
  if (edge) {
    c.lineWidth = 1.5;
    c.strokeStyle = edge;
    c.stroke();
  }
}
