// The scale of a reconstruction: two places that photographs show, and how far apart they are.
import { ask } from "./api.mjs";
import { Button, Dialog, Shown, Trouble } from "./controls.mjs";
import { named } from "./direction.mjs";
import { html, useState } from "./html.mjs";
import { photoOf } from "./job_files.mjs";

const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
const NEARER = 3;  // times: what the glass shows of the place that is marked
const GLASS = 96;  // pixels a side, as in the style

/** `scale` of a restart: marks in pixels of the upright originals, from the upper left. */
export const scaleOf = (marks, metres) => `${marks.map(({ image, x, y }) => `${image}:${x},${y}`).join(" ")} ${metres}`;

const within = (value, most) => Math.max(0, Math.min(most - 1, Math.round(value)));

/** What surrounds a mark, larger. */
function Glass({ mark, view, url }) {
  const [width, height] = [430 * NEARER, (430 * NEARER * view.height) / view.width];
  const [x, y] = [(mark.x / view.width) * width - GLASS / 2, (mark.y / view.height) * height - GLASS / 2];
  return html`<span class="loupe" aria-hidden="true" style=${{ backgroundImage: `url("${url}")`, backgroundSize: `${width}px ${height}px`, backgroundPosition: `${-x}px ${-y}px` }}></span>`;
}

function Place({ number, job, images, views, mark, setMark }) {
  const view = views.find((each) => each.image === mark.image);
  const url = photoOf(job, images, mark.image);
  const set = (x, y) => setMark({ ...mark, x: within(x, view.width), y: within(y, view.height) });
  const click = (event) => {
    const rect = event.currentTarget.getBoundingClientRect();
    set(((event.clientX - rect.left) / rect.width) * view.width, ((event.clientY - rect.top) / rect.height) * view.height);
  };
  const press = (event) => {
    const step = ARROWS[event.key]?.map((by) => by * (event.shiftKey ? 10 : 1));
    if (!step) return;
    event.preventDefault();
    set((mark.x ?? view.width / 2) + step[0], (mark.y ?? view.height / 2) + step[1]);
  };
  const said = mark.x === null ? "click on the place" : `${mark.x}, ${mark.y}`;
  return html`<div class="stack-4"><label class="row"><span class="label">${number}</span><select class="field" aria-label=${`Photograph of place ${number}`} value=${mark.image} onChange=${(event) => setMark({ image: event.target.value, x: null, y: null })}>
      ${views.map((each) => html`<option key=${each.image} value=${each.image}>${each.image}</option>`)}</select></label>
    <div class="marked" style=${{ aspectRatio: `${view.width} / ${view.height}` }} tabindex="0" role="application" aria-label=${`Place ${number} in ${named(mark.image)}: ${said}. Arrows move it, with Shift by ten pixels.`} onClick=${click} onKeyDown=${press}>
      <${Shown} src=${url} alt="" draggable="false"/>${mark.x !== null && html`<span class="cross" style=${{ left: `${((mark.x + 0.5) / view.width) * 100}%`, top: `${((mark.y + 0.5) / view.height) * 100}%` }}><b>${number}</b></span>`}</div>
    <div class="row"><span class="help grow" role="status">${said}</span>${mark.x !== null && html`<${Glass} mark=${mark} view=${view} url=${url}/>`}</div></div>`;
}

/** Ask for two places and a length, and run the job again with them. */
export function ScaleDialog({ job, images, views, close, done }) {
  const blank = { image: views[0].image, x: null, y: null };
  const [marks, setMarks] = useState([blank, blank]);
  const [error, setError] = useState(null);
  const ready = marks.every((mark) => mark.x !== null);
  const submit = (event) => {
    event.preventDefault();
    const scale = scaleOf(marks, Number(new FormData(event.target).get("metres")));
    ask(`v1/jobs/${job.id}/restart`, { json: { spec: { scale } } }).then(done, setError);
  };
  return html`<${Dialog} title="Set the scale" onClose=${close}><form class="stack-12 scaling" onSubmit=${submit}>${error && html`<${Trouble} error=${error}/>`}
    <p class="help">Mark both ends of a length that you know, far from each other and where there is texture.</p>
    <div class="two-up">${marks.map((mark, at) => html`<${Place} key=${at} number=${at + 1} job=${job} images=${images} views=${views} mark=${mark} setMark=${(next) => setMarks(marks.map((old, i) => (i === at ? next : old)))}/>`)}</div>
    <div class="row wrap"><label class="row"><span class="label">They are</span><input class="field metres" type="number" name="metres" required min="0.001" max="100000" step="0.001"/><span>m apart</span></label>
      <${Button} primary type="submit" disabled=${!ready}>Run again<//><span class="help">The cloud is made anew, and gone until then.</span></div></form><//>`;
}
