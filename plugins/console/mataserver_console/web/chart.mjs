// Curves over time, with a sentence for who does not see them.
import { html, useEffect, useRef, useState } from "./html.mjs";

const KINDS = ["a", "b", "cc", "dd"];
const LEFT = 70, RIGHT = 16, TOP = 12, BOTTOM = 24;

/** A round number at or above a value: the axis does not move with each point. */
export function nice(value) {
  if (!(value > 0)) return 1;
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 5, 10].map((each) => each * power).find((each) => each >= value * 1.05) ?? 20 * power;
}

/** A place for a chart, and how wide it is. @returns {[{current: any}, number]} */
export function useWidth() {
  const box = useRef(null);
  const [width, setWidth] = useState(0);
  useEffect(() => {
    const watch = new ResizeObserver(([entry]) => setWidth(entry.contentRect.width));
    watch.observe(box.current);
    return () => watch.disconnect();
  }, []);
  return [box, width];
}

/** Points as a path, broken where nothing is known. */
export function path(values, x, y) {
  let gap = true;
  return values.map((value, at) => {
    if (value === null || value === undefined) { gap = true; return ""; }
    const step = `${gap ? "M" : "L"}${x(at).toFixed(1)} ${y(value).toFixed(1)}`;
    gap = false;
    return step;
  }).join("");
}

/**
 * @param {{label: string, series: {name: string, values: (number | null)[]}[], bars?: {name: string, values: (number | null)[]}, marks?: {share: number, text: string}[],
 *   format?: (value: number) => string, ends: [string, string], height?: number}} props `marks` stand at shares of the width
 */
export function Chart({ label, series, bars, marks = [], format = String, ends, height = 176 }) {
  const [box, width] = useWidth();
  const all = bars ? [...series, bars] : series;
  const known = all.flatMap(({ values }) => values.filter((value) => value !== null && value !== undefined));
  const most = nice(Math.max(0, ...known));
  const count = Math.max(2, ...all.map(({ values }) => values.length));
  const x = (at) => LEFT + ((width - LEFT - RIGHT) * at) / (count - 1);
  const y = (value) => height - BOTTOM - ((height - TOP - BOTTOM) * value) / most;
  const said = all.map(({ name, values }) => { const last = values.findLast((value) => value !== null && value !== undefined); return `${name} ${last === undefined ? "unknown" : format(last)}`; }).concat(marks.map(({ text }) => text)).join(", ");
  const inner = width - LEFT - RIGHT;
  return html`<div ref=${box} class="chartbox">${width > 0 && html`<svg class="chart" width=${width} height=${height} viewBox=${`0 0 ${width} ${height}`} role="img" aria-label=${`${label}: ${said}`}>
    ${[0, 0.5, 1].map((share) => html`<g key=${share}><path class="grid" d=${`M${LEFT} ${y(most * share)}H${width - RIGHT}`}/>${known.length > 0 && html`<text x=${LEFT - 6} y=${y(most * share) + 4} text-anchor="end">${format(most * share)}</text>`}</g>`)}
    <text x=${LEFT} y=${height - 6}>${ends[0]}</text><text x=${width - RIGHT} y=${height - 6} text-anchor="end">${ends[1]}</text>
    ${!known.length && html`<text x=${width / 2} y=${(height - BOTTOM + TOP) / 2 - 8} text-anchor="middle">nothing measured yet</text>`}
    ${bars?.values.map((value, at) => value !== null && value > 0 && html`<rect key=${at} class="bad" x=${x(at) - 2} y=${y(value)} width="4" height=${Math.max(1, y(0) - y(value))}/>`)}
    ${marks.map(({ share, text }) => html`<g key=${`${share} ${text}`}><path class="mark" d=${`M${LEFT + inner * share} ${TOP}V${height - BOTTOM}`}/>
      <text class="said" x=${LEFT + inner * share + (share < 0.6 ? 6 : -6)} y=${TOP + 8} text-anchor=${share < 0.6 ? "start" : "end"}>${text}</text></g>`)}
    ${series.map(({ name, values }, at) => html`<path key=${name} class=${`ln ${KINDS[at]}`} d=${path(values, x, y)}/>`)}</svg>`}</div>`;
}

export const Legend = ({ names, bars = "" }) => html`<span class="legend chartkey">${names.map((name, at) => html`<span key=${name}><svg width="18" height="8" aria-hidden="true"><path class=${`ln ${KINDS[at]}`} d="M0 4H18"/></svg>${name}</span>`)}
  ${bars && html`<span><i class="failed"></i>${bars}</span>`}</span>`;
