// Segment anything: clicks, boxes and words, each answered with the object's mask, on a picture or a video.
import { isAbort } from "./api.mjs";
import { Asked, HERE, outlined } from "./asked.mjs";
import { Clicks, Marks, Pointing, Tools, Words, around, useTool } from "./clicks.mjs";
import { Code, POSTED } from "./code.mjs";
import { Button, Note, Segments, State, Status, Trouble } from "./controls.mjs";
import { named } from "./direction.mjs";
import { useDropped } from "./drops.mjs";
import { save } from "./exporting.mjs";
import { ms, parted } from "./format.mjs";
import { Bar } from "./frame.mjs";
import { html, useEffect, useLayoutEffect, useMemo, useRef, useState } from "./html.mjs";
import { keep, kept } from "./kept.mjs";
import { Labels } from "./overlay.mjs";
import { Empty, Ways } from "./picture.mjs";
import { Proposals } from "./proposals.mjs";
import { pngOf } from "./rle.mjs";
import { amend, useRoute } from "./route.mjs";
import { useSeconds } from "./runner.mjs";
import { refresh, useLoaded, useSource } from "./source.mjs";
import { kOf, promptOf } from "./tracks.mjs";
import { usePicture } from "./try.mjs";

/** @typedef {import("./asked.mjs").Mask} Mask */
/** @typedef {{key: number, name: string, points: [number, number, number][], box: number[] | null, word: boolean, masks: Mask[], proposed: import("./asked.mjs").Proposal[], answered?: boolean}} Thing `answered`: with what it is now, be it with no mask */

/** @type {(key: number) => Thing} */
const fresh = (key) => ({ key, name: `object ${key}`, points: [], box: null, word: false, masks: [], proposed: [] });

const isAsked = (/** @type {Thing} */ thing) => thing.word || Boolean(thing.box) || thing.points.some((point) => point[2]);
/** Whether there is anything of an object: an empty one makes room for the next. */
const isBegun = (/** @type {Thing} */ thing) => thing.masks.length > 0 || (thing.word ? !thing.answered : isAsked(thing) || thing.points.length > 0);
/** Whether its answer is still owed: a word may be found nowhere. */
const isOwed = (/** @type {Thing} */ thing) => isAsked(thing) && !thing.masks.length && !thing.answered;
/** Whether both were asked with the same: points are never changed in place. */
const isSame = (/** @type {Thing} */ one, /** @type {Thing} */ other) => one.key === other.key && one.points === other.points && one.box === other.box;

/** Lists of objects that nobody has changed: a first empty one, or what was kept. */
const untouched = new WeakSet();
const blank = () => { const made = [fresh(1)]; untouched.add(made); return made; };

/**
 * Keeps the objects of a picture over a reload, and while another page is open; `put` gets those that were kept, else a first one.
 * Of several tabs the one counts that took its picture last, and marked on it last, which `marked` tells.
 */
function useKept(picture, things, now, marked, put) {
  const newest = useRef(things);
  newest.current = things;
  // Before the page is painted, as all of it: a click that came first was put away with what was there before.
  useLayoutEffect(() => {
    let here = Boolean(picture);
    put({ things: blank(), now: 1, marked: 0 });
    if (picture) {
      kept("objects").then((found) => {
        if (!here || !untouched.has(newest.current) || found?.mark !== picture.mark) return;  // of another picture, or something was marked meanwhile
        untouched.add(found.things);
        put(found);
      });
    }
    return () => { here = false; };
  }, [picture]);
  useLayoutEffect(() => {
    if (!picture || untouched.has(things)) return;
    const own = { mark: picture.mark, things, now, marked: marked.current };
    keep("objects", async (there, other) => {
      const here = (await other("picture"))?.mark;
      return (here && here !== own.mark) || (there?.mark === own.mark && there.marked > own.marked) ? there : own;
    });
  }, [things, now]);
}

