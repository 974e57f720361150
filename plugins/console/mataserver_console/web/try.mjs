// Try: a picture and parameters at the left, what was found on it in the middle, in words at the right.
import { may } from "./api.mjs";
import { Code } from "./code.mjs";
import { Button, Menu, Switch, Tabs, Trouble } from "./controls.mjs";
import { depthOf, paint, RAMP } from "./depth.mjs";
import { drawn, save } from "./exporting.mjs";
import { clock, ms, parted, size } from "./format.mjs";
import { Bars, Found, From, Json, Lines, Times } from "./found.mjs";
import { Bar } from "./frame.mjs";
import { html, useEffect, useMemo, useRef, useState } from "./html.mjs";
import { choice, kept } from "./kept.mjs";
import { useOutlines } from "./overlay.mjs";
import { Parameters, givenOf, wrongOf } from "./params.mjs";
import { Picker } from "./picker.mjs";
import { Empty, Examples, Ways, exampleOf, pictureOf, remember, useDropped } from "./picture.mjs";
import { itemsOf, told } from "./results.mjs";
import { amend, useRoute } from "./route.mjs";
import { useRun, useSeconds } from "./runner.mjs";
import { useSource } from "./source.mjs";
import { Stage, Zoom } from "./stage.mjs";

const FIRST = ["opencv-faces", "opencv-qr", "rapidocr"];
const OWN = ["model", "from"];

/** The model that the address names, or one that is a good beginning. */
export function useModel(fits = () => true) {
  const { query } = useRoute();
  const { data, error } = useSource(may("models:read") ? "v1/models" : null, 5);
  const models = (data ?? []).filter(fits);
  const first = FIRST.find((name) => models.some((each) => each.model === name)) ?? models[0]?.model ?? "";
  const name = query.get("model") ?? first;
  return { name, models, listed: may("models:read"), error, known: Boolean(data) || !may("models:read"), model: models.find((each) => each.model === name) };
}

/** The picture of this visit: the one that was kept, or that is taken. */
export function usePicture() {
  const [picture, setPicture] = useState(null);
  const [error, setError] = useState(null);
  useEffect(() => {
    kept("picture").then((found) => found && pictureOf(found.blob, found.name)).then((found) => found && setPicture((now) => now ?? found));
  }, []);
  const take = async (blob, name) => { setError(null); setPicture(remember(await pictureOf(blob, name))); };
  const pick = async (name) => { setError(null); setPicture(remember(await exampleOf(name))); };
  useEffect(() => () => { if (picture?.url) URL.revokeObjectURL(picture.url); }, [picture]);
  return { picture, take, pick, error, setError };
}

function useSchema(name) {
  const { data, error } = useSource(name && may("models:read") ? `v1/models/${encodeURIComponent(name)}?include=params` : null);
  return { schema: data?.params, error };
}

const SHOWS = [["boxes", "Boxes"], ["labels", "Labels"], ["scores", "Scores"], ["fill", "Fill"]];

function useShow(task) {
  const [show, setShow] = useState({ boxes: true, labels: true, scores: true, fill: true });
  const shown = { detect: "boxes labels scores", track: "boxes labels scores", segment: "labels scores fill", pose: "boxes labels scores", ocr: "boxes" }[task] ?? "";
  return { show, toggle: (name) => setShow({ ...show, [name]: !show[name] }), buttons: SHOWS.filter(([name]) => shown.split(" ").includes(name)) };
}

/** Single letters and Ctrl+Enter; letters do nothing while a field has the focus. */
function useKeys(acts) {
  const last = useRef(acts);
  last.current = acts;
  useEffect(() => {
    const press = (event) => {
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) { last.current.run(); event.preventDefault(); return; }
      if (event.target.closest("input, textarea, select") || event.ctrlKey || event.metaKey || event.altKey) return;
      last.current[event.key]?.();
    };
    addEventListener("keydown", press);
    return () => removeEventListener("keydown", press);
  }, []);
}

function Busy({ run, seconds, model }) {
  if (seconds < 0.4) return null;
  const what = model?.state === "loading" ? `Loading ${parted(model.model)[1]}` : "Running";
  return html`<div class="running"><i></i></div>${seconds > 1 && html`<div class="foot row between"><span role="status">${what}, ${Math.floor(seconds)} s${
    model?.state === "loading" && model.size_mb ? `; ${size(model.size_mb)} on disk. The next run is quick.` : ""}</span><${Button} small onClick=${run.stop}>${seconds > 5 ? "Cancel" : "Stop"}<//></div>`}`;
}

function Nothing({ answer, params, setParams, schema }) {
  const lower = schema?.properties?.confidence && (params.confidence ?? schema.properties.confidence.default ?? 0) > 0.1;
  const words = params.prompts?.length ? ` Asked for: ${params.prompts.join(", ")}.` : "";
  return html`<div class="foot stack-4"><h2>${answer.task === "ocr" ? "No text found" : "Nothing found"}</h2><span class="quiet">The model looked and found nothing from its threshold on.${words}</span>
    ${lower && html`<div><${Button} small onClick=${() => setParams({ ...params, confidence: 0.1 })}>Set confidence to 0.10<//></div>`}</div>`;
}

