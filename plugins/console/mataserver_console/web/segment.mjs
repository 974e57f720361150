// Segment anything: clicks, boxes and words on a picture, each answered with the object's mask.
import { isAbort, send, timings } from "./api.mjs";
import { Code, base } from "./code.mjs";
import { Button, Note, Slider, State, Trouble } from "./controls.mjs";
import { save } from "./exporting.mjs";
import { ms } from "./format.mjs";
import { Bar } from "./frame.mjs";
import { html, useEffect, useMemo, useRef, useState } from "./html.mjs";
import { Icon } from "./icons.mjs";
import { outlineOf } from "./outline.mjs";
import { Labels } from "./overlay.mjs";
import { Empty, Ways, useDropped } from "./picture.mjs";
import { base64Of } from "./runner.mjs";
import { useSource } from "./source.mjs";
import { useFit } from "./stage.mjs";
import { usePicture } from "./try.mjs";

const COLOURS = 8;
const STEP = 0.01;
const DRAG = 5;
const TOOLS = [["add", "Add", "plus", "1"], ["remove", "Remove", "minus", "2"], ["box", "Box", "box", "3"]];

/** @typedef {{key: number, name: string, points: [number, number, number][], box: number[] | null, word: boolean, masks: {png: string, path: string, share: number, score: number, box: number[]}[]}} Thing */

const fresh = (key) => ({ key, name: `object ${key}`, points: [], box: null, word: false, masks: [] });

/** The prompt of one object: its points, refined within its box, or the box alone. */
function promptOf({ points, box }) {
  const given = box && [(box[0] + box[2]) / 2, (box[1] + box[3]) / 2, box[2] - box[0], box[3] - box[1]];
  if (!points.length) return { type: "box", box: given, label: true };
  return { type: "point", points: points.map(([x, y]) => [x, y]), point_labels: points.map((point) => point[2]), ...(given ? { box: given } : {}) };
}

/** Ask for masks; each with its outline, in pixels of the picture. */
async function masksOf(image, prompt, threshold, signal) {
  const response = await send("api/v1/image/segment", { json: { image, prompts: [prompt], mask_format: "png", confidence_threshold: threshold }, signal });
  const answer = await response.json();
  const { width, height } = answer.image_size;
  const masks = await Promise.all(answer.masks.map(async (png, at) => {
    const [cx, cy, w, h] = answer.boxes[at];
    return { png, score: answer.scores[at], box: [(cx - w / 2) * width, (cy - h / 2) * height, (cx + w / 2) * width, (cy + h / 2) * height], ...(await outlineOf(png)) };
  }));
  return { masks, took: timings(response.headers.get("Server-Timing")).total ?? answer.inference_time_ms };
}

function useThings(picture) {
  const [things, setThings] = useState([fresh(1)]);
  const [now, setNow] = useState(1);
  const [state, setState] = useState({ busy: false, error: null, took: 0 });
  const past = useRef([]);
  const image = useRef(null);
  const control = useRef(null);
  useEffect(() => {
    setThings([fresh(1)]); setNow(1); past.current = [];
    image.current = picture ? base64Of(picture.blob) : null;
    return () => control.current?.abort();
  }, [picture]);
  const run = async (thing, prompt, threshold) => {
    control.current?.abort();
    const own = new AbortController();
    control.current = own;
    setState((old) => ({ ...old, busy: true, error: null }));
    try {
      const { masks, took } = await masksOf(await image.current, prompt, threshold, own.signal);
      if (control.current !== own) return null;
      setThings((all) => all.map((each) => (each.key === thing.key ? { ...thing, masks } : each)));
      setState({ busy: false, error: null, took });
      return masks;
    } catch (error) {
      if (control.current === own) setState((old) => ({ ...old, busy: false, error: isAbort(error) ? null : error }));
      return null;
    }
  };
  const change = (edit) => {
    const old = things.find((each) => each.key === now);
    const begun = old.word ? fresh(Math.max(...things.map((each) => each.key)) + 1) : old;
    const next = edit(begun);
    past.current.push(things);
    setThings((all) => (all.some((each) => each.key === next.key) ? all.map((each) => (each.key === next.key ? next : each)) : [...all, next]));
    setNow(next.key);
    if (next.points.some((point) => point[2]) || next.box) run(next, promptOf(next), 0);
  };
  const add = () => {
    const key = Math.max(...things.map((each) => each.key)) + 1;
    setThings((all) => [...all.filter((each) => each.masks.length || each.points.length), fresh(key)]);
    setNow(key);
  };
  const find = async (words) => {
    const key = Math.max(...things.map((each) => each.key)) + 1;
    const thing = { ...fresh(key), name: words, word: true };
    past.current.push(things);
    setThings((all) => [...all.filter((each) => each.masks.length), thing]);
    setNow(key);
    await run(thing, { type: "text", text: words }, 0.5);
  };
  const undo = () => {
    const before = past.current.pop();
    if (!before) return;
    control.current?.abort();
    setThings(before);
    setNow((key) => (before.some((each) => each.key === key) ? key : before.at(-1).key));
  };
  const drop = (key) => { const left = things.filter((each) => each.key !== key); setThings(left.length ? left : [fresh(key + 1)]); if (key === now) setNow(left.at(-1)?.key ?? key + 1); };
  return { things, now, setNow, ...state, change, add, find, undo, drop, again: () => change((thing) => ({ ...thing })) };
}

