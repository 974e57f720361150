// The answer in words: a list that is linked with the picture, the threshold, the JSON, the time.
import { Copy, Slider } from "./controls.mjs";
import { html, memo, useEffect, useRef, useState } from "./html.mjs";
import { ms } from "./format.mjs";
import { Icon } from "./icons.mjs";

const place = ([x1, y1, x2, y2]) => `box ${Math.round(x1)}, ${Math.round(y1)} to ${Math.round(x2)}, ${Math.round(y2)}; ${Math.round(x2 - x1)} × ${Math.round(y2 - y1)} px`;

const Row = memo(({ item, on, setHover, share }) => {
  const row = useRef(null);
  useEffect(() => { if (on && !row.current.matches(":hover, :focus")) row.current.scrollIntoView({ block: "nearest" }); }, [on]);
  const more = [item.id === undefined ? "" : `track ${item.id}`, item.box ? place(item.box) : "", share === undefined ? "" : `${(share * 100).toFixed(1)} % of the picture`].filter(Boolean);
  return html`<li ref=${row} class=${`${item.k} ${on ? "on" : ""}`} tabindex="0" data-n=${item.n} onMouseEnter=${() => setHover(item.n)} onMouseLeave=${() => setHover(0)}
    onFocus=${() => setHover(item.n)} onBlur=${() => setHover(0)}>
    <span class="sw">${item.n}</span><span class=${on ? "whole" : "cut"} title=${item.name}>${item.name}</span>
    ${item.score === null ? html`<span></span><span></span>` : html`<span class="meter"><i style=${{ width: `${Math.max(0, Math.min(1, item.score)) * 100}%` }}></i></span><span class="v">${item.score.toFixed(2)}</span>`}
    ${on && more.length > 0 && html`<span class="more help">${more.join("; ")}</span>`}</li>`;
});

export function Found({ items, shown, hover, setHover, from, outlines }) {
  const list = useRef(null);
  const step = (event) => {
    const by = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (!by) return;
    const rows = [...list.current.querySelectorAll("li[data-n]")];
    rows[rows.indexOf(document.activeElement) + by]?.focus();
    event.preventDefault();
  };
  return html`<ul class="found" ref=${list} onKeyDown=${step} tabindex="-1">
    ${shown.map((item) => html`<${Row} key=${item.n} item=${item} on=${item.n === hover} setHover=${setHover} share=${outlines?.get(item.n)?.share}/>`)}
    ${shown.length < items.length && html`<li class="off"><span class="sw none">${items.length - shown.length}</span><span>below ${from.toFixed(2)}</span></li>`}</ul>`;
}

const Line = memo(({ item, on, setHover }) => html`<li data-n=${item.n} class=${on ? "on" : ""} tabindex="0" onMouseEnter=${() => setHover(item.n)}
  onMouseLeave=${() => setHover(0)} onFocus=${() => setHover(item.n)} onBlur=${() => setHover(0)}><span class="whole">${item.name}</span><span class="v quiet">${item.score?.toFixed(2)}</span></li>`);

/** Lines of text in the order of reading. */
export function Lines({ items, text, hover, setHover }) {
  return html`<div class="row between pad tight-bottom"><h2>Text</h2><${Copy} text=${text}>Copy all<//></div>
    <ol class="found lines">${items.map((item) => html`<${Line} key=${item.n} item=${item} on=${item.n === hover} setHover=${setHover}/>`)}</ol>`;
}

/** Bars on one scale, the best first. */
export const Bars = ({ items }) => html`<ul class="classes">${items.map((item) => html`<li key=${item.n}>
  <span class="whole">${item.name}</span><span class="meter"><i style=${{ width: `${Math.max(0, Math.min(1, item.score ?? 0)) * 100}%` }}></i></span><span>${item.score?.toFixed(2)}</span></li>`)}</ul>`;

