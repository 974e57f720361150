// Reading a map of depths: the value under the pointer, and at places that a click keeps.
import { valueAt } from "./depth.mjs";
import { html, useState } from "./html.mjs";

const DRAG = 5;  // pixels that a click may move
const MOST = 8;

/** A place, given as shares of the picture, with its value and its pixel. */
const Mark = ({ x, y, depth, width, height, kept = false }) => html`<span class=${`cross ${kept ? "kept" : ""}`} style=${{ left: `${x * 100}%`, top: `${y * 100}%` }}>
  <b>${valueAt(depth, x, y).toFixed(2)} <i>${Math.floor(x * width)}, ${Math.floor(y * height)}</i></b></span>`;

/** Over the picture: a click keeps a value there, a click on a kept one lets it go. */
export function DepthReader({ depth, width, height }) {
  const [here, setHere] = useState(/** @type {{x: number, y: number} | null} */ (null));
  const [kept, setKept] = useState(/** @type {{x: number, y: number}[]} */ ([]));
  const [from, setFrom] = useState([0, 0]);
  const at = (event) => {
    const rect = event.currentTarget.getBoundingClientRect();
    return { x: (event.clientX - rect.left) / rect.width, y: (event.clientY - rect.top) / rect.height, rect };
  };
  const click = (event) => {
    if (Math.hypot(event.clientX - from[0], event.clientY - from[1]) > DRAG) return;
    const { x, y, rect } = at(event);
    const same = kept.find((each) => Math.hypot((each.x - x) * rect.width, (each.y - y) * rect.height) < 10);
    setKept(same ? kept.filter((each) => each !== same) : [...kept, { x, y }].slice(-MOST));
  };
  return html`<div class="reader" onPointerDown=${(event) => setFrom([event.clientX, event.clientY])} onPointerMove=${(event) => setHere(at(event))} onPointerLeave=${() => setHere(null)} onClick=${click}>
    ${kept.map((each) => html`<${Mark} key=${`${each.x} ${each.y}`} ...${each} depth=${depth} width=${width} height=${height} kept/>`)}
    ${here && html`<${Mark} ...${here} depth=${depth} width=${width} height=${height}/>`}</div>`;
}
