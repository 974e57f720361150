// The fleet at a glance: figures, a card for each Triton, traffic, versions, applications.
import { ask, may } from "./api.mjs";
import { path } from "./chart.mjs";
import { Button, State, Sure, Trouble } from "./controls.mjs";
import { named } from "./direction.mjs";
import { APPS, MODELS } from "./fleet_apps.mjs";
import { CONSUMERS } from "./fleet_consumers.mjs";
import { told } from "./fleet_edit.mjs";
import { figuresOf, inferred, noteStates, rates, TrafficChart, useLooks } from "./fleet_looks.mjs";
import { Form } from "./form.mjs";
import { ago, count, ms, size } from "./format.mjs";
import { html, useEffect, useState } from "./html.mjs";
import { short } from "./metrics.mjs";
import { refresh, useSource } from "./source.mjs";

export const TRITONS = "api/tritons?limit=1000";
export const STATES = { ready: "ok", unready: "warn", offline: "bad", unknown: "off", partial: "warn", loading: "busy", failed: "bad", unloaded: "off" };
const EVERY = 2;
const CARDS = 60;  // drawn at first
const COLUMNS = 6;  // Tritons that a column each is given to
const ROWS = 50;
const GPUS = 2;  // that a Triton's card shows one by one

export const since = (text) => (text ? ago(Date.parse(text) / 1000) : "never");
const percent = (share) => `${Math.round(100 * share)} %`;

/** Something that is done to a row, with what the server said against it. */
export function useAct(...lists) {
  const [error, setError] = useState(null);
  const [busy, setBusy] = useState(false);
  const act = (where, options) => {
    setBusy(true);
    return ask(where, options).then(() => setError(null), (refused) => setError(told(refused))).then(() => { setBusy(false); return refresh(...lists); });
  };
  return [act, busy, error];
}

const Level = ({ label, share, said }) => html`<div class="gpurow"><span class="quiet cut">${label}</span><div class="meter" role="meter" aria-label=${`${label}: ${said}`} aria-valuemin="0" aria-valuemax="100" aria-valuenow=${Math.round(100 * share)}>
  <i style=${{ width: `${Math.min(100, 100 * share)}%` }}></i></div><span class="nowrap">${said}</span></div>`;

/** What a Triton's metrics say of its GPUs: each by itself, or many as one. */
function Gpus({ gpus }) {
  const sum = (key) => gpus.reduce((all, gpu) => all + (gpu[key] ?? 0), 0);
  const loaded = gpus.filter((gpu) => gpu.load !== null);
  const shown = gpus.length <= GPUS ? gpus.map((gpu, at) => ({ ...gpu, name: gpus.length > 1 ? `GPU ${at}` : "GPU" }))
    : [{ id: "all", name: `${gpus.length} GPUs`, used: sum("used"), total: sum("total"), load: loaded.length ? loaded.reduce((all, gpu) => all + gpu.load, 0) / loaded.length : null }];
  return shown.map(({ id, name, used, total, load }) => html`<div class="stack-4" key=${id}>${load !== null && html`<${Level} label=${name} share=${load} said=${percent(load)}/>`}
    ${total > 0 && used !== null && html`<${Level} label="Memory" share=${used / total} said=${`${size(used / 1e6)} of ${size(total / 1e6)}`}/>`}</div>`);
}

/** Why a model is not as wanted: each reason once, with the Tritons that give it. */
export function whyNot(model) {
  const found = new Map();
  for (const { name, reason } of model.tritons) if (reason) found.set(reason, [...(found.get(reason) ?? []), name]);
  return [...found].map(([reason, names]) => `${names.length > 3 ? count(names.length, "Triton") : names.map(named).join(", ")}: ${reason}`);
}

/** One sentence: what is not as wanted, or that all is. */
function condition(triton, models) {
  if (triton.reason) return { bad: true, text: triton.reason };
  if (!triton.answered_at) return { bad: false, text: "It has not answered yet." };
  const behind = models.flatMap((model) => model.tritons.filter((at) => at.id === triton.id && at.wanted.length && at.state !== "ready").map((at) => `${named(model.name)} ${at.wanted.join(", ")} is ${at.state}${at.reason ? `: ${at.reason}` : ""}`));
  if (behind.length) return { bad: true, text: `${behind[0]}${behind.length > 1 ? `; ${behind.length - 1} more` : ""}` };
  const held = triton.models.length;
  return { bad: false, text: [triton.version && `Triton ${triton.version}`, held ? `${count(held, "version")}, all as wanted` : "no model yet"].filter(Boolean).join(", ") };
}