const Ramp = ({ depth }) => html`<div class="foot"><svg class="ramp" viewBox="0 0 100 8" preserveAspectRatio="none" role="img" aria-label=${`Colours from ${depth.least.toFixed(2)} to ${depth.most.toFixed(2)}`}>
  <defs><linearGradient id="ramp">${RAMP.map((stop, at) => html`<stop key=${at} offset=${at / (RAMP.length - 1)} stop-color=${stop}/>`)}</linearGradient></defs><rect width="100" height="8" fill="url(#ramp)"/></svg>
  <div class="ramp-l"><span>${depth.least.toFixed(2)}</span><span class="quiet">D held shows the picture</span><span>${depth.most.toFixed(2)}</span></div></div>`;

function Answer({ answer, items, shown, hover, setHover, from, setFrom, outlines, times, error, run }) {
  const [tab, setTab] = useState("results");
  const scored = items.some((item) => item.score !== null) && answer?.task !== "classify";
  const hidden = items.length - shown.length;
  const said = !answer ? "" : answer.text !== undefined && answer.task === "vlm" ? `${answer.usage?.completion_tokens ?? "?"} tokens` : `${shown.length} found${hidden ? `, ${hidden} hidden` : ""}`;
  return html`<aside class="panel right" aria-label="Answer">
    <div class="tabs"><${Tabs} label="Answer" tabs=${[["results", "Results"], ["json", "JSON"]]} value=${tab} onChange=${setTab}/><span class="grow"></span>
      <span class="quiet middle" role="status">${said}</span></div>
    ${error && html`<div class="pad"><${Trouble} error=${error} again=${run}/></div>`}
    <div class="scroll" tabindex="-1">
    ${tab === "json" ? answer && html`<${Json} value=${answer}/>` : answer && html`
      ${scored && items.length > 0 && html`<${From} items=${items} from=${from} setFrom=${setFrom}/>`}
      ${answer.task === "vlm" && html`<p class="pad said">${answer.text}</p>`}
      ${answer.task === "embed" && html`<p class="pad said">A vector of ${answer.embedding.length} numbers, of length 1.</p>`}
      ${answer.task === "depth" && html`<p class="pad said">A map of ${answer.depth_shape[1]} × ${answer.depth_shape[0]} values. Point at the picture to read one.</p>`}
      ${answer.task === "ocr" ? html`<${Lines} items=${shown} text=${shown.map((item) => item.name).join("\n")} hover=${hover} setHover=${setHover}/>`
        : answer.task === "classify" ? html`<${Bars} items=${items}/>`
        : html`<${Found} items=${items} shown=${shown} hover=${hover} setHover=${setHover} from=${from} outlines=${outlines}/>`}`}
    </div><${Times} times=${times}/></aside>`;
}