function useThings(picture, one) {
  const [things, setThings] = useState(blank);
  const [now, setNow] = useState(1);
  const [state, setState] = useState({ busy: false, begun: 0, error: null, took: 0, failed: 0 });
  const past = useRef([]), marked = useRef(0);
  const image = useRef(/** @type {Asked | null} */ (null));
  const asking = useRef(/** @type {Map<number, {thing: Thing, control: AbortController}>} */ (new Map()));  // by the key of the object: a click on another one takes no answer away
  const stop = (...keys) => {
    for (const key of keys) { asking.current.get(key)?.control.abort(); asking.current.delete(key); }
    if (!asking.current.size) setState((old) => (old.busy ? { ...old, busy: false, begun: 0 } : old));
  };
  useLayoutEffect(() => {
    past.current = [];
    image.current = picture ? new Asked(picture.blob) : null;
    return () => stop(...asking.current.keys());
  }, [picture]);
  const run = async (thing) => {
    asking.current.get(thing.key)?.control.abort();
    const own = new AbortController();
    const here = () => asking.current.get(thing.key)?.control === own;
    asking.current.set(thing.key, { thing, control: own });
    // asked before anything is drawn: the server works while the page does
    const answer = thing.word ? image.current.words(thing.name, own.signal) : image.current.pointed(thing, one, own.signal);
    setState((old) => ({ ...old, busy: true, begun: performance.now(), error: null }));
    try {
      const { masks, proposed = [], took } = await answer;
      if (!here()) return;
      const drawn = { ...thing, proposed, masks: masks.map(outlined), answered: true };
      setThings((all) => all.map((each) => (each.key === thing.key ? drawn : each)));
      setState((old) => ({ ...old, took }));
    } catch (error) {
      if (here()) setState((old) => ({ ...old, error: isAbort(error) ? null : error, failed: thing.key }));
    }
    if (here()) stop(thing.key);
  };
  useKept(picture, things, now, marked, (found) => {
    setThings(found.things); setNow(found.now); marked.current = found.marked;
    for (const each of found.things) if (isOwed(each)) run(each);  // the page was left before its answer
  });
  const mark = () => { past.current.push(things); marked.current = Date.now(); };
  const change = (edit) => {
    const old = things.find((each) => each.key === now);
    const begun = old.word ? fresh(Math.max(...things.map((each) => each.key)) + 1) : old;
    const next = { ...edit(begun), answered: false };
    mark();
    if (isAsked(next)) run(next);
    setThings((all) => (all.some((each) => each.key === next.key) ? all.map((each) => (each.key === next.key ? next : each)) : [...all, next]));
    setNow(next.key);
  };
  const add = () => {
    const key = Math.max(...things.map((each) => each.key)) + 1;
    setThings((all) => [...all.filter(isBegun), fresh(key)]);
    setNow(key);
  };
  const find = (words) => {
    const key = Math.max(...things.map((each) => each.key)) + 1;
    const thing = { ...fresh(key), name: words, word: true };
    mark();
    run(thing);
    setThings((all) => [...all.filter(isBegun), thing]);
    setNow(key);
  };
  const undo = () => {
    const old = past.current.pop();
    if (!old) return;
    marked.current = Date.now();
    // An answer that came since the step is kept; what was not answered then, and is not being asked, is asked again.
    const before = old.map((each) => (each.masks.length ? each : things.find((now) => isSame(now, each)) ?? each));
    stop(...[...asking.current].filter(([, { thing }]) => !before.some((each) => isSame(each, thing))).map(([key]) => key));
    for (const each of before) if (isOwed(each) && !asking.current.has(each.key)) run(each);
    setThings(before);
    setNow((key) => (before.some((each) => each.key === key) ? key : before.at(-1).key));
  };
  const drop = (key) => { stop(key); mark(); const left = things.filter((each) => each.key !== key); setThings(left.length ? left : [fresh(key + 1)]); if (key === now) setNow(left.at(-1)?.key ?? key + 1); };
  return { things, now, setNow, ...state, change, add, find, undo: past.current.length ? undo : undefined, drop, again: () => run(things.find((each) => each.key === state.failed) ?? things.find((each) => each.key === now)),
    take: (mask) => { mark(); setThings(things.map((each) => (each.key === now ? { ...each, masks: [outlined(mask)] } : each))); } };
}