function Card({ triton, models }) {
  const [act, busy, error] = useAct(TRITONS, MODELS);
  const where = `api/tritons/${triton.id}`;
  const held = triton.models.length;
  const { bad, text } = condition(triton, models);
  const rate = inferred(triton.name);
  return html`<li class="card pad stack-12" data-triton=${triton.name}><div class="row between"><b class="strong cut">${triton.name}</b><${State} kind=${STATES[triton.state]}>${triton.state}<//></div>
    ${triton.gpu_figures.length > 0 && html`<${Gpus} gpus=${triton.gpu_figures}/>`}
    <div class="row between quiet"><span class="cut">${triton.host}:${triton.port}</span><span class="nowrap">${rate === null ? triton.state !== "ready" && triton.answered_at && `answered ${since(triton.answered_at)}` : `${short(rate)} inferences/s`}</span></div>
    <div class="row between wrap ends"><p class=${error || bad ? "err" : "help"} role=${error ? "alert" : undefined}>${error?.message ?? text}</p>
      ${may("fleet:write") && html`<${Sure} small bare disabled=${busy} text="Forget" effect=${held ? "Its models stay where they are wanted elsewhere." : "It is no longer looked at."}
        action=${() => act(held ? `${where}?force=true` : where, { method: "DELETE" })}/>`}</div></li>`;
}

const settled = (at) => at.state === "ready";

/** A Triton's versions of a model; who is behind is told in its state, and why beside the model. */
const Cell = ({ at }) => html`<td>${at && (at.wanted.length || at.versions.length) ? html`<${State} kind=${STATES[at.state] ?? "off"}>${at.versions.join(", ") || at.state}<//>` : html`<span class="quiet">–</span>`}</td>`;

