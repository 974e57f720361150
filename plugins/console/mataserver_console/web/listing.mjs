// A list of any length: some of it is drawn, letters find the others.
import { Button } from "./controls.mjs";
import { html, useMemo, useState } from "./html.mjs";
import { Icon } from "./icons.mjs";
import { useSource } from "./source.mjs";

const FEW = 8;  // entries that need no filter
const WHOLE = 10;  // seconds until all pages of a list are read again
const NONE = [];

export const Filter = ({ words, setWords, where = "", what = "Filter by name" }) => html`<label class=${`field filter ${where}`}><${Icon} name="search"/><span class="sr">Filter</span>
  <input class="bareinput" placeholder=${what} value=${words} onInput=${(event) => setWords(event.target.value)}/></label>`;

/** A list of the server: its first page, and all of it once letters are looked for, or more is wanted than that page has. */
function usePages({ path, list, every }, wants) {
  const { data: first, error } = useSource(path, every);
  const { data: whole } = useSource(first?.next_cursor && wants(first[list].length) ? `${path}#${list}` : null, WHOLE);
  const data = whole ?? first, all = data?.[list] ?? NONE;
  return { data, error, all, total: data?.next_cursor ? data.total : all.length };
}

/** A list of the server by its address, as `useListing` gives it, with what the server answered. */
export function useServerListing(asked, text, step = 100) {
  const [words, setWords] = useState("");
  const [most, setMost] = useState(step);
  const { data, error, all, total } = usePages(asked, (length) => words !== "" || most > length);
  return { data, error, all, ...useDrawn({ all, total, text, step, words, setWords, most, setMost }) };
}

/**
 * The part of a list that is drawn, the field that filters it (where it is long), and what tells of the rest.
 * @template T
 * @param {T[]} all
 * @param {(each: T) => string} text what of an entry is searched
 * @param {{step?: number}} [options] how many are drawn more at a time
 * @returns {{drawn: T[], filter: unknown, rest: unknown}}
 */
export function useListing(all, text, { step = 100 } = {}) {
  const [words, setWords] = useState("");
  const [most, setMost] = useState(step);
  return useDrawn({ all, total: all.length, text, step, words, setWords, most, setMost });
}

function useDrawn({ all, total, text, step, words, setWords, most, setMost }) {
  const found = useMemo(() => (words ? all.filter((each) => text(each).toLowerCase().includes(words.toLowerCase())) : all), [all, words]);
  const drawn = found.slice(0, most);
  const coming = total > all.length, many = words ? found.length : total;
  const left = drawn.length < many;
  const number = (each) => each.toLocaleString("en");
  const told = [
    left && `The first ${number(drawn.length)} of ${number(many)}.`,
    words && coming ? `Looking through all ${number(total)}.` : words && !found.length && "Nothing here matches.",
  ].filter(Boolean);
  const rest = told.length > 0 && html`<div class="row between pad"><span class="help" role="status">${told.join(" ")}</span>${left && html`<${Button} small onClick=${() => setMost(most + step)}>More<//>`}</div>`;
  return { drawn, filter: all.length > FEW ? html`<div class="row"><${Filter} words=${words} setWords=${setWords}/></div>` : null, rest };
}