const kOf = (thing) => `k${((thing.key - 1) % COLOURS) + 1}`;

function Marks({ thing, width, height, scale }) {
  return thing.points.map(([x, y, inside], at) => html`<span key=${at} class=${`point ${inside ? "" : "out"}`} style=${{ transform: `translate(${x * width * scale}px, ${y * height * scale}px)` }}><${Icon} name=${inside ? "plus" : "minus"}/></span>`);
}

/** The picture takes clicks, and arrows with Enter, with a cross that is read out. */
function Canvas({ picture, all, tool, opacity }) {
  const box = useRef(null);
  const scale = useFit(box, picture.width, picture.height, 1);
  const [rect, setRect] = useState(null);
  const [cross, setCross] = useState(null);
  const { width, height } = picture;
  const at = (event) => { const shot = box.current.querySelector(".shot").getBoundingClientRect(); return [(event.clientX - shot.left) / shot.width, (event.clientY - shot.top) / shot.height].map((value) => Math.max(0, Math.min(1, value))); };
  const point = (x, y, inside) => all.change((thing) => ({ ...thing, points: [...thing.points, [x, y, inside]] }));
  const down = (event) => {
    if (!event.isPrimary || (event.button !== 0 && event.button !== 2)) return;
    event.preventDefault();
    box.current.focus();
    const from = at(event), start = [event.clientX, event.clientY];
    const dragged = (to) => tool === "box" || Math.hypot(to.clientX - start[0], to.clientY - start[1]) > DRAG;
    const frame = (to) => { const [x, y] = at(to); return [Math.min(from[0], x), Math.min(from[1], y), Math.max(from[0], x), Math.max(from[1], y)]; };
    const move = (to) => dragged(to) && setRect(frame(to));
    const up = (to) => {
      removeEventListener("pointermove", move);
      setRect(null);
      const made = frame(to);
      if (dragged(to) && made[2] - made[0] > 0.005 && made[3] - made[1] > 0.005) all.change((thing) => ({ ...thing, box: made }));
      else if (tool !== "box") point(...from, event.button === 2 || tool === "remove" ? 0 : 1);
    };
    addEventListener("pointermove", move);
    addEventListener("pointerup", up, { once: true });
  };
  const press = (event) => {
    const step = { ArrowLeft: [-STEP, 0], ArrowRight: [STEP, 0], ArrowUp: [0, -STEP], ArrowDown: [0, STEP] }[event.key];
    if (step) setCross(([x, y] = [0.5, 0.5]) => [Math.max(0, Math.min(1, x + step[0] * (event.shiftKey ? 5 : 1))), Math.max(0, Math.min(1, y + step[1] * (event.shiftKey ? 5 : 1)))]);
    else if (event.key === "Enter" && cross) point(...cross, tool === "remove" ? 0 : 1);
    else return;
    event.preventDefault();
  };
  const labels = all.things.flatMap((thing) => thing.masks.map((mask, i) => ({ n: thing.key * 100 + i, name: thing.word && thing.masks.length > 1 ? `${thing.name} ${i + 1}` : thing.name, score: mask.score, box: mask.box, k: kOf(thing) })));
  return html`<div class="stage" ref=${box} tabindex="0" role="application" aria-label="Picture: arrows move a cross, Enter sets a point" onKeyDown=${press} onContextMenu=${(event) => event.preventDefault()}>
    <div class="shot clicks" style=${{ width: `${width * scale}px`, height: `${height * scale}px` }} onPointerDown=${down}>
      <img src=${picture.url} alt=${picture.name} width=${width} height=${height} draggable="false"/>
      <svg class="over" viewBox=${`0 0 ${width} ${height}`} preserveAspectRatio="none" aria-hidden="true">${all.things.map((thing) => html`<g key=${thing.key} class=${`${kOf(thing)} ${thing.key === all.now ? "on" : ""}`}>
        ${thing.masks.map((mask, i) => html`<path key=${i} class="mask" d=${mask.path} fill-rule="evenodd" style=${{ fillOpacity: opacity }}/><path class="case" d=${mask.path}/><path class="line" d=${mask.path}/>`)}
        ${thing.box && !thing.masks.length && html`<path class="line" stroke-dasharray="7 4" d=${`M${thing.box[0] * width} ${thing.box[1] * height}H${thing.box[2] * width}V${thing.box[3] * height}H${thing.box[0] * width}Z`}/>`}</g>`)}
        ${rect && html`<path class="line kw" stroke-dasharray="7 4" d=${`M${rect[0] * width} ${rect[1] * height}H${rect[2] * width}V${rect[3] * height}H${rect[0] * width}Z`}/>`}</svg>
      ${all.things.map((thing) => html`<${Marks} key=${thing.key} thing=${thing} width=${width} height=${height} scale=${scale}/>`)}
      ${scale > 0 && html`<${Labels} items=${labels} width=${width} height=${height} scale=${scale} hover=${0} scores=${true}/>`}
      ${cross && html`<span class="cross" style=${{ left: `${cross[0] * 100}%`, top: `${cross[1] * 100}%` }}><b aria-live="polite">${Math.round(cross[0] * width)}, ${Math.round(cross[1] * height)}</b></span>`}</div>
    ${all.took > 0 && html`<span class="glass took" role="status"><b>${ms(all.took)}</b> for the last one</span>`}</div>`;
}