const Ticks = memo(({ items, from }) => html`<div class="ticks" aria-hidden="true">${items.map((item) => html`<i key=${item.n} class=${item.score < from ? "lo" : ""} style=${{ left: `${item.score * 100}%` }}></i>`)}</div>`);

export const From = ({ items, from, setFrom }) => html`<section class="sect"><div class="stack-4"><span class="label"><span>Show from</span><span>${from.toFixed(2)}</span></span>
  <${Ticks} items=${items} from=${from}/>
  <${Slider} label="Show from" min=${0} max=${1} step=${0.01} value=${from} onInput=${setFrom}/>
  <span class="help">Each tick is one result. Nothing is run again.</span></div></section>`;

const STAGES = [["decode", "c4"], ["queue", "c6"], ["infer", "c1"], ["encode", "c3"], ["other", "c2"]];

/** Where the server's time went. */
export function Times({ times }) {
  if (!times?.total) return null;
  const known = STAGES.slice(0, -1).reduce((sum, [name]) => sum + (times[name] ?? 0), 0);
  const all = { ...times, other: Math.max(0, times.total - known) };
  const parts = STAGES.filter(([name]) => all[name] !== undefined);
  const plain = (value) => (value < 10 ? value.toFixed(1) : Math.round(value));
  return html`<section class="sect end times"><div class="row between"><h3>Server time</h3><b>${ms(times.total)}</b></div>
    <div class="timing" role="img" aria-label=${`${parts.map(([name]) => `${name} ${plain(all[name])}`).join(", ")} milliseconds`}>
      ${parts.map(([name, kind]) => html`<i key=${name} class=${kind} style=${{ flex: `${Math.max(all[name], 0.01)} 1 0` }}></i>`)}</div>
    <div class="legend">${parts.map(([name, kind]) => html`<span key=${name}><i class=${kind}></i>${name} <b>${plain(all[name])}</b></span>`)}</div></section>`;
}

const LONG = 120;
const DEEP = 2;

function Value({ name, value, depth, words }) {
  const key = name === undefined ? "" : html`<span class="k">${name}</span>: `;
  if (value === null || typeof value !== "object") {
    const text = typeof value === "string" && value.length > LONG ? `${value.slice(0, LONG - 20)}… ${value.length} letters` : value;
    return html`<div class="leaf">${key}<span class=${typeof value === "string" ? "s" : ""}>${JSON.stringify(text)}</span></div>`;
  }
  const entries = Array.isArray(value) ? value.map((each, at) => [at, each]) : Object.entries(value);
  if (entries.every(([, each]) => typeof each === "number") && entries.length < 9) return html`<div class="leaf">${key}${JSON.stringify(value)}</div>`;
  const open = depth < DEEP || (words && JSON.stringify(value).toLowerCase().includes(words));
  const shown = entries.length > 300 ? entries.slice(0, 300) : entries;
  return html`<details open=${Boolean(open)}><summary>${key}${Array.isArray(value) ? `[${entries.length}]` : `{${entries.length}}`}</summary>
    ${shown.map(([each, inner]) => html`<${Value} key=${each} name=${each} value=${inner} depth=${depth + 1} words=${words}/>`)}
    ${shown.length < entries.length && html`<div class="leaf d">… ${entries.length - shown.length} more</div>`}</details>`;
}

/** The answer as it came: folded two levels deep, opened where a word is found. */
export function Json({ value }) {
  const [words, setWords] = useState("");
  return html`<div class="row pad tight-bottom"><label class="field grow"><${Icon} name="search"/><span class="sr">Find in the JSON</span>
    <input class="bareinput" placeholder="Find" value=${words} onInput=${(event) => setWords(event.target.value)}/></label>
    <${Copy} text=${() => JSON.stringify(value, null, 2)}>Copy<//></div>
    <div class="code json" tabindex="0" role="group" aria-label="JSON"><${Value} value=${value} depth=${0} words=${words.toLowerCase()}/></div>`;
}
