// Curves of the three rules, on axes that stay as they are.

class Chart {
  // x, y: {place: value → 0 … 1, ticks: [[value, text], …]}
  constructor(canvas, x, y, title) {
    Object.assign(this, { canvas, x, y, title, rows: {}, marks: [] });
  }

  draw() {
    const [c, width, height] = blank(this.canvas);
    const [left, right, top, bottom] = [44, 10, 12, 34];
    const px = (v) => left + this.x.place(v) * (width - left - right);
    const py = (v) => height - bottom - this.y.place(v) * (height - top - bottom);
    c.lineWidth = 1;
    c.strokeStyle = palette.line;
    c.fillStyle = palette.soft;
    c.textAlign = "right";
    c.textBaseline = "middle";
    for (const [value, text] of this.y.ticks) {
      line(c, [[left, py(value)], [width - right, py(value)]]);
      c.fillText(text, left - 6, py(value));
    }
    c.textBaseline = "top";
    for (const [value, text] of this.x.ticks) {
      line(c, [[px(value), height - bottom], [px(value), height - bottom + 4]]);
      c.textAlign = px(value) > width - 30 ? "right" : "center";
      c.fillText(text, px(value), height - bottom + 5);
    }
    c.textAlign = "center";
    c.fillText(this.title, (left + width - right) / 2, height - 14);

    c.save();
    c.beginPath();
    c.rect(left, top - 3, width - left - right + 3, height - top - bottom + 6);
    c.clip();
    for (const at of this.marks) {
      c.strokeStyle = palette.bad;
      c.setLineDash([4, 4]);
      line(c, [[px(at), top], [px(at), height - bottom]]);
    }
    for (const rule of [...rules].reverse()) {
      const rows = this.rows[rule] ?? [];
      c.strokeStyle = c.fillStyle = palette[rule];
      c.setLineDash(dashes[rule]);
      c.lineWidth = 2;
      line(c, rows.map(([at, value]) => [px(at), py(value)]));
      c.setLineDash([]);
      let last = -Infinity;
      for (const [at, , other] of rows) {
        if (other === undefined || px(at) - last < 9) continue;
        last = px(at);
        c.beginPath();
        c.arc(px(at), py(other), 1.8, 0, 7);
        c.fill();
      }
    }
    c.restore();
    this.key(c, left + 10, height - bottom - 8);
  }

  // Names of the lines, in the lower left corner, where curves seldom are.
  key(c, x, y) {
    c.textAlign = "left";
    c.textBaseline = "middle";
    [...rules].reverse().forEach((rule, i) => {
      c.strokeStyle = palette[rule];
      c.setLineDash(dashes[rule]);
      c.lineWidth = 2;
      line(c, [[x, y - 16 * i], [x + 24, y - 16 * i]]);
      c.fillStyle = palette.ink;
      c.fillText(titles[rule], x + 30, y - 16 * i);
    });
    c.setLineDash([]);
  }
}

function line(c, points) {
  c.beginPath();
  for (const [x, y] of points) c.lineTo(x, y);
  c.stroke();
}
