// The video that is open on this page, and the frame of it that is looked at.
import { isAbort, who } from "./api.mjs";
import { Film, isOver } from "./film.mjs";
import { useEffect, useRef, useState } from "./html.mjs";
import { warns } from "./open_sessions.mjs";
import { Tracks, promptOf } from "./tracks.mjs";

const NOTHING = { phase: "off", file: null, info: null, sent: 0, begun: 0, error: null, busy: 0, tracking: null, ended: null, missing: "" };
const KEPT = 60;
const LATE = 400;
const PAUSE = 600;  // milliseconds: several points that are taken back are one change for the session

const seenOf = (answer, at) => ({ mask: answer.masks[at], box: answer.boxes[at], score: answer.scores[at] });

const never = () => false;

/** Point at an object of a session as it was pointed at before; what is given up in between is done again, all of it. */
async function pointedAgain(film, tracks, thing, stopped = never) {
  for (const each of thing.pointed) {
    if (stopped()) return;
    const answer = await film.prompt(each.frame, [promptOf(each)], thing.id);
    [thing.id] = answer.obj_id;
    tracks.put(each.frame, thing, seenOf(answer, 0));
  }
  thing.stale = false;
}

/** Take an object from the session; it may be gone there. */
async function taken(film, thing) {
  if (!thing || thing.id === null) return;
  try { await film.remove(thing.id); } catch (error) { if (error.status !== 404 || isOver(await film.judged(error))) throw error; }
  thing.id = null;
}

/** Have the session know of an object what the page knows, after points were taken back. */
async function repaired(film, tracks, thing, stopped = never) {
  if (!thing?.stale || stopped()) return;
  await taken(film, thing);
  await pointedAgain(film, tracks, thing, stopped);
}

/** The same of each object that the page has by now: one that was removed in between must not come back. */
async function mended(film, tracks, stopped = never) {
  for (const thing of tracks.things) await repaired(film, tracks, thing, stopped);
}

/** Ask a new session all that the one before it was asked. */
async function replayed(film, tracks) {
  for (const thing of tracks.things) thing.id = null;
  for (const { words, frame, keys } of tracks.asked) {
    const { obj_id: ids } = await film.prompt(frame, [{ type: "text", text: words }]);
    for (const [at, id] of ids.entries()) {
      const thing = tracks.get(keys[at]);
      if (thing) thing.id = id; else await taken(film, { id });  // it was removed
    }
  }
  for (const thing of tracks.things) await pointedAgain(film, tracks, thing);
}

const planned = (direction, from, total) => ({ forward: total - from, backward: from + 1, both: total })[direction];

/** All of an open video; what is under way goes on with it, whether or not its page is seen. */
const made = () => ({
  state: NOTHING, draw: /** @type {(state: any) => void} */ (() => {}), bump: () => {}, of: who.get()?.id,
  film: { current: /** @type {any} */ (null) }, tracks: { current: new Tracks() }, slot: { current: /** @type {any} */ ({ key: null }) }, waiting: { current: /** @type {any[]} */ ([]) },
  line: { current: /** @type {Promise<any>} */ (Promise.resolve(true)) }, mending: { current: 0 }, run: { current: /** @type {{stop: () => void} | null} */ (null) },
});
/** The video with objects whose page was left for another one of the console. @type {ReturnType<typeof made> | null} */
let away = null;
function letGo() { away?.film.current.end(); away = null; }
/** Whether it is of who is signed in; who signs in anew may be the same person. */
const isOurs = (own) => (who.get()?.id ?? own.of) === own.of;
function takenUp() {
  if (away && !isOurs(away)) letGo();
  const found = away ?? made();
  away = null;
  return found;
}
who.watch(() => { if (away && !isOurs(away)) letGo(); });  // somebody else finds nothing of it
addEventListener("pagehide", letGo);
/** The one on the page that is open. @type {ReturnType<typeof made> | null} */
let seen = null;
warns(() => Boolean((seen ?? away)?.tracks.current.things.length));