function told(thing) {
  if (thing.word) return `word; ${thing.masks.map((mask) => mask.score.toFixed(2)).join(", ") || "nothing found"}`;
  const inside = thing.points.filter((point) => point[2]).length, outside = thing.points.length - inside;
  const parts = [inside && `${inside} ${inside === 1 ? "point" : "points"} in`, outside && `${outside} out`, thing.box && "a box", thing.masks[0] && `${(thing.masks[0].share * 100).toFixed(1)} % of the picture`];
  return parts.filter(Boolean).join(", ") || "click on it";
}

function Words({ all, can }) {
  const submit = (event) => { event.preventDefault(); const words = String(new FormData(event.target).get("words")).trim(); if (words) all.find(words); };
  if (!can) return null;
  return html`<form class="sect" onSubmit=${submit}><label class="label" for="words">Find by words</label><div class="row"><input id="words" class="field" name="words" placeholder="window"/><${Button} type="submit">Find<//></div><span class="help">Marks every such object.</span></form>`;
}

function Objects({ all }) {
  return html`<ul class="found objects">${all.things.map((thing) => html`<li key=${thing.key} class=${`${kOf(thing)} ${thing.key === all.now ? "on" : ""}`}>
    <button type="button" class="choose" aria-pressed=${String(thing.key === all.now)} onClick=${() => all.setNow(thing.key)}><span class="sw">${thing.key}</span><span class="cut">${thing.name}</span>
      <span class="v">${thing.masks.length > 1 ? `${thing.masks.length} found` : thing.masks[0]?.score.toFixed(2) ?? ""}</span><span class="more help">${told(thing)}</span></button>
    <${Button} small bare icon="close" label=${`Remove ${thing.name}`} onClick=${() => all.drop(thing.key)}/></li>`)}</ul>`;
}

const body = (thing, indent) => JSON.stringify({ image: "…", prompts: [thing.word ? { type: "text", text: thing.name } : promptOf(thing.points.length || thing.box ? thing : { points: [[0.5, 0.5, 1]], box: null })], mask_format: "png" }, (_, value) => (typeof value === "number" ? Number(value.toFixed(4)) : value), indent);
const CODE = {
  curl: ({ thing, file }) => `printf '${body(thing).replaceAll("'", "'\\''").replace("…", "%s")}' "$(base64 -w0 '${file}')" |\n  curl -H "Authorization: Bearer $KEY" -H "Content-Type: application/json" \\\n  -d @- ${base()}/api/v1/image/segment`,
  javascript: ({ thing, file }) => `import { readFile } from "node:fs/promises";\n\nconst image = (await readFile(${JSON.stringify(file)})).toString("base64");\nconst answer = await fetch("${base()}/api/v1/image/segment", {\n  method: "POST",\n  headers: { Authorization: \`Bearer \${process.env.KEY}\`, "Content-Type": "application/json" },\n  body: JSON.stringify(${body(thing).replace('"image":"…"', "image")}),\n});\nconsole.log(await answer.json());`,
};

