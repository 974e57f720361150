// What the server is asked again and again: one request for all who look, while somebody looks.
import { NoAnswer, ask, isAbort, send, silence, who } from "./api.mjs";
import { cell, useCell } from "./cell.mjs";
import { useEffect, useState } from "./html.mjs";

export const PAUSES = [1, 2, 4, 8, 15];  // seconds
const LATE = 60_000;  // milliseconds: a connection that broke without a word never answers
const AGAIN = [5, 10, 20, 40, 60];  // seconds: what is asked once, and was refused for now
const sources = new Map();
const SOON = 400;  // milliseconds: what is here by then needs no sign that it comes

/** How many first answers are waited for, and have been for a while. */
export const awaited = cell(0);

/** Whether a refusal is of a state of the server, or of a proxy before it: the same may be answered later. */
export const passes = ({ status = 0 }) => status === 0 || status === 408 || status === 429 || status >= 500;

/** Seconds until what was refused so often in a row is asked again: what is asked every so many seconds anyway less often, what is asked once only if that may help. */
function later(every, refused, error) {
  const [pauses, least] = every < Infinity ? [PAUSES, every] : passes(error) ? [AGAIN, 0] : [[Infinity], 0];
  return Math.max(least, pauses[Math.min(refused, pauses.length) - 1], error.wait ?? 0);
}

/** Count an answer that does not come soon; what is returned ends that. */
export function wait() {
  let late = 0;
  const timer = setTimeout(() => { late = 1; awaited.set(awaited.get() + 1); }, SOON);
  return () => { clearTimeout(timer); awaited.set(awaited.get() - late); late = 0; };
}

/** What was loaded under a key, as soon as it came, also after the server was away; what comes late, under a key that was left, puts nothing else away. @param {() => Promise<any>} load @returns {{module?: any, error?: Error}} */
export function useLoaded(/** @type {string} */ key, load) {
  const [made, setMade] = useState(/** @type {Record<string, {module?: any, error?: Error}>} */ ({}));
  useEffect(() => {
    let done = () => {}, lost = false, left = false, tries = 0, timer = 0, before = /** @type {any} */ (null);
    const show = (now) => { lost = now.error instanceof NoAnswer; setMade((all) => ({ ...all, [key]: now })); };
    const later = () => { timer = setTimeout(() => { if (lost) begin(); }, PAUSES[Math.min(tries, PAUSES.length) - 1] * 1000); };
    // Of a file that did not come a browser says no more than `TypeError`, each time another one. What a module fails of itself is kept, and comes again.
    const fail = (error) => {
      if (left) return;
      if (!(error instanceof TypeError) || error === before) { show({ error }); return; }
      before = error;
      tries += 1;
      if (tries === 1) { begin(); return; }
      show({ error: new NoAnswer() });
      send("v1/health").then(later, () => {});  // it tells of a silence, whose end loads it
    };
    const begin = () => {
      clearTimeout(timer);
      done = wait();
      load().then((module) => show({ module }), fail).finally(done);
    };
    begin();
    const leave = silence.watch((now) => { if (!now && lost) begin(); });
    return () => { left = true; leave(); clearTimeout(timer); done(); };
  }, [key]);
  return made[key] ?? {};
}

/** What `path` answers; behind a `#` is the name of a list, all pages of which are read. */
async function read(path, options) {
  if (path === "metrics") return (await send(path, options)).text();
  const [start, list] = path.split("#");
  const whole = await ask(start, options);
  while (list && whole.next_cursor) {
    const { [list]: more, next_cursor: next } = await ask(`${start}&cursor=${encodeURIComponent(whole.next_cursor)}`, options);
    Object.assign(whole, { [list]: [...whole[list], ...more], next_cursor: next });
  }
  return whole;
}

