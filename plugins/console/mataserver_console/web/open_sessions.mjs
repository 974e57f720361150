// The sessions that this browser has on the server: each ends with what it is for, and all of them before somebody signs out, who could not end them any more.
import { leavesNow, who } from "./api.mjs";
import { choice } from "./kept.mjs";

const KIND = `session ${location.pathname} `;  // several servers may share a proxy
const PATIENCE = 2000;  // milliseconds: a request that has come is done, also after signing out; its answer waits for the frame at hand

/** Note that a session is open, by its path: whoever signs out in another tab must know it. */
export const opened = (path) => choice.set(KIND + path, "open");

/** Note that it is none any more. */
export const closed = (path) => choice.set(KIND + path, null);

/** End a session, also while the page goes away. */
export function endSession(path) {
  const csrf = who.get()?.csrf;
  closed(path);
  return fetch(path, { method: "DELETE", headers: csrf ? { "X-CSRF-Token": csrf } : {}, keepalive: true }).catch(() => {});
}

/** End all that the tabs of this browser have open. */
export const endSessions = () => Promise.race([
  Promise.all(choice.names(KIND).map((name) => endSession(name.slice(KIND.length)))),
  new Promise((done) => { setTimeout(done, PATIENCE); }),
]);

/** Have the browser ask before a page goes whose work would be lost; who signs out wants that. @param {() => boolean} loses */
export function warns(loses) {
  const ask = (event) => { if (loses() && !leavesNow()) event.preventDefault(); };
  addEventListener("beforeunload", ask);
  return () => removeEventListener("beforeunload", ask);
}