/** The session of this page. Opening ends the one before it; so does leaving the page without an object, or the console. */
export function useFilm() {
  const [own] = useState(takenUp);
  const [state, draw] = useState(own.state);
  const [version, setVersion] = useState(0);
  own.draw = draw;
  own.bump = () => setVersion((number) => number + 1);
  const { film, tracks, slot, waiting, line, mending, run } = own;
  const bump = () => own.bump();
  const set = (next) => { own.state = typeof next === "function" ? next(own.state) : next; own.draw(own.state); };
  const change = (own, changes) => { if (film.current === own) set((old) => ({ ...old, ...(typeof changes === "function" ? changes(old) : changes) })); };
  const fail = async (error, own = film.current) => { if (own && !own.ended && !isAbort(error)) change(own, { error: await own.judged(error) }); };
  const begin = (file) => {
    film.current?.end();
    const own = new Film(file, (changes) => change(own, changes));
    film.current = own;
    waiting.current = [];
    line.current = Promise.resolve(true);
    return own;
  };
  const fresh = () => { tracks.current = new Tracks(); slot.current = { key: null }; bump(); };
  /** One after the other, in the order of the clicks. Returns whether it was done. */
  const work = (act) => {
    const own = film.current;
    if (!own || own.ended) return Promise.resolve(false);
    change(own, (old) => ({ busy: old.busy + 1, error: null, ended: null, missing: "" }));
    line.current = line.current.then(async () => {
      let done = false;
      try { if (!own.ended) { await act(own, tracks.current); done = true; } } catch (error) { await fail(error, own); }
      change(own, (old) => ({ busy: Math.max(0, old.busy - 1) }));
      bump();
      return done;
    });
    return line.current;
  };
  const close = () => { film.current?.end(); film.current = null; fresh(); set(NOTHING); };
  const open = (file) => {
    fresh();
    const own = begin(file);
    set({ ...NOTHING, phase: "sending", file, begun: performance.now() });
    return own.open();
  };
  const again = async () => {
    const own = begin(state.file);
    set((old) => ({ ...old, phase: "sending", sent: 0, begun: performance.now(), error: null, busy: 0, tracking: null, ended: null }));
    if (await own.open()) work(replayed);
  };
  const tell = (text) => set((old) => ({ ...old, missing: text }));
  const choose = (key) => { slot.current = { key }; bump(); };
  const point = (frame, given) => {
    const own = slot.current;
    if (own.key === null && !own.begun && !given.box && !given.points[0][2]) { tell("A new object begins with a click on it."); return; }
    own.begun = true;
    const pointed = { frame, ...given, own, sent: false, dropped: false, undone: false };
    waiting.current.push(pointed);
    work(async (session, known) => {
      if (pointed.dropped) return;
      pointed.sent = true;
      try {
        const thing = known.get(own.key);
        await repaired(session, known, thing);
        pointed.before = thing && known.known(thing, frame);
        const answer = await session.prompt(frame, [promptOf(given)], thing?.id ?? null);
        if (pointed.undone && !thing) { await taken(session, { id: answer.obj_id[0] }); return; }  // taken back before it was answered: it is not drawn at all
        const made = thing ?? known.add(answer.obj_id[0]);
        [made.id] = answer.obj_id;
        own.key = made.key;
        made.pointed.push(pointed);
        known.prompted(made, frame, seenOf(answer, 0));
      } finally { waiting.current = waiting.current.filter((each) => each !== pointed); own.begun = own.key !== null; }
    });
  };
  const find = (frame, words) => work(async (session, known) => {
    const answer = await session.prompt(frame, [{ type: "text", text: words }]);
    const found = answer.obj_id.map((id) => known.of(id, words));
    known.asked.push({ words, frame, keys: found.map((thing) => thing.key) });
    found.forEach((thing, at) => known.prompted(thing, frame, seenOf(answer, at)));
    slot.current = { key: null };
    if (!answer.obj_id.length) change(session, { missing: `Nothing on this frame looks like “${words}”. It is looked for on the others, too.` });
  });
  const remove = (key) => work(async (session, known) => {
    await taken(session, known.get(key));
    known.drop(key);
    if (slot.current.key === key) slot.current = { key: known.things.at(-1)?.key ?? null };
  });
  /** Whether a point may not be taken back: the session could not be told what words found without it. */
  const stays = (pointed) => pointed.sent && Boolean(tracks.current.get(pointed.own.key)?.word);
  /** Take back the last point; one that waits is taken at once, one that was sent as soon as it is answered. */
  const undo = () => {
    const last = waiting.current.at(-1);
    if (last && stays(last)) return;
    waiting.current = waiting.current.slice(0, -1);
    bump();
    if (last) last.undone = true;
    if (!last || last.sent) { back(last); return; }
    last.dropped = true;
    last.own.begun = last.own.key !== null || waiting.current.some((each) => each.own === last.own);
  };
  const back = (last) => work(async (session, known) => {
    const thing = last ? known.things.find((each) => each.pointed.at(-1) === last) : known.get(slot.current.key);  // another object may be chosen since
    if (!thing?.pointed.length || thing.word) return;  // it was refused
    if (thing.pointed.length === 1) {
      await taken(session, thing);
      known.drop(thing.key);
      if (slot.current.key === thing.key) slot.current = { key: null };
      return;
    }
    const { frame, before } = thing.pointed.pop();
    known.restore(thing, frame, before);
    thing.stale = true;
    clearTimeout(mending.current);
    mending.current = setTimeout(() => { if (film.current === session && tracks.current.things.some((each) => each.stale)) work((own, all) => mended(own, all)); }, PAUSE);
  });
  const reset = () => work(async (session) => { await session.reset(); fresh(); });
  const track = async (direction, from) => {
    const own = film.current, begun = performance.now();
    const now = { done: 0, planned: planned(direction, from, state.info.total_frames), begun, frame: from };
    let drawing = 0, stopped = false;
    const stop = new Promise((done) => { run.current = { stop: () => { stopped = true; own.stop(); done(false); } }; });
    const show = () => { drawing = 0; change(own, (old) => (old.tracking ? { tracking: { ...now } } : {})); bump(); };
    change(own, { tracking: { ...now }, ended: null, error: null, missing: "" });
    try {
      const ready = await Promise.race([stop, work((session, all) => mended(session, all, () => stopped))]);
      const known = tracks.current;  // what was asked before this may have begun all anew
      const result = !ready || stopped || !known.things.length ? { frames: 0, whole: false } : await own.track({ direction, from }, (said) => {
        known.take(said);
        now.done += 1;
        now.frame = said.frame_index;
        drawing ||= requestAnimationFrame(show);
      });
      change(own, { ended: known.things.length ? { ...result, frame: now.frame, took: (performance.now() - begun) / 1000 } : null });
    } catch (error) {
      change(own, { ended: { frames: now.done, frame: now.frame, whole: false } });
      await fail(error, own);
    }
    change(own, { tracking: null });
    bump();
  };
  useEffect(() => {
    seen = own;
    const leave = () => { film.current?.end(); };
    const back = (event) => { if (event.persisted && film.current?.ended) set((old) => ({ ...old, tracking: null, error: Object.assign(new Error("The page was left"), { over: true }) })); };
    addEventListener("pagehide", leave); addEventListener("pageshow", back);
    return () => {
      removeEventListener("pagehide", leave); removeEventListener("pageshow", back);
      seen = null;
      if (film.current && tracks.current.things.length && isOurs(own)) { away = own; return; }
      leave();
      film.current = null;
    };
  }, []);
  const current = tracks.current.get(slot.current.key);
  return {
    ...state, version, tracks: tracks.current, now: slot.current.key, waiting: waiting.current, session: film.current,
    canUndo: Boolean((waiting.current.length ? !stays(waiting.current.at(-1)) : (current && !current.word && current.pointed.length)) && !state.tracking && state.phase === "open"),
    open, close, again, choose, point, find, remove, undo, reset, track, fail, tell,
    stop: () => run.current?.stop(), picture: (frame) => film.current.picture(frame), drawn: (asked) => film.current.drawn(asked),
  };
}

