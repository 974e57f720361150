// Pulls of models: they go on while other pages are open, and every tab of this browser shows them.
import { events, isAbort, send } from "./api.mjs";
import { useEffect, useReducer } from "./html.mjs";
import { refresh } from "./source.mjs";

/**
 * What is told of a pull; `ended` also of one that failed. Bytes are those of all its files.
 * @typedef {{model: string, task: string, begun: number, done: number, total: number, place: number, error: string, warnings: string[], ended: boolean}} Pull
 */

/** The pulls of this tab, with what stops them. @type {Map<string, Pull & {control: AbortController}>} */
const own = new Map();
/** Those of other tabs. @type {Map<string, Pull>} */
const others = new Map();
const watchers = new Set();
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
  tabs.onmessage = ({ data: { pull: told, over, stops, asks } }) => {
    if (told) { others.set(told.model, told); draw(); if (told.ended) refresh("v1/models"); }
    if (over) { gone(over); refresh("v1/models"); }
    if (stops) own.get(stops)?.control.abort();
    if (asks) for (const each of own.values()) tell(each);
  };
  tabs.postMessage({ asks: true });
  // A tab that is closed ends its pulls.
  addEventListener("pagehide", () => { for (const model of own.keys()) tabs.postMessage({ over: model }); });
}

/** The pulls of all tabs. */
export function usePulls() {
  const [, again] = useReducer((n) => n + 1, 0);
  useEffect(() => { watchers.add(again); return () => watchers.delete(again); }, []);
  return [...others.values(), ...own.values()];
}

/** Take a pull that has ended off the list, in every tab. */
export function dismiss(model) {
  gone(model);
  tabs?.postMessage({ over: model });
}

/** Stop a pull, whichever tab began it. */
export function cancel(model) {
  if (own.has(model)) own.get(model)?.control.abort();
  else tabs?.postMessage({ stops: model });
}

/** Pull a model and tell how far it is, until it is here, it failed, or it is cancelled. */
export async function pull(model, task) {
  if ([...others.values(), ...own.values()].some((each) => each.model === model && !each.ended)) return;  // it has its row
  dismiss(model);
  const mine = { model, task, control: new AbortController(), begun: Date.now(), done: 0, total: 0, place: 0, error: "", warnings: [], ended: false };
  own.set(model, mine);
  tell(mine);
  try {
    const answer = await send("v1/models/pull", { json: { model, task }, headers: { Accept: "text/event-stream" }, signal: mine.control.signal });
    for await (const { name, value } of events(answer)) {
      if (name === "waiting") mine.place = value.place;
      if (name === "progress") Object.assign(mine, { place: 0, done: value.done_bytes, total: value.total_bytes });
      if (name === "error") throw new Error(value.detail);
      if (name === "result") mine.warnings = value.warnings ?? [];
      tell(mine);
    }
    mine.ended = true;
    if (mine.warnings.length) tell(mine); else dismiss(model);
  } catch (error) {
    mine.ended = true;
    if (isAbort(error)) dismiss(model);
    else { mine.error = error.message; tell(mine); }
  }
  refresh("v1/models");
}
