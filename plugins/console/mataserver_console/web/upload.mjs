// A file in parts, by tus 1.0: what breaks off goes on where it was, after a reload too.
import { isAbort, send } from "./api.mjs";
import { choice } from "./kept.mjs";

const PART = 2 ** 21;  // bytes: the progress goes on in steps of one
const PAUSES = [1, 2, 4, 8, 15];  // seconds
const SPEAKS = { "Tus-Resumable": "1.0.0" };
const GONE = new Set([404, 410]);
const PASSES = new Set([0, 408, 409, 423, 429, 500, 502, 503, 504]);  // a state of the server, or none: try again

const nameOf = (file) => `upload.${file.name}.${file.size}.${file.lastModified}`;
const encoded = (text) => btoa(String.fromCharCode(...new TextEncoder().encode(text)));

function rest(seconds, signal) {
  return new Promise((/** @type {(value?: undefined) => void} */ resolve, reject) => {
    const stop = () => { clearTimeout(timer); reject(signal.reason); };
    const timer = setTimeout(() => { signal.removeEventListener("abort", stop); resolve(); }, seconds * 1000);
    signal.addEventListener("abort", stop, { once: true });
  });
}

/** The files that this tab sends, or is about to: 0, or the number by which it asked. @type {Map<string, number>} */
const mine = new Map();
const tabs = "BroadcastChannel" in window ? new BroadcastChannel(`mataserver uploads ${location.pathname}`) : null;
/** @type {Map<string, () => void>} */
const told = new Map();
if (tabs) {
  tabs.onmessage = ({ data: { asks, number, has } }) => {
    if (has) told.get(has)?.();
    else if ((mine.get(asks) ?? Infinity) < number) tabs.postMessage({ has: asks });  // of two who ask, the lower number goes first
  };
}
const ANSWERS = 300;  // milliseconds: another tab of this browser has answered by then

/** Whether another tab of this browser sends a file. */
async function elsewhere(name, number, signal) {
  let has = false;
  told.set(name, () => { has = true; });
  tabs?.postMessage({ asks: name, number });
  try { await rest(ANSWERS / 1000, signal); } finally { told.delete(name); }
  return has;
}

/**
 * Use a file while no other tab of this browser does: two who send parts of one upload stop each other.
 * @template T
 * @param {File} file
 * @param {{tell: (sent: number, waits: string) => void, signal: AbortSignal}} options
 * @param {() => Promise<T>} use
 */
export async function alone(file, { tell, signal }, use) {
  const name = nameOf(file), number = 1 + Math.random();
  mine.set(name, number);
  try {
    while (await elsewhere(name, number, signal)) tell(-1, "Another tab sends this file. This one waits for it.");
    mine.set(name, 0);
    return await use();
  } finally { mine.delete(name); }
}

/** Begin an upload. Returns its id, which this browser keeps until the file is used. */
async function begin(file, signal) {
  const headers = { ...SPEAKS, "Upload-Length": String(file.size), "Upload-Metadata": `filename ${encoded(file.name)}` };
  const answer = await send("v1/uploads", { method: "POST", headers, signal });
  const id = answer.headers.get("Location").split("/").pop();
  choice.set(nameOf(file), id);
  return id;
}

/** Where an upload goes on; null when the server has it no more. */
async function offsetOf(id, signal) {
  try {
    return Number((await send(`v1/uploads/${id}`, { method: "HEAD", headers: SPEAKS, signal })).headers.get("Upload-Offset"));
  } catch (error) {
    if (GONE.has(error.status)) return null;
    throw error;
  }
}

async function parts(id, file, from, tell, signal) {
  let offset = from;
  while (offset < file.size) {
    tell(offset, "");
    const headers = { ...SPEAKS, "Upload-Offset": String(offset), "Content-Type": "application/offset+octet-stream" };
    const answer = await send(`v1/uploads/${id}`, { method: "PATCH", headers, body: file.slice(offset, offset + PART), signal });
    offset = Number(answer.headers.get("Upload-Offset"));
  }
  tell(offset, "");
}

/**
 * Send a file; return the id of its upload. What was sent before is not sent again, and a server
 * that does not answer is waited for. Throws `Refused`, and an `AbortError` when it is stopped.
 * @param {File} file
 * @param {(sent: number, waits: string) => void} tell
 * @param {AbortSignal} signal
 */
export async function sent(file, tell, signal) {
  for (let tries = 0; ; tries += 1) {
    try {
      let id = choice.get(nameOf(file));
      let offset = id ? await offsetOf(id, signal) : null;
      if (offset === null) { id = await begin(file, signal); offset = 0; }
      await parts(id, file, offset, (done, waits) => { tries = 0; tell(done, waits); }, signal);
      return id;
    } catch (error) {
      if (isAbort(error) || !PASSES.has(error.status)) throw error;
      const pause = PAUSES[Math.min(tries, PAUSES.length - 1)];
      tell(-1, `${error.message}. It goes on by itself.`);
      await rest(pause, signal);
    }
  }
}

/** Forget an upload: a job has it now, or it is given up. */
export const forgetUpload = (file) => choice.set(nameOf(file), null);
