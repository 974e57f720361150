// What was found, drawn on the picture: boxes, turned boxes, masks, limbs, tracks, text, labels.
import { html, memo, useEffect, useMemo, useState } from "./html.mjs";
import { cut, placed } from "./labels.mjs";
import { outlineOf } from "./outline.mjs";
import { JOINTS, LIMBS, side } from "./results.mjs";

const SURE = 0.3;
const MOST_OUTLINES = 200;

const Line = ({ d, dash }) => html`<path class="case" d=${d}/><path class="line" d=${d} stroke-dasharray=${dash ? "7 4" : undefined}/>`;
const around = (points) => `M${points.map((point) => point.join(" ")).join("L")}Z`;
const frame = ([x1, y1, x2, y2]) => around([[x1, y1], [x2, y1], [x2, y2], [x1, y2]]);

/** The outlines of the masks by number, as they become known. */
export function useOutlines(items) {
  const [made, setMade] = useState(new Map());
  useEffect(() => {
    let here = true;
    const masked = items.filter((item) => item.mask).slice(0, MOST_OUTLINES);
    Promise.all(masked.map(async (item) => [item.n, await outlineOf(item.mask).catch(() => null)]))
      .then((found) => { if (here) setMade(new Map(found.filter((each) => each[1]))); });
    return () => { here = false; };
  }, [items]);
  return made;
}

function Shape({ item, outline, boxes, fill }) {
  if (item.points?.length) return html`<${Person} item=${item} boxes=${boxes}/>`;
  if (outline?.path) {
    return html`${fill && html`<path class="mask" d=${outline.path} fill-rule="evenodd"/>`}<${Line} d=${outline.path} dash=${item.dash}/>`;
  }
  if (item.corners?.length) {
    const [a, b] = item.corners;
    return html`<${Line} d=${around(item.corners)} dash=${item.dash}/><path class="line top" d=${`M${a.join(" ")}L${b.join(" ")}`}/>`;
  }
  return item.box && boxes ? html`<${Line} d=${frame(item.box)} dash=${item.dash}/>` : null;
}

function Person({ item, boxes }) {
  const known = item.points;
  const sure = (at) => known[at]?.[2] >= SURE;
  const limbs = known.length === JOINTS ? LIMBS : [];
  const d = (/** @type {number[]} */ [a, b]) => `M${known[a][0]} ${known[a][1]}L${known[b][0]} ${known[b][1]}`;
  return html`
    ${item.box && boxes && html`<${Line} d=${frame(item.box)}/>`}
    ${limbs.map((limb) => html`<g class=${`bone ${side(...limb)}`} key=${limb.join()}><path class="case" d=${d(limb)}/>
      <path class="line" d=${d(limb)} stroke-dasharray=${sure(limb[0]) && sure(limb[1]) ? undefined : "4 6"}/></g>`)}
    ${known.map(([x, y], at) => html`<path key=${at} class=${`joint ${sure(at) ? side(at) : "unsure"}`} d=${`M${x} ${y}h.001`}/>`)}`;
}

/** The trace of a track: where it was in the last two seconds. */
const Tail = ({ points }) => points.map(([x, y], at) => html`<path key=${at} class="dot" d=${`M${x} ${y}h.001`} style=${{ opacity: (at + 1) / points.length }}/>`);

const Drawn = memo(({ item, on, tail, outline, boxes, fill }) => html`<g data-n=${item.n} class=${`${item.k} ${on ? "on" : ""}`}>
  ${tail && html`<${Tail} points=${tail}/>`}<${Shape} item=${item} outline=${outline} boxes=${boxes} fill=${fill}/></g>`);

/**
 * @param {{items: import("./results.mjs").Item[], outlines?: Map<number, {path: string}>, width: number, height: number, hover: number,
 *   boxes?: boolean, fill?: boolean, tails?: Map<number | undefined, number[][]>, text?: boolean}} props
 */
export function Overlay({ items, outlines, width, height, hover, boxes = true, fill = true, tails, text }) {
  const hovered = hover ? items.find((item) => item.n === hover) : null;
  const view = `0 0 ${width} ${height}`;
  // What is pointed at lies on a layer of its own, above the others: those are not drawn again.
  return html`<svg class=${`over ${text ? "reading" : ""}`} viewBox=${view} preserveAspectRatio="none" aria-hidden="true">
      ${items.map((item) => html`<${Drawn} key=${item.n} item=${item} tail=${tails?.get(item.id)} outline=${outlines?.get(item.n)} boxes=${boxes} fill=${fill}/>`)}</svg>
    ${hovered && html`<svg class=${`over layer ${text ? "reading" : ""}`} viewBox=${view} preserveAspectRatio="none" aria-hidden="true">
      <${Drawn} item=${hovered} on outline=${outlines?.get(hovered.n)} boxes=${boxes} fill=${false}/></svg>`}`;
}

const named = (item) => (item.id === undefined ? item.name : `id ${item.id} ${item.name}`);

/** Where the labels of these items stand on a picture that is drawn `scale` times its size. */
export function labelsOf(items, width, height, scale, scores, taken = [], size = 1) {
  const shown = items.filter((item) => item.box && !item.text).map((item) => ({
    n: item.n, item, label: named(item), score: scores && item.score !== null ? item.score.toFixed(2) : "", at: item.box.map((value) => value * scale),
  }));
  const spots = placed(shown, [0, 0, width * scale, height * scale], taken, size);
  return shown.filter((each) => spots.has(each.n)).map((each) => ({ ...each, ...spots.get(each.n) }));
}

const Label = memo(({ each, on }) => {
  const long = on || !each.short;
  return html`<span class=${`tagbox ${each.item.k} ${on ? "on" : ""} ${long ? "" : "num"}`} style=${{ transform: `translate(${each.x}px, ${each.y}px)` }}>
    ${long ? cut(each.label) : each.n}${long && each.score && html`<i>${each.score}</i>`}</span>`;
});

export function Labels({ items, width, height, scale, hover, scores, taken }) {
  const found = useMemo(() => labelsOf(items, width, height, scale, scores, taken), [items, width, height, scale, scores]);
  const hovered = items.find((item) => item.n === hover && item.box && !item.text);
  return html`${found.map((each) => html`<${Label} key=${each.n} each=${each} on=${each.n === hover}/>`)}
  ${hovered && !found.some((each) => each.n === hover) && html`<span class=${`tagbox on ${hovered.k}`}
    style=${{ transform: `translate(${Math.max(0, Math.round(hovered.box[0] * scale))}px, ${Math.max(0, Math.round(hovered.box[1] * scale) - 21)}px)` }}>${cut(named(hovered))}</span>`}`;
}

/** Text in its place, to be marked and copied. */
export const Reading = memo(({ items, scale }) => html`<div class="texts">${items.filter((item) => item.text && item.box).map((item) => {
    const [x1, y1, x2, y2] = item.box.map((value) => value * scale);
    return html`<span key=${item.n} data-n=${item.n} style=${{ left: `${x1}px`, top: `${y1}px`, width: `${x2 - x1}px`, height: `${y2 - y1}px`, fontSize: `${(y2 - y1) * 0.8}px`, lineHeight: `${y2 - y1}px` }}>${item.name}${"\n"}</span>`;
  })}</div>`);
