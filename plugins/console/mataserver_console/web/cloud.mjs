// The viewer of a reconstruction: its points, its cameras, and the photograph of a chosen one.
import { ask, may, send } from "./api.mjs";
import { Button, Menu, Segments, Shown, Slider, Trouble } from "./controls.mjs";
import { named } from "./direction.mjs";
import { count } from "./format.mjs";
import { html, useEffect, useRef, useState } from "./html.mjs";
import { Icon } from "./icons.mjs";
import { fileOf, photoOf } from "./job_files.mjs";
import { ScaleDialog } from "./scale.mjs";

const AXES = ["x", "y", "z"];
const WHOLE = AXES.map(() => [0, 1]);
const TURN = Math.PI / 36;
const KEYS = {
  ArrowLeft: [-TURN, 0], ArrowRight: [TURN, 0], ArrowUp: [0, TURN], ArrowDown: [0, -TURN],
  "+": [0, 0, 0.9], "=": [0, 0, 0.9], "-": [0, 0, 1 / 0.9],
};
const MANY = 20_000;  // points from which on smaller ones are enough

/** When what is on the page was painted: the viewer, as large as all the rest of it, comes behind the photographs. */
const painted = () => new Promise((done) => {
  requestAnimationFrame(() => ("requestIdleCallback" in window ? requestIdleCallback(done, { timeout: 1000 }) : setTimeout(done)));
});

/** The scene of a model and its cameras. Made once for a canvas: one that was given away makes no other. */
function useScene(canvas, job, model, cameras) {
  const [made, setMade] = useState({});
  useEffect(() => {
    const control = new AbortController();
    const { signal } = control;
    const after = painted();
    const drawn = after.then(() => import("./cloud_remote.mjs")).then(({ cloudOn }) => cloudOn(canvas.current)).catch(() => null);
    const begin = async () => {
      await after;
      const [scene, ply, every] = await Promise.all([
        drawn, send(fileOf(job, model.filename), { signal }).then((answer) => answer.arrayBuffer()), ask(fileOf(job, cameras), { signal }),
      ]);
      if (signal.aborted) return;
      if (!scene) { setMade({ flat: true }); return; }
      const views = every.find((each) => each.model === model.name)?.views ?? [];
      const shown = await scene.show(ply, views);
      setMade({ scene, views, ...shown });
    };
    begin().catch((error) => { if (!signal.aborted) setMade({ error }); });
    return () => { control.abort(); drawn.then((scene) => scene?.dispose()); };
  }, []);
  return made;
}

function Clip({ parts, setParts }) {
  const set = (axis, end, value) => setParts(parts.map((part, at) => (at !== axis ? part : end ? [Math.min(part[0], value), value] : [value, Math.max(part[1], value)])));
  return html`<div class="glass clip" role="group" aria-label="Clip">${AXES.map((name, axis) => html`<div class="row" key=${name}><b>${name}</b>
    <${Slider} label=${`${name} from`} min=${0} max=${1} step=${0.01} value=${parts[axis][0]} onInput=${(value) => set(axis, 0, value)}/>
    <${Slider} label=${`${name} to`} min=${0} max=${1} step=${0.01} value=${parts[axis][1]} onInput=${(value) => set(axis, 1, value)}/></div>`)}
    <${Button} small onClick=${() => setParts(WHOLE)}>All of it<//></div>`;
}

/** The photograph that was chosen, with a way to the ones beside it. */
function Seen({ job, images, chosen, choose, children }) {
  const at = images.findIndex((image) => image.name === chosen);
  const image = images[at];
  const step = (by) => choose(images[(at + by + images.length) % images.length].name);
  return html`<figure class="seen">${image.status === "unreadable" ? html`<div class="unseen"></div>` : html`<${Shown} src=${photoOf(job, images, chosen)} alt=${`Photograph ${chosen}`}/>`}
    <figcaption class="row"><b class="cut grow">${chosen}</b>${children}
      <${Button} small bare icon="left" label="The photograph before" onClick=${() => step(-1)}/><${Button} small bare icon="left" class="mirror" label="The next photograph" onClick=${() => step(1)}/>
      <${Button} small bare icon="close" label="Close the photograph" onClick=${() => choose("")}/></figcaption>
    ${image.reason && html`<p class="err">${image.reason}</p>`}</figure>`;
}

const Toggle = ({ on, icon, children, ...rest }) => html`<button type="button" aria-pressed=${on === undefined ? undefined : String(on)} ...${rest}><${Icon} name=${icon}/><span class="word">${children}</span></button>`;

/** Have the browser save a file of the job's. */
const take = (job, name) => Object.assign(document.createElement("a"), { href: fileOf(job, name), download: "" }).click();

function Tools({ how, set, full, scene, scale, downloads }) {
  return html`<div class="glass vt" role="toolbar" aria-label="View">
    <button type="button" onClick=${() => scene.call("fit")}>Fit</button>
    <${Toggle} icon="box" on=${Boolean(how.parts)} onClick=${() => set({ parts: how.parts ? null : WHOLE })}>Clip<//>
    <${Toggle} icon="camera" on=${how.cameras} onClick=${() => set({ cameras: !how.cameras })}>Cameras<//>
    ${scale && html`<button type="button" onClick=${scale}>Scale</button>`}
    <${Menu} icon="download" label="Downloads" actions=${downloads}/>
    <${Toggle} icon="full" onClick=${full}>Full screen<//></div>`;
}

function Height({ ends, unit }) {
  return html`<div class="height"><div class="ramp"></div><div class="row between"><span>${ends[0].toFixed(2)}</span><span>${ends[1].toFixed(2)}${unit ? " m" : ""}</span></div></div>`;
}