/** Outlines of objects, as a layer of their own: those that are done are not drawn again with each click on another one. */
function Shapes({ things, on, width, height, opacity }) {
  return html`<svg class="over layer" viewBox=${`0 0 ${width} ${height}`} preserveAspectRatio="none" aria-hidden="true">${things.map((thing) => html`<g key=${thing.key} class=${`${kOf(thing)} ${on ? "on" : ""}`}>
    ${thing.masks.map((mask, i) => html`<path key=${i} class="mask" d=${mask.path} fill-rule="evenodd" style=${{ fillOpacity: opacity }}/><path class="case" d=${mask.path}/><path class="line" d=${mask.path}/>`)}
    ${thing.box && !thing.masks.length && html`<path class="line" stroke-dasharray="7 4" d=${around(thing.box, width, height)}/>`}</g>`)}</svg>`;
}

/** The masks of every object, and what was pointed at. */
function Canvas({ picture, all, tool, opacity, loaded }) {
  const { width, height } = picture;
  const labels = all.things.flatMap((thing) => thing.masks.map((mask, i) => ({ n: thing.key * 100 + i, name: thing.word && thing.masks.length > 1 ? `${thing.name} ${i + 1}` : thing.name, score: mask.score, box: mask.box, k: kOf(thing) })));
  const onPoint = (x, y, inside) => all.change((thing) => ({ ...thing, points: [...thing.points, [x, y, inside]] }));
  const seconds = useSeconds(all.begun);
  const took = seconds >= 1 ? html`<${Status} class="glass took" text=${`${loaded ? "Looking at the picture" : "Loading the model"}, ${Math.floor(seconds)} s`}/>` : all.took > 0 && html`<span class="glass took" role="status"><b>${ms(all.took)}</b> for the last one</span>`;
  return html`<${Clicks} shot=${picture} tool=${tool} onPoint=${onPoint} onBox=${(box) => all.change((thing) => ({ ...thing, box }))} beside=${took}>${(scale) => html`
    <${Shapes} things=${all.things.filter((thing) => thing.key !== all.now)} width=${width} height=${height} opacity=${opacity}/>
    <${Shapes} on things=${all.things.filter((thing) => thing.key === all.now)} width=${width} height=${height} opacity=${opacity}/>
    ${all.things.map((thing) => html`<${Marks} key=${thing.key} points=${thing.points} width=${width * scale} height=${height * scale}/>`)}
    ${scale > 0 && html`<${Labels} items=${labels} width=${width} height=${height} scale=${scale} hover=${0} scores=${true}/>`}`}<//>`;
}

function told(thing) {
  if (thing.word) return `word; ${thing.masks.map((mask) => mask.score.toFixed(2)).join(", ") || "nothing found"}`;
  const inside = thing.points.filter((point) => point[2]).length, outside = thing.points.length - inside;
  const parts = [inside && `${inside} ${inside === 1 ? "point" : "points"} in`, outside && `${outside} out`, thing.box && "a box", thing.masks[0] && `${(thing.masks[0].share * 100).toFixed(1)} % of the picture`];
  return parts.filter(Boolean).join(", ") || "click on it";
}

function Objects({ all }) {
  return html`<ul class="found objects">${all.things.map((thing) => html`<li key=${thing.key} class=${`${kOf(thing)} ${thing.key === all.now ? "on" : ""}`}>
    <button type="button" class="choose" aria-pressed=${String(thing.key === all.now)} onClick=${() => all.setNow(thing.key)}><span class="sw">${thing.key}</span><span class="cut">${thing.name}</span>
      <span class="v">${thing.masks.length > 1 ? `${thing.masks.length} found` : thing.masks[0]?.score.toFixed(2) ?? ""}</span><span class="more help">${told(thing)}</span></button>
    <${Button} small bare icon="close" label=${`Remove ${named(thing.name)}`} onClick=${() => all.drop(thing.key)}/></li>`)}</ul>`;
}

const short = (value) => JSON.parse(JSON.stringify(value, (_, each) => (typeof each === "number" ? Number(each.toFixed(4)) : each)));
/** What a program sends for the same answer, with outlines in pixels that it can draw at once. */
function programmed(thing, one, file) {
  const pointed = thing.points.length || thing.box ? thing : { points: [[0.5, 0.5, 1]], box: null };
  const prompt = thing.word ? { type: "text", text: thing.name } : short(promptOf(pointed));
  const any = prompt.type === "point" || (prompt.type === "box" && one) ? { confidence_threshold: 0 } : {};
  return { path: HERE, given: { prompts: [prompt], ...any, mask_format: "polygon" }, file };
}

const KINDS = [["picture", "Picture"], ["video", "Video"]];

