// A list of any length: some of it is drawn, letters find the others.
import { Button } from "./controls.mjs";
import { html, useMemo, useState } from "./html.mjs";
import { Icon } from "./icons.mjs";

const FEW = 8;  // entries that need no filter

export const Filter = ({ words, setWords, where = "", what = "Filter by name" }) => html`<label class=${`field filter ${where}`}><${Icon} name="search"/><span class="sr">Filter</span>
  <input class="bareinput" placeholder=${what} value=${words} onInput=${(event) => setWords(event.target.value)}/></label>`;

/**
 * The part of a list that is drawn, the field that filters it (where it is long), and what tells of the rest.
 * @template T
 * @param {T[]} all what the page knows
 * @param {(each: T) => string} text what of an entry is searched
 * @param {{step?: number, total?: number}} [options] how many are drawn more at a time, and how many the server has
 * @returns {{drawn: T[], filter: unknown, rest: unknown}}
 */
export function useListing(all, text, { step = 100, total = all.length } = {}) {
  const [words, setWords] = useState("");
  const [most, setMost] = useState(step);
  const found = useMemo(() => (words ? all.filter((each) => text(each).toLowerCase().includes(words.toLowerCase())) : all), [all, words]);
  const drawn = found.slice(0, most);
  const left = drawn.length < found.length;
  const number = (each) => each.toLocaleString("en");
  const told = [
    left && `The first ${number(drawn.length)} of ${number(found.length)}.`,
    words && !found.length && "Nothing here matches.",
    total > all.length && `The page has the first ${number(all.length)} of ${number(total)}.`,
  ].filter(Boolean);
  const rest = told.length > 0 && html`<div class="row between pad"><span class="help" role="status">${told.join(" ")}</span>${left && html`<${Button} small onClick=${() => setMost(most + step)}>More<//>`}</div>`;
  return { drawn, filter: all.length > FEW ? html`<div class="row"><${Filter} words=${words} setWords=${setWords}/></div>` : null, rest };
}
