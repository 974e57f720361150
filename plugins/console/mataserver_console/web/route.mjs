// The page's address: `#/try?model=rapidocr`. It holds what is looked at, never a key or a picture.
import { cell, useCell } from "./cell.mjs";

function parsed(hash) {
  const [, page = "", query = ""] = /^#\/([\w-]*)\??(.*)$/.exec(hash) ?? [];
  return { page: page || "try", query: new URLSearchParams(query) };
}

const route = cell(parsed(location.hash));

/** Milliseconds between two changes of the address: a browser ignores, or refuses, more than some 100 in ten seconds. */
const PAUSE = 300;
let unwritten = "";
let timer = 0;
/** Write the newest address; of those that come within the pause the last one is written at its end. */
function write() {
  clearTimeout(timer);
  timer = 0;
  if (!unwritten) return;
  history.replaceState(null, "", unwritten);
  unwritten = "";
  timer = setTimeout(write, PAUSE);
}
addEventListener("pagehide", write);
addEventListener("click", write, true);  // it may be on a link: the way back leads to what was seen
addEventListener("hashchange", () => {
  unwritten = "";  // of the page that was left
  route.set(parsed(location.hash));
});

/** The page that is opened first. */
export const begunAt = route.get().page;

export const useRoute = () => useCell(route);

export function address(page, query = {}) {
  const text = new URLSearchParams(
    Object.entries(query).filter(([, value]) => value !== undefined && value !== null && value !== ""),
  ).toString();
  return `#/${page}${text ? `?${text}` : ""}`;
}

/** Go to a page, as a click on a link does. */
export function go(page, query) {
  write();
  location.hash = address(page, query);
}

/** Change what the address says of this page, without a step in the history. */
export function amend(changes) {
  const { page, query } = route.get();
  unwritten = address(page, { ...Object.fromEntries(query), ...changes });
  route.set(parsed(unwritten));
  if (!timer) write();
}
