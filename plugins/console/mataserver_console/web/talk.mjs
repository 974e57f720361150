// What was said on Ask, and what is being written: it stays while another page is open, and over a reload until signing out.
import { who } from "./api.mjs";
import { useEffect, useLayoutEffect, useState } from "./html.mjs";
import { keep, kept } from "./kept.mjs";

const MOST = 200;  // turns that are kept: an answer has some thousand letters
const STEP = 200;  // letters: an answer is not kept anew with each word of it
const NONE = { of: "", turns: /** @type {any[]} */ ([]), words: "", known: false };

/** `known`: what a visit before left was looked for. */
const talk = { ...NONE };

/** A turn without a page that writes it on. */
const over = (turn) => (turn.done ? turn : { ...turn, stopped: true, done: performance.now() });
/** A turn as it can be kept: a store loses what an error has beside its message. */
const plain = ({ error, ...turn }) => ({ ...turn, error: error && { message: error.message, id: error.id } });

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
      if (found && found.of !== me) { keep("talk", null); return; }
      if (!found) return;
      setTurns((now) => (now.length ? now : found.turns.map(over)));
      setWords((now) => now || found.words);
    });
    return () => { talk.turns = talk.turns.map(over); };
  }, [me]);
  const last = turns.at(-1);
  useLayoutEffect(() => {
    if (talk.known) keep("talk", turns.length || words ? { of: me, turns: turns.slice(-MOST).map(plain), words } : null);
  }, [me, words, turns.length, last?.question, last?.done, Math.floor((last?.text.length ?? 0) / STEP)]);
  return { turns, setTurns, words, setWords };
}
