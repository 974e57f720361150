// The page's end of a cloud's scene: in a worker where one can draw, else on the page itself.
import { listen, placeOf } from "./cloud_pad.mjs";
import { drawnBy } from "./webgl.mjs";

const STILL = "(prefers-reduced-motion: reduce)";

/** A worker, and what it draws with: null where it cannot. */
function begun() {
  if (!HTMLCanvasElement.prototype.transferControlToOffscreen) return Promise.resolve(null);
  const worker = new Worker(new URL("./cloud_worker.mjs", import.meta.url), { type: "module" });
  return new Promise((resolve) => {
    const fail = () => { worker.terminate(); resolve(null); };
    worker.onerror = fail;
    worker.onmessage = ({ data: { drawer } }) => { if (drawer) resolve({ worker, slow: drawer === "processor" }); else fail(); };
  });
}

/** What a worker's scene is asked goes in order; each answer has the number of its question. */
function asking(worker) {
  const waiting = new Map();
  worker.onmessage = ({ data: { id, value, error } }) => {
    const { resolve, reject } = waiting.get(id);
    waiting.delete(id);
    if (error === undefined) resolve(value); else reject(new Error(error));
  };
  worker.onerror = () => { for (const { reject } of waiting.values()) reject(new Error("The viewer failed: reload the page")); };
  let last = 0;
  return (name, args, transfer = []) => new Promise((resolve, reject) => {
    last += 1;
    waiting.set(last, { resolve, reject });
    worker.postMessage({ id: last, name, args }, transfer);
  });
}

/** A scene on this page. Throws where the browser has no WebGL. */
async function own(canvas, given) {
  const slow = drawnBy(document.createElement("canvas")) === "processor";
  const { CloudScene } = await import("./cloud_scene.mjs");
  const scene = new CloudScene(canvas, { ...given, slow });
  return { call: async (name, args) => scene[name](...args), end: () => scene.dispose() };
}

/** The scene of a canvas, wherever it is. Its methods are those of `CloudScene`, called by their names. */
export class Cloud {
  constructor(canvas, { call, end }) {
    this.canvas = canvas;
    this.control = new AbortController();
    this.ask = call;
    this.end = end;
    const { signal } = this.control;
    const room = canvas.parentElement;
    const watch = new ResizeObserver(() => this.call("measure", room.clientWidth, room.clientHeight));
    watch.observe(room);
    signal.addEventListener("abort", () => watch.disconnect());
    matchMedia(STILL).addEventListener("change", (event) => this.call("motionless", event.matches), { signal });
    listen(canvas, (event) => this.call("hear", event), signal);
  }

  /** What a method of the scene returns. */
  call(name, ...args) { return this.ask(name, args); }

  /** What there is to be seen of a file, whose memory goes to where it is drawn. @param {ArrayBuffer} ply */
  show(ply, views) { return this.ask("show", [ply, views], [ply]); }

  /** What a method of the scene returns for the place of an event. */
  at(name, event) { return this.ask(name, placeOf(this.canvas, event)); }

  dispose() {
    this.control.abort();
    this.end();
  }
}

/**
 * Make the scene of a canvas, which then makes no other. Throws where the browser has no WebGL.
 * @param {HTMLCanvasElement} canvas
 */
export async function cloudOn(canvas) {
  const room = /** @type {HTMLElement} */ (canvas.parentElement);
  const found = await begun();
  const given = { width: room.clientWidth, height: room.clientHeight, ratio: devicePixelRatio, still: matchMedia(STILL).matches };
  if (!found) return new Cloud(canvas, await own(canvas, given));
  const ask = asking(found.worker);
  const surface = canvas.transferControlToOffscreen();
  await ask("begin", [surface, { ...given, slow: found.slow }], [surface]).catch((error) => { found.worker.terminate(); throw error; });
  return new Cloud(canvas, { call: ask, end: () => found.worker.terminate() });
}
