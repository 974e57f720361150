// Requests to the server, by paths relative to the page: it may lie below a proxy's prefix.
import { cell } from "./cell.mjs";
import { named, sentence } from "./direction.mjs";
import { note } from "./server_time.mjs";

/** @typedef {{id: string, name: string, kind: string, scopes: string[], csrf?: string}} Person */

/** What is on its way since before the modules came, see `boot.js`: the first who asks gets it. @type {{early: Map<string, Promise<Response>>, preload: (page: string) => void, unused?: string[]}} */
export const boot = /** @type {any} */ (window).boot;

/** Who is signed in: `undefined` until it is known, `null` for nobody. */
export const who = cell(/** @type {Person | null | undefined} */ (undefined));
/** Whether the server answers: null, or since when it does not and when the next try comes. */
export const silence = cell(/** @type {{since: number, next: number} | null} */ (null));

/** Whether this page is on its way out: whoever signs out is not asked who they are. */
let leaving = false;
export const setLeaving = (now) => { leaving = now; };
export const leavesNow = () => leaving;

/** The server refused: its status, its sentence, the request's id, seconds to wait. */
export class Refused extends Error {
  constructor(status, detail, id, wait) {
    super(detail);
    Object.assign(this, { status, id, wait });
  }
}

/** No answer came. */
export class NoAnswer extends Error {
  constructor() { super(`No answer from ${location.hostname}`); this.status = 0; }
}

/** A file that was chosen is not there as it was then: a browser says of it no more than that no answer came. */
export class Unreadable extends Error {
  constructor(name) { super(`${named(name)} cannot be read any more: it was changed, moved or removed since it was chosen, or it is a folder. Choose it again.`); }
}

/** Why a request had no answer: a file of its body, or the server. A part of a ZIP, of some megabytes, has pictures behind its first byte. @param {unknown} body */
async function lost(body) {
  for (const file of body instanceof FormData ? body.values() : [body]) {
    if (file instanceof Blob) try { await (file instanceof File ? file.slice(0, 1) : file).arrayBuffer(); } catch { return new Unreadable(file instanceof File ? file.name : "The file"); }
  }
  return new NoAnswer();
}

export const isAbort = (error) => error?.name === "AbortError";
export const may = (scope) => {
  const scopes = who.get()?.scopes ?? [];
  return scopes.includes(scope) || scopes.includes("admin");
};

const READS = new Set(["GET", "HEAD"]);
/** The id of who was signed in last. */
let lastKnown = "";
who.watch((me) => { if (me) lastKnown = me.id; });

/** Whether a request failed because the session was over: not because there was none yet. */
const isOver = (error, path) => error.status === 401 && lastKnown !== "" && path !== "v1/session" && !path.startsWith("auth/");

/** The next one who is signed in. Throws an `AbortError` when it is stopped. @param {AbortSignal | null} [signal] @returns {Promise<Person>} */
export function signedIn(signal) {
  return new Promise((resolve, reject) => {
    const known = who.get();
    if (known) { resolve(known); return; }
    const leave = who.watch((me) => { if (me) { leave(); resolve(me); } });
    signal?.addEventListener("abort", () => { leave(); reject(signal.reason); }, { once: true });
  });
}

/**
 * Send a request; return the response if it is a good one. Throws `Refused` and `NoAnswer`.
 * What failed because the session was over is asked again by who signs in, unless `again` is
 * false; what changes something only if it is the same person.
 * @param {string} path
 * @param {RequestInit & {json?: unknown, csrf?: string, again?: boolean, headers?: Record<string, string>}} [options]
 */
export async function send(path, { again = true, ...options } = {}) {
  const asker = lastKnown;
  try {
    return await sendOnce(path, options);
  } catch (error) {
    if (!again || !isOver(error, path)) throw error;
    const same = (await signedIn(options.signal)).id === asker;
    if (!same && !READS.has(options.method ?? (options.json === undefined ? "GET" : "POST"))) throw error;
    return sendOnce(path, options);
  }
}

/** @param {string} path @param {RequestInit & {json?: unknown, csrf?: string, headers?: Record<string, string>}} options */
async function sendOnce(path, { json, csrf = who.get()?.csrf, headers = {}, ...options }) {
  const all = { ...headers };
  if (csrf) all["X-CSRF-Token"] = csrf;
  if (json !== undefined) {
    all["Content-Type"] = "application/json";
    options = { method: "POST", body: JSON.stringify(json), ...options };
  }
  let answer;
  const asker = who.get();
  try {
    answer = await (taken(path, options) ?? fetch(path, { ...options, headers: all }));
  } catch (error) {
    if (isAbort(error)) throw error;
    const why = await lost(options.body);
    if (why instanceof NoAnswer && !silence.get()) silence.set({ since: Date.now(), next: Date.now() + 1000 });
    throw why;
  }
  silence.set(null);
  if (path.startsWith("v1/")) note(answer.headers.get("Date"));  // no cache keeps these
  if (answer.ok) return answer;
  throw await refusal(answer, path, asker);
}

