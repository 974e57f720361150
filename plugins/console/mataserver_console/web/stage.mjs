// The picture and what is drawn on it, with its zoom.
import { Button } from "./controls.mjs";
import { paint } from "./depth.mjs";
import { DepthReader } from "./depth_reader.mjs";
import { html, useEffect, useLayoutEffect, useMemo, useRef, useState } from "./html.mjs";
import { Labels, Overlay, Reading, useOutlines } from "./overlay.mjs";
import { letters } from "./kept.mjs";
import { told } from "./results.mjs";

const MOST = 8;
const MARGIN = 32;
const NONE = [];  // what is drawn on a picture whose size is not known: it would lie wrong

/** How large the picture is drawn: it fits, times the zoom. */
export function useFit(box, width, height, zoom) {
  const [room, setRoom] = useState(null);
  useLayoutEffect(() => {
    const measure = () => {
      const narrow = matchMedia("(max-width: 1023px)").matches;
      const margin = narrow ? 0 : MARGIN;
      const w = box.current.clientWidth - margin;
      setRoom({ w, h: narrow ? w * 1.25 : box.current.clientHeight - margin });
    };
    const watch = new ResizeObserver(measure);
    watch.observe(box.current);
    measure();
    return () => watch.disconnect();
  }, []);
  if (!room || !width) return 0;
  return Math.max(0.01, Math.min(room.w / width, room.h / height)) * zoom;
}

/** The number of the smallest thing under a point of the picture, or 0. */
export function under(items, x, y) {
  let best = 0, least = Infinity;
  for (const { n, box } of items) {
    if (!box || x < box[0] || x > box[2] || y < box[1] || y > box[3]) continue;
    const area = (box[2] - box[0]) * (box[3] - box[1]);
    if (area < least) { least = area; best = n; }
  }
  return best;
}

function Depth({ depth, hidden }) {
  const canvas = useRef(null);
  useEffect(() => paint(canvas.current, depth), [depth]);
  return html`<canvas ref=${canvas} class="depthmap" hidden=${hidden} aria-hidden="true"></canvas>`;
}

export function Zoom({ zoom, setZoom, percent, full }) {
  const step = (factor) => setZoom(Math.max(1, Math.min(MOST, zoom * factor)));
  return html`<span class="row wide tight"><${Button} small bare icon="minus" label="Zoom out" onClick=${() => step(1 / 1.5)}/>
    <span class="percent">${percent} %</span><${Button} small bare icon="plus" label="Zoom in" onClick=${() => step(1.5)}/></span>
    <${Button} small bare onClick=${() => setZoom(1)}>Fit<//>${full && html`<${Button} small bare icon="full" label="Full screen" onClick=${full}/>`}`;
}

/** Drag a picture that is larger than its stage. */
function drag(event, box) {
  if (event.button !== 0 || event.pointerType !== "mouse" || event.target.closest(".texts span")) return;
  const from = { x: event.clientX + box.scrollLeft, y: event.clientY + box.scrollTop };
  const move = (to) => box.scrollTo(from.x - to.clientX, from.y - to.clientY);
  addEventListener("pointermove", move);
  addEventListener("pointerup", () => removeEventListener("pointermove", move), { once: true });
}

/**
 * @param {{picture: {url: string, width: number, height: number, name: string, known?: boolean}, items: import("./results.mjs").Item[], hover: number,
 *   setHover: (n: number) => void, show: {map?: boolean, boxes: boolean, labels: boolean, scores: boolean, fill: boolean},
 *   depth?: any, old?: boolean, zoom: number, onScale?: (scale: number) => void, stage?: {current: any}, children?: (scale: number) => unknown}} props
 */
export function Stage({ picture, items, hover, setHover, show, depth, old, zoom, onScale, stage, children }) {
  const own = useRef(null);
  const box = stage ?? own;
  const { width, height } = picture;
  const scale = useFit(box, width, height, zoom);
  useEffect(() => onScale?.(scale), [scale]);
  const placed = picture.known === false ? NONE : items;
  const outlines = useOutlines(placed);
  const [peek, setPeek] = useState(false);
  const reading = useMemo(() => placed.some((item) => item.text), [placed]);
  const point = (event) => {
    const rect = event.currentTarget.getBoundingClientRect();
    const x = (event.clientX - rect.left) / rect.width, y = (event.clientY - rect.top) / rect.height;
    setHover(under(placed, x * width, y * height));
  };
  useEffect(() => {
    if (!depth) return undefined;
    const key = (event) => { if (event.key?.toLowerCase() === "d" && letters() && !event.target.closest("input, textarea")) setPeek(event.type === "keydown"); };
    addEventListener("keydown", key); addEventListener("keyup", key);
    return () => { removeEventListener("keydown", key); removeEventListener("keyup", key); setPeek(false); };
  }, [depth]);
  const said = items.length ? `${picture.name}: ${told(items)}` : picture.name;
  return html`<div class="stage" ref=${box} tabindex="0" role="group" aria-label="Picture" onPointerDown=${(event) => drag(event, box.current)}>
    <div class=${`shot ${old ? "old" : ""}`} style=${{ width: `${width * scale}px`, height: `${height * scale}px` }}
      onPointerMove=${point} onPointerLeave=${() => setHover(0)}>
      ${picture.url ? html`<img src=${picture.url} alt=${said} width=${width} height=${height} draggable="false"/>`
        : html`<div class="unseen" role="img" aria-label=${said}></div>`}
      ${depth && html`<${Depth} depth=${depth} hidden=${peek || !show.map}/>`}
      <${Overlay} items=${placed} outlines=${outlines} width=${width} height=${height} hover=${hover} boxes=${show.boxes} fill=${show.fill} text=${reading}/>
      ${reading && html`<${Reading} items=${placed} scale=${scale}/>`}
      ${show.labels && scale > 0 && html`<${Labels} items=${placed} width=${width} height=${height} scale=${scale} hover=${hover} scores=${show.scores}/>`}
      ${depth && html`<${DepthReader} key=${picture.url} depth=${depth} width=${width} height=${height}/>`}
      ${children?.(scale)}
    </div></div>`;
}
