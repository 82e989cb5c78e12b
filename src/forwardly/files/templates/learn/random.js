// Random numbers from a seed (mulberry32), the same in every browser.

class Random {
  constructor(seed) {
    this.state = seed >>> 0;
  }

  uniform(low = 0, high = 1) {
    this.state = (this.state + 0x6d2b79f5) >>> 0;
    let t = this.state;
    t = Math.imul(t ^ (t >>> 15), t | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return low + (high - low) * (((t ^ (t >>> 14)) >>> 0) / 4294967296);
  }

  normal(sd = 1) {
    const radius = Math.sqrt(-2 * Math.log(1 - this.uniform()));
    return sd * radius * Math.cos(2 * Math.PI * this.uniform());
  }

  below(end) {
    return Math.floor(this.uniform(0, end));
  }

  uniforms(count, bound) {
    return Float32Array.from({ length: count }, () => this.uniform(-bound, bound));
  }

  normals(count, sd) {
    return Float32Array.from({ length: count }, () => this.normal(sd));
  }

  order(count) {
    const order = Uint32Array.from({ length: count }, (_, i) => i);
    for (let i = count - 1; i > 0; i--) {
      const j = this.below(i + 1);
      [order[i], order[j]] = [order[j], order[i]];
    }
    return order;
  }
}