function taken(path, options) {
  const found = (options.method ?? "GET") === "GET" ? boot.early.get(path) : undefined;
  boot.early.delete(path);
  return found;
}

/** Forget what was asked for early and nobody wanted: it grows old. */
export function forgetEarly() {
  boot.unused = [...boot.early.keys()];
  boot.early.clear();
}

/**
 * Send a file as a body; `tell` gets the bytes that have gone: `fetch` tells nothing of them.
 * Throws as `send` does, and an `AbortError` when it is stopped.
 * @param {string} path
 * @param {File} file
 * @param {{tell: (sent: number) => void, signal: AbortSignal}} options
 */
export async function sendFile(path, file, { tell, signal }) {
  const asker = lastKnown;
  for (;;) {
    const known = who.get();
    const answer = await sendFileOnce(path, file, { tell, signal });
    if (answer.ok) return answer;
    const error = await refusal(answer, path, known);
    if (!isOver(error, path) || (await signedIn(signal)).id !== asker) throw error;
  }
}

/** @returns {Promise<Response>} */
async function sendFileOnce(path, file, { tell, signal }) {
  const request = new XMLHttpRequest();
  return new Promise((resolve, reject) => {
    request.open("POST", path);
    request.setRequestHeader("Content-Type", file.type || "application/octet-stream");
    const csrf = who.get()?.csrf;
    if (csrf) request.setRequestHeader("X-CSRF-Token", csrf);
    request.upload.onprogress = (event) => tell(event.loaded);
    request.onerror = () => { lost(file).then(reject); };
    request.onabort = () => reject(new DOMException("Stopped", "AbortError"));
    request.onload = () => resolve(answerOf(request));
    signal.addEventListener("abort", () => request.abort(), { once: true });
    request.send(file);
  });
}

function answerOf(request) {
  const headers = new Headers();
  for (const name of ["X-Request-Id", "Retry-After"]) headers.set(name, request.getResponseHeader(name) ?? "");
  return new Response(request.responseText, { status: request.status, headers });
}

/**
 * Send a request; return its answer's JSON, or null where there is no body.
 * @param {string} path
 * @param {Parameters<typeof send>[1]} [options]
 * @returns {Promise<any>}
 */
export async function ask(path, options) {
  const answer = await send(path, options);
  return answer.status === 204 ? null : answer.json();
}

/** What a refusal says; `asker` is who was signed in when the request went. */
async function refusal(answer, path, asker) {
  const body = await answer.json().catch(() => ({}));
  const detail = body.detail ?? body.error?.message ?? body.error ?? `Status ${answer.status}`;
  const wait = Number(answer.headers.get("Retry-After")) || 0;
  // A cookie that is over: the page stays as it is, with the sign-in before it. Who has signed in since has another one.
  if (answer.status === 401 && asker && who.get() === asker && !leaving && !path.startsWith("auth/")) who.set(null);
  return new Refused(answer.status, sentence(String(detail)), answer.headers.get("X-Request-Id") ?? "", wait);
}

/** The parts of a Server-Timing header, in milliseconds by name. */
export function timings(header) {
  const found = {};
  for (const part of (header ?? "").split(",")) {
    const match = /^\s*([\w-]+);dur=([\d.]+)/.exec(part);
    if (match) found[match[1]] = Number(match[2]);
  }
  return found;
}

/** Yield the Server-Sent Events of an answer: name and value. */
export async function* events(answer) {
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  try {
    for (;;) {
      const { done, value } = await reader.read();
      text += value ?? "";
      const blocks = text.split(/\r?\n\r?\n/);
      text = blocks.pop() ?? "";
      for (const block of blocks) {
        const event = eventOf(block);
        if (event) yield event;
      }
      if (done) return;
    }
  } finally { reader.cancel().catch(() => {}); }
}

function eventOf(block) {
  let name = "message";
  const data = [];
  for (const line of block.split(/\r?\n/)) {
    if (line.startsWith("event:")) name = line.slice(6).trim();
    if (line.startsWith("data:")) data.push(line.slice(5).trimStart());
  }
  if (!data.length) return null;
  const joined = data.join("\n");
  return { name, value: joined === "[DONE]" ? null : JSON.parse(joined) };
}