class Source {
  constructor(path) {
    this.path = path;
    this.cell = cell({ data: null, error: /** @type {any} */ (null), at: 0 });
    this.wishes = new Set();
    this.timer = 0;  // 0: nothing is planned
    this.asked = this.told = 0;  // the number of the last request, and of the one whose answer is shown
    this.flying = 0;  // the number of a request that is on its way
    this.refused = 0;  // how often in a row
  }

  /** Ask now: what is under way may be of before a change. Of answers that come out of order the newest stays. */
  async refresh() {
    clearTimeout(this.timer);
    this.timer = 0;
    const turn = this.flying = this.asked += 1;
    const { at, error: before } = this.cell.get();
    const done = at || before ? () => {} : wait();
    const options = { again: false, signal: AbortSignal.timeout(LATE) };
    try {
      this.take(turn, { data: await read(this.path, options), error: null, at: Date.now() });
    } catch (error) {
      // Who signs in asks everything again: until then what is known stays.
      if (!isAbort(error) && !(error.status === 401 && who.get() === null)) this.take(turn, { ...this.cell.get(), error });
    }
    done();
    if (turn === this.flying) this.flying = 0;
    if (turn === this.asked) this.plan();
  }

  take(turn, said) {
    if (turn < this.told) return;
    this.told = turn;
    this.refused = said.error ? this.refused + 1 : 0;
    this.cell.set(said);
  }

  /** Ask, unless an answer has just come or is on its way. */
  want() {
    if (this.flying === this.asked && this.flying) return;
    if (Date.now() - this.cell.get().at > 1000) this.refresh(); else this.plan();
  }

  /** Forget what is known, and what is on its way. */
  forget() {
    this.told = this.asked += 1;
    this.refused = 0;
    this.cell.set({ data: null, error: null, at: 0 });
  }

  /** Ask again when it is time; not while the server is away, or nobody looks: the end of that asks. */
  plan() {
    clearTimeout(this.timer);
    this.timer = 0;
    const { error } = this.cell.get();
    const wish = Math.min(...this.wishes);
    const every = error ? later(wish, this.refused, error) : wish;
    if (!this.wishes.size || every === Infinity || document.hidden || silence.get()) return;
    this.timer = setTimeout(() => { this.timer = 0; if (!silence.get()) this.refresh(); }, every * 1000);
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
    source.want();
    return () => { source.wishes.delete(wish); source.plan(); };
  }, [path, every]);
  return useCell(source.cell);
}

/** Ask again now, of a list that is looked at also all its pages. */
export const refresh = (...paths) => Promise.all([...sources.values()]
  .filter((source) => paths.includes(source.path) || (source.wishes.size && paths.includes(source.path.split("#")[0]))).map((source) => source.refresh()));

/** Ask again all whose addresses begin so, and that somebody looks at. */
export function refreshBelow(start) {
  for (const source of sources.values()) if (source.wishes.size && source.path.startsWith(start)) source.refresh();
}

/** Ask everything again that somebody looks at. */
export function refreshAll() {
  for (const source of sources.values()) if (source.wishes.size) source.refresh();
}

/** Forget what one person saw before another signs in. */
export function forget() {
  for (const source of sources.values()) source.forget();
}

let tries = 0;
let waiting = 0;
silence.watch((now) => {
  if (!now) {
    // What has no answer though the server has, as where a proxy drops one path, is asked in its own time: the pauses grow.
    for (const source of sources.values()) if (source.wishes.size && tries && source.refused < 2) source.refresh(); else if (!source.timer && !source.flying) source.plan();
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
    await send("v1/health", { signal: AbortSignal.timeout(LATE) });
    if (who.get()) await ask("v1/session").then(who.set, () => {});  // one that is over is told by its refusal
  } catch {
    silence.set({ since: silence.get()?.since ?? Date.now(), next: Date.now() + pause });
  }
}

document.addEventListener("visibilitychange", () => {
  if (document.hidden || !who.get()) return;
  if (silence.get()) tryAgain(); else refreshAll();
});
