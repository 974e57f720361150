// The masks that the network proposes for what was pointed at, small, on the picture: one of them is taken.
import { outlined } from "./asked.mjs";
import { html, useEffect, useState } from "./html.mjs";
import { kOf } from "./tracks.mjs";

const LATER = 50;  // milliseconds: the click itself is answered by then

const percent = (share) => `${(share * 100).toFixed(1)} %`;

/** @param {{picture: {url: string, width: number, height: number}, thing: import("./segment.mjs").Thing, take: (mask: import("./asked.mjs").Proposal) => void}} props */
export function Proposals({ picture, thing, take }) {
  const { proposed, masks } = thing;
  const [made, setMade] = useState({ of: [], drawn: [] });
  useEffect(() => {
    const timer = setTimeout(() => setMade({ of: proposed, drawn: proposed.map(outlined) }), LATER);
    return () => clearTimeout(timer);
  }, [proposed]);
  if (proposed.length < 2) return null;
  const drawn = made.of === proposed ? made.drawn : [];
  return html`<section class="pad stack-12" aria-label="Masks that the model proposes"><h3>Proposed masks</h3><div class=${`proposals ${kOf(thing)}`}>
    ${proposed.map((mask, at) => html`<button type="button" key=${at} aria-pressed=${String(mask.counts === masks[0]?.counts)} onClick=${() => take(mask)}
      aria-label=${`Mask ${at + 1}, rated ${mask.score.toFixed(2)}${drawn[at] ? `, ${percent(drawn[at].share)} of the picture` : ""}`}>
      <svg viewBox=${`0 0 ${picture.width} ${picture.height}`} aria-hidden="true"><image href=${picture.url} width=${picture.width} height=${picture.height}/>
        ${drawn[at] && html`<path class="fill" d=${drawn[at].path} fill-rule="evenodd"/>`}</svg>
      <span>${mask.score.toFixed(2)}</span></button>`)}</div></section>`;
}
