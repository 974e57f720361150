// A value that components watch.
import { useEffect, useState } from "./html.mjs";

/** @template T @param {T} value */
export function cell(value) {
  const watchers = new Set();
  return {
    get: () => value,
    /** @param {T} next */
    set(next) {
      if (Object.is(next, value)) return;
      value = next;
      for (const each of [...watchers]) each(value);
    },
    watch(each) { watchers.add(each); return () => watchers.delete(each); },
  };
}

/** The value of a cell; the component is drawn again when it changes. */
export function useCell(watched) {
  const [, bump] = useState({});
  useEffect(() => {
    bump({});  // it may have changed between the first drawing and now
    return watched.watch(() => bump({}));
  }, [watched]);
  return watched.get();
}