export default function Try() {
  const { query } = useRoute();
  const chosen = useModel();
  const { picture, take, pick, error: wrongPicture, setError } = usePicture();
  const { schema, error: noSchema } = useSchema(chosen.name);
  const given = useMemo(() => givenOf(query, schema?.properties), [String(query), schema]);
  const from = Math.max(0, Math.min(1, Number(query.get("from")) || 0));
  const [auto, setAuto] = useState(choice.get("auto") !== "no");
  const needs = (schema?.required ?? []).filter((name) => given[name] === undefined);
  const settled = Boolean(schema || noSchema || !chosen.listed);
  const run = useRun({ model: chosen.name, params: given, picture, auto, ready: settled && !needs.length });
  const seconds = useSeconds(run.begun);
  const [hover, setHover] = useState(0);
  const [zoom, setZoom] = useState(1);
  const [scale, setScale] = useState(1);
  const stage = useRef(null);
  const items = useMemo(() => itemsOf(run.answer), [run.answer]);
  const shown = useMemo(() => items.filter((item) => item.score === null || item.score >= from), [items, from]);
  const outlines = useOutlines(items);
  const depth = useMemo(() => (run.answer?.task === "depth" ? depthOf(run.answer) : null), [run.answer]);
  const task = run.answer?.task ?? chosen.model?.task;
  const { show, toggle, buttons } = useShow(task);
  const over = useDropped(take);
  const setGiven = (next) => {
    const changes = Object.fromEntries([...query.keys()].filter((name) => !OWN.includes(name)).map((name) => [name, undefined]));
    for (const [name, value] of Object.entries(next)) changes[name] = typeof value === "string" ? value : JSON.stringify(value);
    amend(changes);
  };
  const choose = (name) => { setZoom(1); amend({ ...Object.fromEntries([...query.keys()].map((each) => [each, undefined])), model: name }); };
  const step = (by) => setHover((now) => shown[(shown.findIndex((item) => item.n === now) + by + shown.length) % shown.length]?.n ?? 0);
  const bigger = (factor) => setZoom((now) => Math.max(1, Math.min(8, now * factor)));
  useKeys({
    run: run.run, Escape: run.stop, b: () => toggle("boxes"), l: () => toggle("labels"), o: () => toggle("fill"), "[": () => step(-1), "]": () => step(1),
    "+": () => bigger(1.5), "-": () => bigger(1 / 1.5), 0: () => setZoom(1),
  });
  const download = async () => {
    const map = depth && document.createElement("canvas");
    if (map) paint(map, depth);
    save(await drawn(picture, shown, show, map), `${picture.name.replace(/\.\w+$/, "")}-${task}.png`);
  };
  const downloads = [["Picture with results", download], ["JSON", () => save(new Blob([JSON.stringify(run.answer, null, 2)], { type: "application/json" }), `${picture.name.replace(/\.\w+$/, "")}.json`)]];
  const wrongGiven = wrongOf(run.error, schema);
  const wrong = { ...wrongGiven, ...Object.fromEntries(needs.map((name) => [name, "This model needs it."])) };
  const stale = Boolean(run.answer && run.error && !run.error.status);
  return html`
    <${Bar} title="Try"><${Picker} models=${chosen.models} listed=${chosen.listed} value=${chosen.name} choose=${choose}/><span class="grow"></span>
      ${run.answer && html`<div class="row">${picture.unseen ? null : html`<${Button} icon="download" class="wide" onClick=${download}>Download<//>`}<${Menu} label="Downloads" actions=${picture.unseen ? downloads.slice(1) : downloads}/></div>`}<//>
    <div class=${`work fill ${over ? "over-drop" : ""}`}>
      <aside class="panel left" aria-label="Input"><div class="scroll" tabindex="-1">
        <section class="sect pictures"><div class="row between"><h2>Picture</h2>${picture && html`<span class="quiet cut">${picture.name}${picture.unseen ? "" : `, ${picture.width} × ${picture.height}`}</span>`}</div>
          <${Examples} task=${chosen.model?.task} chosen=${picture?.name} pick=${pick}/>${picture && html`<${Ways} take=${take} onError=${setError}/>`}
          ${wrongPicture && html`<p class="err" role="alert">${wrongPicture.message}</p>`}</section>
        ${noSchema && noSchema.status !== 404 ? html`<div class="pad"><${Trouble} error=${noSchema}/></div>` : null}
        ${schema && html`<${Parameters} key=${chosen.name} schema=${schema} given=${given} setGiven=${setGiven} wrong=${wrong}/>`}</div>
        <section class="sect end"><div class="row between"><span>Run on every change</span><${Switch} label="Run on every change" on=${auto} onChange=${(on) => { choice.set("auto", on ? "yes" : "no"); setAuto(on); }}/></div>
          <${Button} primary class="full" disabled=${!picture || !chosen.name || needs.length > 0} onClick=${run.run}>Run <kbd>Ctrl ↵</kbd><//></section>
      </aside>
      <section class="mid" aria-label="Picture and code"><div class="toolbar">
        ${buttons.map(([name, text]) => html`<${Button} small key=${name} pressed=${show[name]} onClick=${() => toggle(name)}>${text}<//>`)}<span class="grow"></span>
        ${picture && html`<${Zoom} zoom=${zoom} setZoom=${setZoom} percent=${Math.round(scale * 100)} full=${() => stage.current?.requestFullscreen?.()}/>`}</div>
        <div class="stagebox">${picture ? html`<${Stage} picture=${picture} items=${shown} hover=${hover} setHover=${setHover} show=${show} depth=${depth} old=${Boolean(run.begun && seconds > 0.4) || stale}
          zoom=${zoom} onScale=${setScale} stage=${stage}/>` : html`<${Empty} task=${chosen.model?.task} take=${take} pick=${pick} onError=${setError}/>`}
          <${Busy} run=${run} seconds=${seconds} model=${chosen.model}/></div>
        ${picture?.unseen && html`<div class="foot help">This browser cannot show this picture itself. The server can read it.</div>`}
        ${stale && html`<div class="foot help">Answer of ${clock(run.at)}</div>`}
        ${depth && html`<${Ramp} depth=${depth}/>`}
        ${run.answer && !run.begun && !items.length && !depth && !["vlm", "embed"].includes(run.answer.task) && html`<${Nothing} answer=${run.answer} params=${given} setParams=${setGiven} schema=${schema}/>`}
        <${Code} request=${{ model: chosen.name, params: given, file: picture?.name ?? "picture.jpg" }}/></section>
      <${Answer} answer=${run.answer} items=${items} shown=${shown} hover=${hover} setHover=${setHover} from=${from} setFrom=${(value) => amend({ from: value || undefined })}
        outlines=${outlines} times=${run.times} error=${Object.keys(wrongGiven).length ? null : run.error} run=${run.run}/>
    </div>
    <p class="sr" role="status">${run.answer && !run.begun ? `${items.length} found in ${ms(run.took)}. ${told(shown)}` : ""}</p>`;
}
