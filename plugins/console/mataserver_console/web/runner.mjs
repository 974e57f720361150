// Runs a model on a picture, again with every change; the last answer stays until the next one is here.
import { isAbort, send, timings } from "./api.mjs";
import { fieldOf, fitsForm } from "./code.mjs";
import { useEffect, useRef, useState } from "./html.mjs";
import { refresh } from "./source.mjs";

const PAUSE = 250;

/** The picture in base64. */
export const base64Of = (blob) => new Promise((resolve, reject) => {
  const reader = new FileReader();
  reader.onload = () => { const url = String(reader.result); resolve(url.slice(url.indexOf(",") + 1)); };
  reader.onerror = () => reject(reader.error);
  reader.readAsDataURL(blob);
});

/** Ask about a picture: a form where the parameters fit into one, else JSON. */
export async function infer({ model, params, picture, signal, headers = {} }) {
  if (!fitsForm(params)) {
    return send("v1/infer", { json: { model, params, image: await base64Of(picture.blob) }, signal, headers });
  }
  const form = new FormData();
  form.append("model", model);
  for (const [name, value] of Object.entries(params)) form.append(name, fieldOf(value));
  form.append("file", picture.blob, picture.name);
  return send("v1/infer/upload", { method: "POST", body: form, signal, headers });
}

/** One run at a time: two models that work at once tell neither's time. */
export class Lane {
  #last = Promise.resolve();

  /** Wait for those who came before; the function that it gives lets the next one in. */
  async enter() {
    const before = this.#last;
    let leave;
    this.#last = new Promise((done) => { leave = done; });
    await before;
    return leave;
  }
}

/**
 * The answer of a model about a picture with parameters. With a `lane` it waits for others there.
 * @returns {{answer: any, times: Record<string, number>, error: any, waits: boolean, begun: number, took: number, at: number, run: () => void, stop: () => void}}
 */
export function useRun({ model, params, picture, auto, ready, lane = /** @type {Lane | undefined} */ (undefined) }) {
  const [state, setState] = useState({ answer: null, of: null, times: {}, error: null, waits: false, begun: 0, took: 0, at: 0 });
  const control = useRef(null);
  const run = async () => {
    control.current?.abort();
    if (!model || !picture || !ready) return;
    const own = new AbortController();
    control.current = own;
    let begun = performance.now();
    setState((old) => {
      const stays = old.of?.picture === picture && old.of?.model === model;  // dimmed, until the next is here
      return { ...old, waits: Boolean(lane), begun, error: null, answer: stays ? old.answer : null, times: stays ? old.times : {} };
    });
    const leave = await lane?.enter();
    try {
      own.signal.throwIfAborted();
      if (lane) { begun = performance.now(); setState((old) => ({ ...old, waits: false, begun })); }
      const response = await infer({ model, params, picture, signal: own.signal });
      const answer = await response.json();
      if (control.current !== own) return;
      const took = performance.now() - begun;
      setState({ answer, of: { model, picture }, times: timings(response.headers.get("Server-Timing")), error: null, waits: false, begun: 0, took, at: Date.now() });
    } catch (error) {
      if (control.current !== own) return;
      const stays = !error.status;  // without an answer the page keeps what it has
      setState((old) => ({ ...old, waits: false, begun: 0, error: isAbort(error) ? null : error, answer: isAbort(error) || stays ? old.answer : null }));
    } finally { leave?.(); }
    refresh("v1/models");
  };
  const stop = () => { control.current?.abort(); };
  const last = useRef(run);
  last.current = run;
  useEffect(() => {
    if (!auto) return undefined;
    const timer = setTimeout(() => last.current(), PAUSE);
    return () => clearTimeout(timer);
  }, [model, picture, JSON.stringify(params), auto, ready]);
  useEffect(() => stop, []);
  return { ...state, run, stop };
}

/** Seconds since `begun`, counted each tenth of a second; 0 when nothing runs. */
export function useSeconds(begun) {
  const [, tick] = useState(0);
  useEffect(() => {
    if (!begun) return undefined;
    const timer = setInterval(() => tick((n) => n + 1), 100);
    return () => clearInterval(timer);
  }, [begun]);
  return begun ? (performance.now() - begun) / 1000 : 0;
}
