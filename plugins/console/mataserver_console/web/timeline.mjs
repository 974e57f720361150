// The frames of a video as a line: where somebody pointed, where each object is seen, how far the tracking is.
import { html, useMemo, useRef } from "./html.mjs";
import { kOf } from "./tracks.mjs";

const ROWS = 6;
const FAR = 10;

/** A frame as a time: minutes, seconds and hundredths. */
export function timeOf(frame, info) {
  const seconds = frame / info.fps;
  return `${Math.floor(seconds / 60)}:${(seconds % 60).toFixed(2).padStart(5, "0")}`;
}

/**
 * @param {{info: {total_frames: number, fps: number}, frame: number, tracks: import("./tracks.mjs").Tracks, version: number,
 *   at: number | null, now: number, onFrame: (frame: number) => void, onStep: (by: number) => void}} props `at` is the frame that is being tracked
 */
export function Timeline({ info, frame, tracks, version, at, now, onFrame, onStep }) {
  const line = useRef(null);
  const total = info.total_frames;
  const share = (value) => `${(value / total) * 100}%`;
  const go = (value) => onFrame(Math.max(0, Math.min(total - 1, value)));
  const point = (event) => {
    const { left, width } = line.current.getBoundingClientRect();
    go(Math.floor(((event.clientX - left) / width) * total));
  };
  const down = (event) => {
    if (event.button !== 0) return;
    event.preventDefault();
    line.current.focus();
    line.current.setPointerCapture(event.pointerId);
    point(event);
  };
  const press = (event) => {
    const by = { ArrowLeft: -1, ArrowDown: -1, ArrowRight: 1, ArrowUp: 1, PageDown: FAR, PageUp: -FAR, Home: -total, End: total }[event.key];
    if (by === undefined) return;
    event.preventDefault();
    onStep(by);
  };
  const rows = useMemo(() => tracks.things.slice(0, ROWS).map((thing) => ({ thing, spans: tracks.spans(thing) })), [tracks, version]);
  return html`<div class="timeline" ref=${line} role="slider" tabindex="0" aria-label="Frame" aria-valuemin="0" aria-valuemax=${total - 1} aria-valuenow=${frame} aria-valuetext=${`frame ${frame} of ${total}, ${timeOf(frame, info)}`}
    onPointerDown=${down} onPointerMove=${(event) => event.buttons & 1 && line.current.hasPointerCapture(event.pointerId) && point(event)} onKeyDown=${press}>
    <div class="rows" aria-hidden="true">${rows.map(({ thing, spans }) => html`<div key=${thing.key} class=${`lane ${kOf(thing)} ${thing.key === now ? "on" : ""}`}>
      ${spans.map(({ from, to, old }) => html`<i key=${from} class=${old ? "old" : ""} style=${{ left: share(from), width: share(to - from) }}></i>`)}
      ${thing.pointed.map(({ frame: on }, i) => html`<b key=${`t${i}`} class="tick" style=${{ left: share(on + 0.5) }}></b>`)}</div>`)}</div>
    ${at !== null && html`<i class="tracked" style=${{ left: share(at + 0.5) }}></i>`}
    <i class="head" style=${{ left: share(frame + 0.5) }}></i></div>`;
}
