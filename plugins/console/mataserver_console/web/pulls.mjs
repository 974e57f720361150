// Pulls of models: they go on while other pages are open, and every page shows them, whoever began them.
import { ask, events, isAbort, send } from "./api.mjs";
import { useEffect, useReducer, useState } from "./html.mjs";
import { now } from "./server_time.mjs";
import { refresh, useSource } from "./source.mjs";

/**
 * What is told of a pull; `ended` also of one that failed. Bytes are those of all its files.
 * @typedef {{model: string, task: string, begun: number, done: number, total: number, place: number, error: string, warnings: string[], ended: boolean}} Pull
 */

/** The pulls of this tab, with what stops them. @type {Map<string, Pull & {control: AbortController}>} */
const own = new Map();
/** Those of other tabs, and when they last told of them. @type {Map<string, Pull & {at: number}>} */
const others = new Map();
const watchers = new Set();
const SILENT = 10_000;  // milliseconds
const draw = () => { for (const each of watchers) each(); };

const tabs = "BroadcastChannel" in window ? new BroadcastChannel(`mataserver pulls ${location.pathname}`) : null;

/** Show a pull as it is now, in every tab. */
function tell({ control, ...pull }) {
  tabs?.postMessage({ pull });
  draw();
}

function gone(model) {
  own.delete(model);
  others.delete(model);
  draw();
}

if (tabs) {
  tabs.onmessage = ({ data: { pull: told, over, asks } }) => {
    if (told) { others.set(told.model, { ...told, at: Date.now() }); draw(); if (told.ended) refresh("v1/models"); }
    if (over) { gone(over); refresh("v1/models", "v1/pulls"); }
    if (asks) for (const each of own.values()) tell(each);
  };
  tabs.postMessage({ asks: true });
  // A tab that is closed ends its pulls.
  addEventListener("pagehide", () => { for (const model of own.keys()) tabs.postMessage({ over: model }); });
}

/** A pull as the server lists it. @returns {Pull} */
const listed = ({ model, task, state, started_at: begun, done_bytes: done, total_bytes: total, place, error }) =>
  ({ model, task, begun: begun * 1000, done, total, place, error: error ?? "", warnings: [], ended: state === "failed" });

/** The pulls of this browser's tabs, and those that somebody else began. */
export function usePulls() {
  const [, again] = useReducer((n) => n + 1, 0);
  const [every, setEvery] = useState(5);
  const { data } = useSource("v1/pulls", every);
  useEffect(() => { watchers.add(again); return () => watchers.delete(again); }, []);
  useEffect(() => {
    const running = (data ?? []).filter((each) => each.state !== "failed").map((each) => each.model);
    setEvery(running.length ? 1 : 5);
    // A tab that crashed says no more of its pulls.
    for (const each of others.values()) if (data && !each.ended && !running.includes(each.model) && Date.now() - each.at > SILENT) gone(each.model);
  }, [data]);
  const known = [...others.values(), ...own.values()];
  return [...(data ?? []).filter((each) => !known.some((one) => one.model === each.model)).map(listed), ...known];
}

/** Have the server cancel a pull, or forget one that failed. */
const drop = (model, query = "") => ask(`v1/pulls/${encodeURIComponent(model)}${query}`, { method: "DELETE" }).catch(() => {});

/** Take a pull that has ended off the list, in every tab. */
async function over(model) {
  await refresh("v1/pulls");
  gone(model);
  tabs?.postMessage({ over: model });
}

/** The same for one that failed, which the server lists too. */
export async function dismiss(model) {
  await drop(model, "?state=failed");  // somebody else may be pulling it by now
  await over(model);
}

/** Stop a pull, whoever began it. */
export async function cancel(model) {
  if (own.has(model)) own.get(model)?.control.abort();
  else { await drop(model); refresh("v1/pulls"); }
}

/** Pull a model and tell how far it is, until it is here, it failed, or it is cancelled. */
export async function pull(model, task) {
  if ([...others.values(), ...own.values()].some((each) => each.model === model && !each.ended)) return;  // it has its row
  gone(model);
  tabs?.postMessage({ over: model });
  const mine = { model, task, control: new AbortController(), begun: now(), done: 0, total: 0, place: 0, error: "", warnings: [], ended: false };
  own.set(model, mine);
  tell(mine);
  try {
    const answer = await send("v1/models/pull", { json: { model, task }, headers: { Accept: "text/event-stream" }, signal: mine.control.signal });
    for await (const { name, value } of events(answer)) {
      if (name === "waiting") mine.place = value.place;
      if (name === "progress") Object.assign(mine, { place: 0, done: value.done_bytes, total: value.total_bytes });
      if (name === "error") throw Object.assign(new Error(value.detail), { listed: true });
      if (name === "result") mine.warnings = value.warnings ?? [];
      tell(mine);
    }
    mine.ended = true;
    if (mine.warnings.length) tell(mine); else await over(model);
  } catch (error) {
    mine.ended = true;
    // The server lists one that failed on its way, one that somebody cancelled no more, and one that somebody else began.
    if (isAbort(error) || error.listed || error.status === 409) await over(model);
    else { mine.error = error.message; tell(mine); }
  }
  refresh("v1/models");
}
