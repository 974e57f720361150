// What was said on Ask, and what is being written: it stays while another page is open, and over a reload until signing out.
import { who } from "./api.mjs";
import { useEffect, useLayoutEffect, useState } from "./html.mjs";
import { keep, kept } from "./kept.mjs";

const MOST = 200;  // turns that are kept: an answer has some thousand letters
const STEP = 200;  // letters: an answer is not kept anew with each word of it
const NONE = { of: "", turns: /** @type {any[]} */ ([]), words: "", known: false, asked: 0, said: "", written: "" };

/**
 * `known`: what a visit before left was looked for. `asked`: when its last question was, or, without one, when this was looked for.
 * `said` and `written`: what of it is kept.
 */
const talk = { ...NONE };

/** A turn without a page that writes it on. */
const over = (turn) => (turn.done ? turn : { ...turn, stopped: true, done: performance.now() });
/** A turn as it can be kept: a store loses what an error has beside its message. */
const plain = ({ error, ...turn }) => ({ ...turn, error: error && { message: error.message, id: error.id } });
/** What differs between turns that are kept anew. */
const mark = (turns, last = turns.at(-1)) => (last ? [turns.length, last.asked, last.done, Math.floor(last.text.length / STEP)].join() : "");

/** Keep what changed here, unless another tab has asked since. */
function keepChange() {
  const { of, turns, words, written } = talk;
  const said = mark(turns), isSaid = said !== talk.said;
  if (!isSaid && words === written) return;
  const asked = Math.max(talk.asked, turns.at(-1)?.asked ?? 0);
  Object.assign(talk, { asked, said, written: words });
  keep("talk", (there) => {
    const other = there?.of === of ? there : null;
    if (other?.asked > asked) return there;
    const all = isSaid || !other ? turns.slice(-MOST).map(plain) : other.turns;  // a tab that only writes may show an answer that another one has whole
    return all.length || words ? { of, asked, turns: all, words } : null;
  });
}

/** The talk of who is signed in. */
export function useTalk() {
  const me = who.get()?.id ?? talk.of;
  if (talk.of !== me) Object.assign(talk, NONE, { of: me });
  const [turns, setTurns] = useState(talk.turns);
  const [words, setWords] = useState(talk.words);
  Object.assign(talk, { turns, words });
  useEffect(() => {
    if (!talk.known) kept("talk").then((found) => {
      if (talk.of !== me || talk.known) return;
      talk.known = true;
      const own = found?.of === me ? found : null;
      if (found && !own) keep("talk", null);
      const before = own?.turns.map(over) ?? [], written = own?.words ?? "";
      Object.assign(talk, { asked: own ? own.asked ?? 0 : Date.now(), said: mark(before), written });
      setTurns((now) => (now.length ? now : before));
      setWords((now) => now || written);
      Object.assign(talk, { turns: talk.turns.length ? talk.turns : before, words: talk.words || written });
      keepChange();  // what was written before this was known
    });
    return () => { talk.turns = talk.turns.map(over); };
  }, [me]);
  useLayoutEffect(() => { if (talk.known) keepChange(); }, [me, words, mark(turns)]);
  return { turns, setTurns, words, setWords };
}
