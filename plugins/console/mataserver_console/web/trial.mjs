// One model on one picture, as Try and Compare have it: its parameters, its answer, what of it is shown.
import { may } from "./api.mjs";
import { Button, Status } from "./controls.mjs";
import { depthOf, RAMP } from "./depth.mjs";
import { html, useId, useLayoutEffect, useMemo, useRef, useState } from "./html.mjs";
import { useOutlines } from "./overlay.mjs";
import { givenOf, wrongOf } from "./params.mjs";
import { letters } from "./kept.mjs";
import { cancelLoad, useLoadTold } from "./loading.mjs";
import { itemsOf } from "./results.mjs";
import { amend, useRoute } from "./route.mjs";
import { useRun, useSeconds } from "./runner.mjs";
import { useSource } from "./source.mjs";

/** What the address holds beside parameters: the models, and from which score on things are shown. */
const OWN = ["model", "with", "from"];
/** What the names of a second model's parameters begin with there. */
export const OTHER = "b.";

function useSchema(name) {
  const { data, error } = useSource(name && may("models:read") ? `v1/models/${encodeURIComponent(name)}?include=params` : null);
  return { schema: data?.params, error };
}

/** What the address says of a model's parameters, and how to change it. */
function useGiven(schema, prefix) {
  const { query } = useRoute();
  const mine = [...query].filter(([name]) => !OWN.includes(name) && name.startsWith(prefix) && (prefix || !name.startsWith(OTHER)));
  const given = useMemo(() => givenOf(new URLSearchParams(mine.map(([name, value]) => [name.slice(prefix.length), value])), schema?.properties), [String(mine), schema]);
  const setGiven = (next) => {
    const changes = Object.fromEntries(mine.map(([name]) => [name, undefined]));
    for (const [name, value] of Object.entries(next)) changes[prefix + name] = typeof value === "string" ? value : JSON.stringify(value);
    amend(changes);
  };
  return [given, setGiven];
}

/** From which score on things are shown, as the address has it. */
export const fromOf = (query) => Math.max(0, Math.min(1, Number(query.get("from")) || 0));

/** A model on the picture. `chosen` is what `useModel` gives, `lane` lets one run at a time. */
export function useTrial({ chosen, picture, auto, prefix = "", lane = /** @type {import("./runner.mjs").Lane | undefined} */ (undefined) }) {
  const from = fromOf(useRoute().query);
  const { schema, error: noSchema } = useSchema(chosen.name);
  const [given, setGiven] = useGiven(schema, prefix);
  const needs = (schema?.required ?? []).filter((name) => given[name] === undefined);
  const settled = Boolean(schema || noSchema || !chosen.listed);
  const run = useRun({ model: chosen.name, params: given, picture, auto, ready: settled && !needs.length, lane });
  const seconds = useSeconds(run.begun);
  const items = useMemo(() => itemsOf(run.answer), [run.answer]);
  const shown = useMemo(() => items.filter((item) => item.score === null || item.score >= from), [items, from]);
  const depth = useMemo(() => (run.answer?.task === "depth" ? depthOf(run.answer) : null), [run.answer]);
  const wrongGiven = wrongOf(run.error, schema);
  const stale = Boolean(run.answer && run.error && !run.error.status);
  return {
    chosen, schema, noSchema, given, setGiven, needs, run, seconds, items, shown, depth, from, stale,
    outlines: useOutlines(items),
    task: run.answer?.task ?? chosen.model?.task,
    wrong: { ...wrongGiven, ...Object.fromEntries(needs.map((name) => [name, "This model needs it."])) },
    /** What stands at no parameter. */
    error: Object.keys(wrongGiven).length ? null : run.error,
    /** Whether what is shown is of an earlier run. */
    old: Boolean(run.answer && run.begun && seconds > 0.4) || stale,
  };
}

const SHOWS = [["map", "Depth"], ["boxes", "Boxes"], ["labels", "Labels"], ["scores", "Scores"], ["fill", "Fill"]];
const BOXED = ["boxes", "labels", "scores"];
const HAVE = { detect: BOXED, track: BOXED, pose: BOXED, segment: ["labels", "scores", "fill"], ocr: ["boxes"], depth: ["map"] };

/** What is drawn, and the buttons for what tasks have. */
export function useShow(...tasks) {
  const [show, setShow] = useState({ map: true, boxes: true, labels: true, scores: true, fill: true });
  const shown = tasks.flatMap((task) => HAVE[task] ?? []);
  return { show, toggle: (name) => setShow({ ...show, [name]: !show[name] }), buttons: SHOWS.filter(([name]) => shown.includes(name)) };
}

/** Single letters and Ctrl+Enter; letters do nothing while a field has the focus. */
export function useKeys(acts) {
  const last = useRef(acts);
  last.current = acts;
  useLayoutEffect(() => {
    const press = (event) => {
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) { last.current.run(); event.preventDefault(); return; }
      if (event.target.closest("input, textarea, select, dialog") || event.ctrlKey || event.metaKey || event.altKey || (event.key?.length === 1 && !letters())) return;
      last.current[event.key]?.();
    };
    addEventListener("keydown", press);
    return () => removeEventListener("keydown", press);
  }, []);
}

export function Busy({ run, seconds, model }) {
  const load = useLoadTold(model, seconds > 1);
  if (seconds < 0.4) return null;
  const text = load && !run.waits ? `${load}. The next run is quick.`
    : `${run.waits ? "Waiting for its turn" : "Running"}, ${Math.floor(seconds)} s`;
  const cancel = () => { run.stop(); cancelLoad(model.model).catch(() => {}); };  // the run itself has ended all the same
  return html`<div class="running"><i></i></div>${seconds > 1 && html`<div class="foot row between"><${Status} text=${text}/><span class="row">
    ${load && may("models:write") && html`<${Button} small onClick=${cancel}>Cancel the load<//>`}<${Button} small onClick=${run.stop}>${seconds > 5 && !load ? "Cancel" : "Stop"}<//></span></div>`}`;
}

export function Nothing({ answer, params, setParams, schema }) {
  const lower = schema?.properties?.confidence && (params.confidence ?? schema.properties.confidence.default ?? 0) > 0.1;
  const words = params.prompts?.length ? ` Asked for: ${params.prompts.join(", ")}.` : "";
  return html`<div class="foot stack-4"><h2>${answer.task === "ocr" ? "No text found" : "Nothing found"}</h2><span class="quiet">The model looked and found nothing from its threshold on.${words}</span>
    ${lower && html`<div><${Button} small onClick=${() => setParams({ ...params, confidence: 0.1 })}>Set confidence to 0.10<//></div>`}</div>`;
}

export function Ramp({ depth }) {
  const id = useId();
  return html`<div class="foot"><svg class="ramp" viewBox="0 0 100 8" preserveAspectRatio="none" role="img" aria-label=${`Colours from ${depth.least.toFixed(2)} to ${depth.most.toFixed(2)}`}>
  <defs><linearGradient id=${id}>${RAMP.map((stop, at) => html`<stop key=${at} offset=${at / (RAMP.length - 1)} stop-color=${stop}/>`)}</linearGradient></defs><rect width="100" height="8" fill=${`url(#${id})`}/></svg>
  <div class="ramp-l"><span>${depth.least.toFixed(2)}</span><span class="quiet wide">D held shows the picture</span><span>${depth.most.toFixed(2)}</span></div></div>`;
}