function Versions({ models, tritons }) {
  const placed = models.filter((model) => model.tritons.length);
  const behind = placed.filter((model) => model.tritons.some((at) => at.wanted.length && !settled(at)));
  const columns = tritons.length <= COLUMNS ? tritons : [];
  const wanted = (model) => [...new Set(model.tritons.flatMap((at) => at.wanted))].sort((a, b) => Number(a) - Number(b)).join(", ");
  const drawn = [...behind, ...placed.filter((model) => !behind.includes(model))].slice(0, ROWS);
  return html`<section class="card" aria-label="Versions"><header><h2>Versions</h2><span class="grow"></span>${placed.length > 0 && html`<${State} kind=${behind.length ? "warn" : "ok"}>${behind.length ? `${behind.length} behind` : "all as wanted"}<//>`}</header>
    ${placed.length ? html`<div class="tscroll" tabindex="0" role="group" aria-label="Versions wanted and served"><table><thead><tr><th>Model</th><th>Wanted</th>${columns.length ? columns.map((each) => html`<th key=${each.id}><span class="cut" title=${each.name}>${each.name}</span></th>`) : html`<th>Where</th>`}</tr></thead>
      <tbody>${drawn.map((model) => html`<tr key=${model.id} data-versions=${model.name}><td><b class="strong">${model.name}</b>${whyNot(model).map((why) => html`<div class="err" key=${why}>${why}</div>`)}</td><td>${wanted(model) || "–"}</td>
        ${columns.length ? columns.map((each) => html`<${Cell} key=${each.id} at=${model.tritons.find((at) => at.id === each.id)}/>`)
          : html`<td><${State} kind=${behind.includes(model) ? "warn" : "ok"}>${model.tritons.filter(settled).length} of ${model.tritons.length}<//></td>`}</tr>`)}</tbody></table></div>
      ${drawn.length < placed.length && html`<p class="pad help">The first ${drawn.length} of ${placed.length.toLocaleString("en")}; Models has all.</p>`}` : html`<p class="pad help">No model is wanted anywhere yet.</p>`}</section>`;
}

const WIDTH = 92, HEIGHT = 20;

function Curve({ values }) {
  const most = Math.max(1e-9, ...values.map((value) => value ?? 0));
  const x = (at) => (WIDTH * at) / Math.max(1, values.length - 1), y = (value) => HEIGHT - 1 - ((HEIGHT - 2) * value) / most;
  return html`<svg class="chart curve" width=${WIDTH} height=${HEIGHT} aria-hidden="true"><path class="ln a" d=${path(values, x, y)}/></svg>`;
}

const errors = (share) => (share === null ? "–" : share === 0 ? "0" : html`<${State} kind="bad">${share < 0.0001 ? "under 0.01" : Number((100 * share).toPrecision(2))} %<//>`);

function Applications() {
  const { data } = useSource(APPS, 5);
  const all = data?.apps ?? [];
  if (!all.length) return null;
  const known = all.map((app) => ({ app, ...figuresOf(app.name) })).sort((a, b) => (b.rate ?? 0) - (a.rate ?? 0)).slice(0, ROWS);
  return html`<section class="card cards" aria-label="Applications"><header><h2>Applications</h2></header><div class="tscroll"><table><thead><tr><th>Application</th><th class="wide">Route</th><th class="num wide">Consumers</th><th class="wide">Last minutes</th><th class="num">Requests a second</th><th class="num wide">p95</th><th class="num wide">Errors</th></tr></thead>
    <tbody>${known.map(({ app, rate, p95, errors: share }) => html`<tr key=${app.id} data-traffic=${app.name}><td><b class="strong">${app.name}</b><div class="narrow help">p95 ${ms(p95)}, ${share === null ? "no errors known" : `${Number((100 * share).toPrecision(2))} % errors`}</div></td><td class="wide soft">${app.host ?? `/gateway/${app.name}`}</td>
      <td class="num wide">${app.consumers.length}</td><td class="wide"><${Curve} values=${rates("requests", app.name)}/></td><td class="num">${rate === null ? "–" : short(rate)}</td><td class="num wide">${ms(p95)}</td><td class="num wide">${errors(share)}</td></tr>`)}</tbody></table></div></section>`;
}

const Figure = ({ name, value, unit }) => html`<div class="stat" data-figure=${name}><dt>${name}</dt><dd>${value} <small>${unit}</small></dd></div>`;

function Figures({ tritons }) {
  const { data: consumers } = useSource(CONSUMERS, 5);
  const { rate, p95, errors: share } = figuresOf();
  const [time, unit] = p95 === null ? ["–", ""] : ms(p95).split(" ");
  const known = tritons !== null;
  return html`<dl class="stats fstats"><${Figure} name="Requests" value=${rate === null ? "–" : short(rate)} unit="a second"/><${Figure} name="p95" value=${time} unit=${unit}/>
    <${Figure} name="Errors" value=${share === null ? "–" : Number((100 * share).toPrecision(2))} unit="%"/>
    <${Figure} name="Tritons ready" value=${known ? tritons.filter((each) => each.state === "ready").length : "–"} unit=${known ? `of ${tritons.length}` : ""}/><${Figure} name="Consumers" value=${consumers ? consumers.total.toLocaleString("en") : "–"} unit=""/></dl>`;
}

export function Overview() {
  const { data, error } = useSource(TRITONS, EVERY);
  const { data: listed } = useSource(MODELS, EVERY);
  useLooks();
  const [most, setMost] = useState(CARDS);
  const all = data?.tritons ?? [], models = listed?.models ?? [];
  useEffect(() => noteStates(all), [data]);
  const urgent = (each) => Number(each.state === "ready");
  const drawn = [...all].sort((a, b) => urgent(a) - urgent(b)).slice(0, most);
  if (error && !data) return html`<${Trouble} error=${error} again=${() => refresh(TRITONS)}/>`;
  return html`<${Figures} tritons=${data ? all : null}/>
    ${all.length > 0 && html`<ul class="trits" aria-label="Tritons">${drawn.map((each) => html`<${Card} key=${each.id} triton=${each} models=${models}/>`)}</ul>`}
    ${drawn.length < all.length && html`<div class="row between"><span class="help">The first ${drawn.length} of ${all.length.toLocaleString("en")}, those that are not ready first.</span><${Button} small onClick=${() => setMost(most + CARDS)}>More<//></div>`}
    ${data && !all.length && html`<section class="card"><p class="pad help">None yet. A Triton is registered by its address; from then on it is looked at every second.</p></section>`}
    ${all.length > 0 && html`<div class="fgrid"><${TrafficChart}/><${Versions} models=${models} tritons=${all}/></div>`}<${Applications}/>`;
}

export const NewTriton = ({ close }) => html`<${Form} title="Register a Triton" text="Register" close=${close} send=${async (given) => {
    const ports = ["grpc_port", "metrics_port"].filter((name) => given.get(name)).map((name) => [name, given.get(name)]);
    await ask("api/tritons", { json: { name: given.get("name").trim(), host: given.get("host").trim(), port: given.get("port"), ...Object.fromEntries(ports) } });
    refresh(TRITONS);
  }}>
  <label class="stack-4"><span class="label">Name</span><input class="field" name="name" required placeholder="gpu-1"/></label>
  <label class="stack-4"><span class="label">Host</span><input class="field" name="host" required placeholder="10.0.0.5"/></label>
  <div class="three"><label class="stack-4"><span class="label">HTTP port</span><input class="field" name="port" required inputmode="numeric" pattern="[0-9]+" defaultValue="8000"/></label>
    <label class="stack-4"><span class="label">gRPC port</span><input class="field" name="grpc_port" inputmode="numeric" pattern="[0-9]*" placeholder="8001"/></label>
    <label class="stack-4"><span class="label">Metrics port</span><input class="field" name="metrics_port" inputmode="numeric" pattern="[0-9]*" placeholder="8002"/></label></div><//>`;