/** A video's part of the page is loaded when it is opened. */
function Film(props) {
  const { module, error } = useLoaded("video", () => import("./video.mjs"));
  if (module) return html`<${module.Video} ...${props}/>`;
  return html`<${Bar} title="Segment">${props.head}<//>${error && html`<div class="content"><${Trouble} error=${error} again=${() => location.reload()}/></div>`}`;
}

/** Which of the two, and the model behind both. */
export default function Segment() {
  const { query } = useRoute();
  const { data: info, error } = useSource("models/info", 10);
  const model = info?.image_model;
  const kind = query.get("kind") === "video" ? "video" : "picture";
  const head = html`<${Segments} label="Kind" options=${KINDS} value=${kind} onChange=${(value) => amend({ kind: value === "video" ? value : "" })}/>
    ${model?.checkpoint && html`<span class="row cut wide"><b class="cut strong" title=${model.checkpoint}>${model.checkpoint.startsWith("/") ? parted(model.checkpoint)[1] : model.checkpoint}</b><${State} kind=${model.loaded ? "ok" : "off"}>${model.loaded ? "loaded" : "loads with the first click"}<//></span>`}`;
  const props = { head, model, none: error?.status ? error : null };
  return kind === "video" ? html`<${Film} ...${props}/>` : html`<${Picture} ...${props}/>`;
}

function Picture({ head, model, none }) {
  const { picture, take, pick, coming, error: wrongPicture, setError } = usePicture();
  const [opacity, setOpacity] = useState(0.42);
  const can = (name) => !model?.loaded || (model.capabilities.includes(name));
  const all = useThings(picture, !can("text_prompt"));
  const [tool, setTool] = useTool({ n: all.add, z: all.undo });
  const over = useDropped(take, setError);
  useEffect(() => { if (model && !model.loaded && !all.busy) refresh("models/info"); }, [all.busy]);  // it is loaded now, or cannot be
  const thing = useMemo(() => all.things.find((each) => each.key === all.now) ?? all.things[0], [all.things, all.now]);
  const masks = all.things.flatMap((each) => each.masks.map((mask, at) => [each, mask, at]));
  const download = async () => { for (const [each, mask, at] of masks) save(await pngOf(mask.counts, mask.width, mask.height), `${each.name.replace(/[^\p{L}\p{M}\p{N}]+/gu, "-")}-${at + 1}.png`); };
  return html`<${Bar} title="Segment">${head}<span class="grow"></span>
      ${masks.length > 0 && html`<${Button} icon="download" onClick=${download}>Masks<//>`}<//>
    <div class=${`work two fill ${over ? "over-drop" : ""}`}><section class="mid" aria-label="Picture"><${Tools} tool=${tool} setTool=${setTool} undo=${all.undo} opacity=${opacity} setOpacity=${setOpacity}/>
        <div class="stagebox">${(all.busy || coming) && html`<div class="running"><i></i></div>`}${picture ? html`<${Canvas} picture=${picture} all=${all} tool=${tool} opacity=${opacity} loaded=${!model || model.loaded}/>` : html`<${Empty} task="segment" take=${take} pick=${pick} onError=${setError}/>`}</div>
        <${Code} made=${POSTED} request=${programmed(thing, !can("text_prompt"), picture?.name ?? "picture.jpg")}/></section>
      <aside class="panel right" aria-label="Objects"><section class="sect"><div class="row between"><h2>Objects</h2><${Button} small icon="plus" onClick=${all.add}>New object<kbd>N</kbd><//></div>
          ${picture && html`<${Ways} take=${take} onError=${setError}/>`}${wrongPicture && html`<p class="err" role="alert">${wrongPicture.message}</p>`}</section>
        <${Words} find=${can("text_prompt") && picture && all.find}/>
        ${(all.error ?? none) && html`<div class="pad"><${Trouble} error=${all.error ?? none} again=${all.error ? all.again : undefined}/></div>`}
        <div class="scroll" tabindex="-1"><${Objects} all=${all}/>${picture && html`<${Proposals} key=${thing.key} picture=${picture} thing=${thing} take=${all.take}/>`}<p class="pad help"><${Pointing}/> <span class="wide"><kbd>Z</kbd> takes back.</span></p>
        ${!picture && html`<div class="pad"><${Note}>Take a picture first.<//></div>`}</div></aside></div>`;
}