/** What is drawn is set anew whenever a control is moved. */
function useLook(scene, how) {
  useEffect(() => { scene?.call("colour", how.colour); }, [scene, how.colour]);
  useEffect(() => { scene?.call("size", how.size); }, [scene, how.size]);
  useEffect(() => { scene?.call("cameras", how.cameras); }, [scene, how.cameras]);
  useEffect(() => { scene?.call("clip", how.parts); }, [scene, how.parts]);
}

function Viewer({ job, model, images, cameras, chosen, choose, follow }) {
  const canvas = useRef(null), box = useRef(null);
  const { scene, views = [], step = 1, ends, flat, error } = useScene(canvas, job, model, cameras);
  const [how, setHow] = useState({ colour: "picture", size: model.num_points3D > MANY ? 2 : 4, cameras: true, parts: null });
  const set = (change) => setHow((old) => ({ ...old, ...change }));
  useLook(scene, how);
  const [scaling, setScaling] = useState(false);
  const from = useRef(null);
  useEffect(() => { scene?.call("choose", chosen); if (chosen) scene?.call("fly", chosen); }, [scene, chosen]);
  const click = async (event) => {
    if (!from.current || Math.hypot(event.clientX - from.current[0], event.clientY - from.current[1]) > 4) return;  // it was a drag
    const name = await scene?.at("pick", event);
    if (name) choose(name);
  };
  const press = (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || !scene) return;
    if (KEYS[event.key]) scene.call("orbit", ...KEYS[event.key]);
    else if (event.key?.toLowerCase() === "f") scene.call("fit");
    else if (event.key === "Escape" && chosen) choose("");
    else return;
    event.preventDefault();
  };
  const downloads = [["Cloud (PLY)", model.filename], ["Cloud (GLB)", model.glb], ["Cameras (JSON)", cameras]]
    .filter(([, name]) => name).map(([text, name]) => [text, () => take(job, name)]);
  const said = `Point cloud of ${count(model.num_points3D, "point")} and ${count(model.num_images, "camera")}. Arrows turn it, plus and minus zoom, F shows all of it.`;
  return html`<div class="viewer" ref=${box}>${!flat && html`<canvas ref=${canvas} tabindex="0" role="application" aria-label=${said} onKeyDown=${press}
      onPointerDown=${(event) => { from.current = [event.clientX, event.clientY]; }} onClick=${click} onDblClick=${(event) => scene?.at("centre", event)}></canvas>`}
    ${flat && html`<div class="flat"><p>This browser shows no WebGL, which the viewer needs.</p><a class="btn" href=${fileOf(job, model.filename)} download><${Icon} name="download"/>Download the cloud</a></div>`}
    ${error && html`<div class="flat"><${Trouble} error=${error}/></div>`}
    ${!scene && !flat && !error && html`<div class="running"><i></i></div>`}
    ${scene && html`<${Tools} how=${how} set=${set} scene=${scene} downloads=${downloads} scale=${may("jobs:write") && views.length > 0 ? () => setScaling(true) : null} full=${() => (document.fullscreenElement ? document.exitFullscreen() : box.current.requestFullscreen())}/>
      ${how.parts && html`<${Clip} parts=${how.parts} setParts=${(parts) => set({ parts })}/>`}
      <div class="glass facts-left"><b>${model.num_points3D.toLocaleString("en")}</b><span>points</span><span>${count(model.num_images, "camera")}</span>
        ${model.mean_reprojection_error !== null && html`<span>${model.mean_reprojection_error.toFixed(2)} px</span>`}${model.unit && html`<span>squares of ${Number(step.toPrecision(3))} m</span>`}</div>
      <div class="glass look"><${Segments} label="Colour" value=${how.colour} onChange=${(colour) => set({ colour })} options=${[["picture", "Picture"], ["height", "Height"]]}/>
        <label class="row"><span>Size</span><${Slider} label="Size of a point in pixels" min=${1} max=${10} step=${1} value=${how.size} onInput=${(size) => set({ size })}/></label>
        ${how.colour === "height" && html`<${Height} ends=${ends} unit=${model.unit}/>`}</div>`}
    ${scaling && html`<${ScaleDialog} job=${job} images=${images} views=${views} close=${() => setScaling(false)} done=${(said) => { setScaling(false); choose(""); follow(said); }}/>`}
    ${chosen && html`<${Seen} job=${job} images=${images} chosen=${chosen} choose=${choose}/>`}</div>`;
}

/** What a reconstruction made: one of its models at a time. */
export function Cloud({ job, figures, chosen, choose, follow }) {
  const models = figures.clusters.filter((model) => model.filename);
  const [at, setAt] = useState(0);
  const model = models[at];
  const show = (name) => {
    const own = models.findIndex((each) => each.name === figures.images.find((image) => image.name === name)?.model);
    if (own >= 0) setAt(own);
  };
  const pick = (name) => { show(name); choose(name); };
  // It chooses nothing: it may run after the next choice, and the two would undo each other for ever.
  useEffect(() => { if (chosen) show(chosen); }, [chosen]);
  if (!model) return html`<div class="pad stack-12"><p>These photographs gave no model. Why, stands beside each at the right.</p></div>`;
  return html`${models.length > 1 && html`<label class="row models-of"><span class="soft">Model</span><select class="field" value=${at} onChange=${(event) => { choose(""); setAt(Number(event.target.value)); }}>
      ${models.map((each, i) => html`<option key=${each.name} value=${i}>${named(each.name)}: ${count(each.num_images, "photograph")}, ${count(each.num_points3D, "point")}</option>`)}</select></label>`}
    <${Viewer} key=${model.name} job=${job} model=${model} images=${figures.images} cameras=${figures.cameras} chosen=${chosen} choose=${pick} follow=${follow}/>`;
}