export default function Segment() {
  const { data: info, error: none } = useSource("models/info", 10);
  const { picture, take, pick, error: wrongPicture, setError } = usePicture();
  const [tool, setTool] = useState("add");
  const [opacity, setOpacity] = useState(0.42);
  const all = useThings(picture);
  const over = useDropped(take);
  const model = info?.image_model;
  const can = (name) => model?.capabilities?.includes(name) ?? true;
  const thing = useMemo(() => all.things.find((each) => each.key === all.now) ?? all.things[0], [all.things, all.now]);
  useEffect(() => {
    const press = (event) => {
      if (event.target.closest("input, textarea, select") || event.ctrlKey || event.metaKey) return;
      const act = { 1: () => setTool("add"), 2: () => setTool("remove"), 3: () => setTool("box"), n: all.add, z: all.undo }[event.key];
      act?.();
    };
    addEventListener("keydown", press);
    return () => removeEventListener("keydown", press);
  });
  const masks = all.things.flatMap((each) => each.masks.map((mask, at) => [each, mask, at]));
  const download = () => { for (const [each, mask, at] of masks) save(new Blob([Uint8Array.from(atob(mask.png), (letter) => letter.charCodeAt(0))], { type: "image/png" }), `${each.name.replace(/\W+/g, "-")}-${at + 1}.png`); };
  return html`<${Bar} title="Segment">${model && html`<span class="row cut"><b class="cut strong">${model.checkpoint}</b><${State} kind=${model.loaded ? "ok" : "off"}>${model.loaded ? "loaded" : "loads with the first click"}<//></span>`}<span class="grow"></span>
      ${masks.length > 0 && html`<${Button} icon="download" onClick=${download}>Masks<//>`}<//>
    <div class=${`work two fill ${over ? "over-drop" : ""}`}><section class="mid" aria-label="Picture"><div class="toolbar">
        ${TOOLS.map(([key, text, icon, letter]) => html`<${Button} small key=${key} icon=${icon} pressed=${tool === key} onClick=${() => setTool(key)}>${text}<kbd>${letter}</kbd><//>`)}
        <span class="rule"></span><${Button} small bare icon="undo" label="Take back" onClick=${all.undo}/><span class="grow"></span>
        <label class="row wide opacity"><span class="soft">Opacity</span><${Slider} label="Opacity" min=${0} max=${1} step=${0.02} value=${opacity} onInput=${setOpacity}/></label></div>
        <div class="stagebox">${all.busy && html`<div class="running"><i></i></div>`}${picture ? html`<${Canvas} picture=${picture} all=${all} tool=${tool} opacity=${opacity}/>` : html`<${Empty} task="segment" take=${take} pick=${pick} onError=${setError}/>`}</div>
        <${Code} made=${CODE} request=${{ thing, file: picture?.name ?? "picture.jpg" }}/></section>
      <aside class="panel right" aria-label="Objects"><section class="sect"><div class="row between"><h2>Objects</h2><${Button} small icon="plus" onClick=${all.add}>New object<kbd>N</kbd><//></div>
          ${picture && html`<${Ways} take=${take} onError=${setError}/>`}${wrongPicture && html`<p class="err" role="alert">${wrongPicture.message}</p>`}</section>
        <${Words} all=${all} can=${can("text_prompt") && Boolean(picture)}/>
        ${(all.error ?? (none?.status ? none : null)) && html`<div class="pad"><${Trouble} error=${all.error ?? none} again=${all.error ? all.again : undefined}/></div>`}
        <div class="scroll" tabindex="-1"><${Objects} all=${all}/><p class="pad help">A click adds, a right click removes, a drag makes a box. <kbd>Z</kbd> takes back.</p>
        ${!picture && html`<div class="pad"><${Note}>Take a picture first.<//></div>`}</div></aside></div>`;
}
