// The thread that computes, and what it is handed.

const $ = (id) => document.getElementById(id);

// What the page carries, or has beside it.
async function unpacked(id) {
  const element = $(id);
  const { href, packed } = element.dataset;
  if (!href) {
    const bytes = fromBase64(element.textContent);
    element.remove(); // megabytes
    return unzipped(new Blob([bytes]).stream());
  }
  const response = await fetch(href);
  if (!response.ok) throw new Error(`${href}: ${response.status} ${response.statusText}`);
  return packed ? unzipped(response.body) : response.arrayBuffer();
}

const unzipped = (stream) =>
  new Response(stream.pipeThrough(new DecompressionStream("gzip"))).arrayBuffer();

const fromBase64 = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0));

const script = (text) => URL.createObjectURL(new Blob([text], { type: "text/javascript" }));

class Thread {
  constructor() {
    this.worker = new Worker(script($("worker").textContent));
    this.waiting = new Map();
    this.listeners = {};
    this.worker.onmessage = ({ data }) => {
      if (data.event) {
        this.listeners[data.event.task]?.(data.event);
        return;
      }
      const { resolve, reject } = this.waiting.get(data.id);
      this.waiting.delete(data.id);
      if ("error" in data) reject(new Error(data.error));
      else resolve(data.result);
    };
  }

  // Have one of the worker's calls done.
  ask(call, given) {
    const id = (this.last = (this.last ?? 0) + 1);
    return new Promise((resolve, reject) => {
      this.waiting.set(id, { resolve, reject });
      this.worker.postMessage({ id, call, given });
    });
  }
}
