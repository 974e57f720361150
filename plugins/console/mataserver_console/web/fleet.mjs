// Fleet: the Tritons, what they serve, the applications and consumers that ask them, what is asked.
import { ask, may } from "./api.mjs";
import { Button, Segments, State, Sure, Trouble } from "./controls.mjs";
import { Applications, MODELS, NewApplication } from "./fleet_apps.mjs";
import { Consumers, NewConsumer } from "./fleet_consumers.mjs";
import { Traffic } from "./fleet_traffic.mjs";
import { Form } from "./form.mjs";
import { ago, count, size } from "./format.mjs";
import { Bar } from "./frame.mjs";
import { html, useState } from "./html.mjs";
import { amend, useRoute } from "./route.mjs";
import { refresh, useSource } from "./source.mjs";

const TRITONS = "api/tritons?limit=1000";
const STATES = { ready: "ok", unready: "warn", offline: "bad", unknown: "off", partial: "warn", loading: "busy", failed: "bad", unloaded: "off" };
const EVERY = 2;

const since = (text) => (text ? ago(Date.parse(text) / 1000) : "never");

/** Something that is done to a row, with what the server said against it. */
function useAct(...lists) {
  const [error, setError] = useState(null);
  const [busy, setBusy] = useState(false);
  const act = (path, options) => {
    setBusy(true);
    return ask(path, options).then(() => setError(null), setError).then(() => { setBusy(false); return refresh(...lists); });
  };
  return [act, busy, error];
}

const Gpu = ({ gpu }) => html`<div class="row tight"><span class="quiet nowrap">${gpu.total ? `${size(gpu.used / 1e6)} of ${size(gpu.total / 1e6)}` : "GPU"}</span>
  ${gpu.total > 0 && html`<div class="meter gpu" role="meter" aria-label=${`Memory of GPU ${gpu.id}`} aria-valuemin="0" aria-valuemax="100" aria-valuenow=${Math.round((100 * gpu.used) / gpu.total)}><i style=${{ width: `${(100 * gpu.used) / gpu.total}%` }}></i></div>`}
  ${gpu.load !== null && html`<span class="quiet">${Math.round(100 * gpu.load)} %</span>`}</div>`;

function Triton({ triton }) {
  const [act, busy, error] = useAct(TRITONS, MODELS);
  const path = `api/tritons/${triton.id}`;
  const held = triton.models.length;
  return html`<tr data-triton=${triton.name}><td><b class="strong">${triton.name}</b> <span class="quiet">${triton.host}:${triton.port}</span>
      ${(error?.message || triton.reason) && html`<div class="err" role=${error ? "alert" : undefined}>${error?.message ?? triton.reason}</div>`}
      <div class="narrow help">${[triton.version && `version ${triton.version}`, held && `serves ${count(held, "version")}`, triton.answered_at ? `answered ${since(triton.answered_at)}` : "never answered"].filter(Boolean).join(", ")}
        ${triton.gpu_figures.map((gpu) => html`<${Gpu} key=${gpu.id} gpu=${gpu}/>`)}</div></td>
    <td><${State} kind=${STATES[triton.state]}>${triton.state}<//></td><td class="num wide">${triton.version || "–"}</td>
    <td class="wide" title=${triton.models.map((each) => `${each.name} ${each.version}`).join(", ")}>${held ? count(held, "version") : "–"}</td>
    <td class="wide">${triton.gpu_figures.length ? triton.gpu_figures.map((gpu) => html`<${Gpu} key=${gpu.id} gpu=${gpu}/>`) : "–"}</td>
    <td class="wide soft">${since(triton.answered_at)}</td>
    <td class="num actions below"><div class="row end tight">${may("fleet:write") && html`<${Sure} small disabled=${busy} text="Forget" effect=${held ? "Its models stay where they are wanted elsewhere." : "It is no longer looked at."}
      action=${() => act(held ? `${path}?force=true` : path, { method: "DELETE" })}/>`}</div></td></tr>`;
}