/** The frame that is looked at: the newest that is wanted is fetched, one at a time. */
export function useFrame(film) {
  const { file, info, tracking, ended } = film;
  const [wanted, setWanted] = useState(0);
  const [shown, setShown] = useState({ frame: 0, url: "", error: null });
  const [late, setLate] = useState(false);
  const [playing, setPlaying] = useState(false);
  const own = useRef({ urls: new Map(), target: 0, busy: false, follows: true, film });
  own.current.film = film;
  const forget = () => { for (const url of own.current.urls.values()) URL.revokeObjectURL(url); own.current.urls.clear(); };
  const keep = (frame, blob) => {
    const { urls } = own.current;
    urls.set(frame, URL.createObjectURL(blob));
    if (urls.size > KEPT) { const [oldest, url] = urls.entries().next().value; urls.delete(oldest); setTimeout(() => URL.revokeObjectURL(url), 1000); }
    return urls.get(frame);
  };
  const fetched = async (frame) => own.current.urls.get(frame) ?? keep(frame, await own.current.film.picture(frame));
  const load = async () => {
    const { current } = own;
    if (current.busy) return;
    current.busy = true;
    const timer = setTimeout(() => setLate(true), LATE);
    for (let done = null; done !== current.target && current.film.info;) {
      const frame = done = current.target, of = current.film.file;
      try {
        const url = await fetched(frame);
        if (current.film.file === of) setShown({ frame, url, error: null });
      } catch (error) {
        if (!isAbort(error)) setShown((old) => ({ ...old, error }));
        await current.film.fail(error);
      }
    }
    clearTimeout(timer);
    setLate(false);
    current.busy = false;
  };
  const show = (frame) => { own.current.target = frame; setWanted(frame); load(); };
  const go = (frame) => { own.current.follows = false; setPlaying(false); if (info) show(Math.max(0, Math.min(info.total_frames - 1, frame))); };
  const step = (by) => go(own.current.target + by);  // of what is wanted now, not of what was drawn last
  useEffect(() => { forget(); setPlaying(false); setShown({ frame: 0, url: "", error: null }); setWanted(0); own.current.target = 0; }, [file]);
  useEffect(() => { if (info) load(); }, [info]);
  useEffect(() => forget, []);
  useEffect(() => { if (tracking) { own.current.follows = true; setPlaying(false); } }, [Boolean(tracking)]);
  const followed = (tracking ?? ended)?.frame;
  useEffect(() => { if (followed !== undefined && own.current.follows) show(followed); }, [followed]);
  useEffect(() => {
    if (!playing) return undefined;
    const begun = performance.now(), from = wanted >= info.total_frames - 1 ? 0 : wanted;
    const timer = setInterval(() => {
      const frame = Math.min(info.total_frames - 1, from + Math.floor(((performance.now() - begun) / 1000) * info.fps));
      show(frame);
      if (frame === info.total_frames - 1) setPlaying(false);
    }, 1000 / Math.min(60, info.fps));
    return () => clearInterval(timer);
  }, [playing]);
  return { wanted, shown: { ...shown, late }, playing, go, step, play: () => { own.current.follows = false; setPlaying(!playing); } };
}
