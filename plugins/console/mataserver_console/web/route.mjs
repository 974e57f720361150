// The page's address: `#/try?model=rapidocr`. It holds what is looked at, never a key or a picture.
import { cell, useCell } from "./cell.mjs";

function read() {
  const [, page = "", query = ""] = /^#\/([\w-]*)\??(.*)$/.exec(location.hash) ?? [];
  return { page: page || "try", query: new URLSearchParams(query) };
}

const route = cell(read());
addEventListener("hashchange", () => route.set(read()));

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
export function go(page, query) { location.hash = address(page, query); }

/** Change what the address says of this page, without a step in the history. */
export function amend(changes) {
  const { page, query } = route.get();
  const next = { ...Object.fromEntries(query), ...changes };
  history.replaceState(null, "", address(page, next));
  route.set(read());
}