function Tritons() {
  const { data, error } = useSource(TRITONS, EVERY);
  const all = data?.tritons ?? [];
  return html`${error && !data && html`<${Trouble} error=${error} again=${() => refresh(TRITONS)}/>`}
    <section class="card cards" aria-label="Tritons"><div class="tscroll"><table><thead><tr><th>Triton</th><th>State</th><th class="num wide">Version</th><th class="wide">Serves</th><th class="wide">GPU memory, load</th><th class="wide">Answered</th><th><span class="sr">Actions</span></th></tr></thead>
      <tbody>${all.map((each) => html`<${Triton} key=${each.id} triton=${each}/>`)}</tbody></table></div>
      ${data && !all.length && html`<p class="pad help">None yet. A Triton is registered by its address; from then on it is looked at every second.</p>`}</section>`;
}

const Placement = ({ at }) => html`<span class="tag" title=${at.reason || `wanted: ${at.wanted.join(", ") || "none"}`}><${State} kind=${STATES[at.state] ?? "off"}>${at.name}<//> ${at.versions.join(", ")}</span>`;

const newest = (model) => `${model.latest_version} of ${count(model.versions.length, "version")}`;

function Model({ model }) {
  const [act, busy, error] = useAct(MODELS, TRITONS);
  const path = `api/models/${model.id}`;
  const wanted = model.tritons.length > 0;
  const why = error?.message ?? model.reason;
  return html`<tr data-model=${model.name}><td><b class="strong">${model.name}</b> <span class="quiet">${model.description}</span>${why && html`<div class="err" role=${error ? "alert" : undefined}>${why}</div>`}
      <div class="narrow help">${[model.latest_version && newest(model), count(Number(model.inference_count), "inference"), model.last_inference && since(model.last_inference)].filter(Boolean).join(", ")}</div></td>
    <td><${State} kind=${STATES[model.state]}>${model.state}<//></td>
    <td class="wide">${model.latest_version ? newest(model) : "–"}</td>
    <td class=${wanted ? "below" : "wide"}><div class="row wrap tight">${wanted ? model.tritons.map((at) => html`<${Placement} key=${at.id} at=${at}/>`) : "–"}</div></td>
    <td class="num wide">${Number(model.inference_count).toLocaleString("en")}</td><td class="wide soft">${since(model.last_inference)}</td>
    <td class="num actions below"><div class="row end tight">${may("fleet:write") && (wanted
      ? html`<${Sure} small disabled=${busy} text="Unload" effect="No Triton serves it then." action=${() => act(`${path}/unload`, { json: {} })}/>`
      : html`<${Button} small disabled=${busy || !model.latest_version} onClick=${() => act(`${path}/load`, { json: {} })}>Load<//>
        <${Sure} small bare disabled=${busy} text="Remove" effect="Its files go too." action=${() => act(path, { method: "DELETE" })}/>`)}</div></td></tr>`;
}

function Models() {
  const { data, error } = useSource(MODELS, EVERY);
  const all = data?.models ?? [];
  return html`${error && !data && html`<${Trouble} error=${error} again=${() => refresh(MODELS)}/>`}
    <section class="card cards" aria-label="Models of the fleet"><div class="tscroll"><table><thead><tr><th>Model</th><th>State</th><th class="wide">Newest</th><th class="wide">Where</th><th class="num wide">Inferences</th><th class="wide">Last one</th><th><span class="sr">Actions</span></th></tr></thead>
      <tbody>${all.map((each) => html`<${Model} key=${each.id} model=${each}/>`)}</tbody></table></div>
      ${data && !all.length && html`<p class="pad help">None yet. A directory as in Triton's repository is sent by <code>mataserver fleet models push DIRECTORY</code>, or here.</p>`}</section>`;
}

