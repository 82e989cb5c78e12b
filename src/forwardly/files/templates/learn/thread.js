// The thread that computes, and what it is handed.

const $ = (id) => document.getElementById(id);

async function unpacked(id) {
  const element = $(id);
  if (element.dataset.href) return (await fetch(element.dataset.href)).arrayBuffer();
  const bytes = fromBase64(element.textContent);
  element.remove(); // megabytes
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Response(stream).arrayBuffer();
}

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
