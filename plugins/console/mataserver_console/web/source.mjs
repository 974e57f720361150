// What the server is asked again and again: one request for all who look, while somebody looks.
import { ask, isAbort, send, silence, who } from "./api.mjs";
import { cell, useCell } from "./cell.mjs";
import { useEffect } from "./html.mjs";

const PAUSES = [1, 2, 4, 8, 15];
const sources = new Map();

class Source {
  constructor(path) {
    this.path = path;
    this.cell = cell({ data: null, error: null, at: 0 });
    this.wishes = new Set();
    this.timer = 0;
  }

  async refresh() {
    clearTimeout(this.timer);
    try {
      const data = this.path === "metrics" ? await (await send(this.path, { again: false })).text() : await ask(this.path, { again: false });
      this.cell.set({ data, error: null, at: Date.now() });
    } catch (error) {
      // Who signs in asks everything again: until then what is known stays.
      if (!isAbort(error) && !(error.status === 401 && who.get() === null)) this.cell.set({ ...this.cell.get(), error });
    }
    this.plan();
  }

  plan() {
    clearTimeout(this.timer);
    const every = Math.min(...this.wishes);
    if (!this.wishes.size || every === Infinity || document.hidden) return;
    this.timer = setTimeout(() => this.refresh(), every * 1000);
  }
}

function sourceOf(path) {
  if (!sources.has(path)) sources.set(path, new Source(path));
  return sources.get(path);
}

/** What `path` answers, asked every so many seconds while the page is seen; `Infinity` is once. */
export function useSource(path, every = Infinity) {
  const source = sourceOf(path ?? "");
  useEffect(() => {
    if (!path) return undefined;
    const wish = new Number(every);  // an object: two may wish the same
    source.wishes.add(wish);
    if (Date.now() - source.cell.get().at > 1000) source.refresh();
    else source.plan();
    return () => { source.wishes.delete(wish); source.plan(); };
  }, [path, every]);
  return useCell(source.cell);
}

/** Ask again now. */
export const refresh = (...paths) => Promise.all(paths.map((path) => sources.get(path)?.refresh()));

/** Ask everything again that somebody looks at. */
export function refreshAll() {
  for (const source of sources.values()) if (source.wishes.size) source.refresh();
}

/** Forget what one person saw before another signs in. */
export function forget() {
  for (const source of sources.values()) source.cell.set({ data: null, error: null, at: 0 });
}

let tries = 0;
let waiting = 0;
silence.watch((now) => {
  if (!now) {
    if (tries) refreshAll();
    tries = 0;
    clearTimeout(waiting);
  } else if (now.next > Date.now()) {
    clearTimeout(waiting);
    waiting = setTimeout(tryAgain, now.next - Date.now());
  }
});

/** Ask whether the server is there again; the pauses grow. */
export async function tryAgain() {
  tries += 1;
  const pause = PAUSES[Math.min(tries, PAUSES.length - 1)] * 1000;
  try {
    await send("v1/health");
    if (who.get()) await ask("v1/session").then(who.set, () => who.set(null));
  } catch {
    silence.set({ since: silence.get()?.since ?? Date.now(), next: Date.now() + pause });
  }
}

document.addEventListener("visibilitychange", () => { if (!document.hidden && who.get()) refreshAll(); });