const NewTriton = ({ close }) => html`<${Form} title="Register a Triton" text="Register" close=${close} send=${async (given) => {
    const ports = ["grpc_port", "metrics_port"].filter((name) => given.get(name)).map((name) => [name, given.get(name)]);
    await ask("api/tritons", { json: { name: given.get("name").trim(), host: given.get("host").trim(), port: given.get("port"), ...Object.fromEntries(ports) } });
    refresh(TRITONS);
  }}>
  <label class="stack-4"><span class="label">Name</span><input class="field" name="name" required placeholder="gpu-1"/></label>
  <label class="stack-4"><span class="label">Host</span><input class="field" name="host" required placeholder="10.0.0.5"/></label>
  <div class="three"><label class="stack-4"><span class="label">HTTP port</span><input class="field" name="port" required inputmode="numeric" pattern="[0-9]+" value="8000"/></label>
    <label class="stack-4"><span class="label">gRPC port</span><input class="field" name="grpc_port" inputmode="numeric" pattern="[0-9]*" placeholder="8001"/></label>
    <label class="stack-4"><span class="label">Metrics port</span><input class="field" name="metrics_port" inputmode="numeric" pattern="[0-9]*" placeholder="8002"/></label></div><//>`;

/** A model's files: the names carry the version, as a chosen directory gives them. */
const NewModel = ({ close }) => {
  const [whole, setWhole] = useState(false);
  return html`<${Form} title="Add a model" text="Add" close=${close} send=${async (given) => {
      const form = new FormData();
      form.append("name", given.get("name").trim());
      form.append("description", given.get("description"));
      for (const file of given.getAll("files")) form.append("files[]", file, file.webkitRelativePath || file.name);
      await ask("api/models", { method: "POST", body: form });
      refresh(MODELS);
    }}>
    <label class="stack-4"><span class="label">Name</span><input class="field" name="name" required placeholder="shelf"/></label>
    <label class="stack-4"><span class="label">Description</span><input class="field" name="description"/></label>
    <label class="row"><input type="checkbox" checked=${whole} onChange=${() => setWhole(!whole)}/>A whole directory, as in Triton's repository</label>
    <label class="stack-4"><span class="label">${whole ? "Directory" : "Files: model.onnx, config.pbtxt"}</span><input class="field" type="file" name="files" required multiple webkitdirectory=${whole}/></label><//>`;
};

const PARTS = {
  tritons: { title: "Tritons", View: Tritons, New: NewTriton, text: "Register a Triton", needs: "fleet:write" },
  models: { title: "Models", View: Models, New: NewModel, text: "Add a model", needs: "fleet:write" },
  apps: { title: "Applications", short: "Apps", View: Applications, New: NewApplication, text: "New application", needs: "fleet:write" },
  consumers: { title: "Consumers", View: Consumers, New: NewConsumer, text: "New consumer", needs: "fleet:write" },
  traffic: { title: "Traffic", View: Traffic },
};

export default function Fleet() {
  const { query } = useRoute();
  const [making, setMaking] = useState(false);
  const key = PARTS[query.get("part")] ? query.get("part") : "tritons";
  const { View, New, text, needs } = PARTS[key];
  const options = Object.entries(PARTS).map(([name, part]) => [name, part.title]);
  const few = Object.entries(PARTS).map(([name, part]) => [name, part.short ?? part.title]);
  const change = (part) => { setMaking(false); amend({ part }); };
  return html`<${Bar} title="Fleet"><div class="wide"><${Segments} label="What of the fleet" options=${options} value=${key} onChange=${change}/></div><span class="grow"></span>
      ${New && may(needs) && html`<${Button} primary icon="plus" onClick=${() => setMaking(true)}>${text}<//>`}<//>
    <div class="content"><div class="narrow even"><${Segments} label="What of the fleet, short" options=${few} value=${key} onChange=${change}/></div><${View} key=${key}/></div>
    ${making && html`<${New} close=${() => setMaking(false)}/>`}`;
}
