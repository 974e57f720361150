// Fleet: the Tritons, what they serve, the applications and consumers that ask them, what is asked.
import { ask, may } from "./api.mjs";
import { Button, Segments, State, Sure, Trouble } from "./controls.mjs";
import { named } from "./direction.mjs";
import { Applications, MODELS, NewApplication } from "./fleet_apps.mjs";
import { Consumers, NewConsumer } from "./fleet_consumers.mjs";
import { NewTriton, Overview, since, STATES, TRITONS, useAct, whyNot } from "./fleet_overview.mjs";
import { Traffic } from "./fleet_traffic.mjs";
import { Form } from "./form.mjs";
import { count } from "./format.mjs";
import { Bar } from "./frame.mjs";
import { html, useState } from "./html.mjs";
import { useServerListing } from "./listing.mjs";
import { amend, useRoute } from "./route.mjs";
import { refresh } from "./source.mjs";

const EVERY = 2;
const PLACES = 8;  // of a model, drawn at first: each of hundreds of models may be at hundreds of Tritons

const Placement = ({ at }) => html`<span class="tag" title=${`${named(at.name)}, wanted: ${at.wanted.join(", ") || "none"}`}><${State} kind=${STATES[at.state] ?? "off"}><span class="cut">${at.name}</span><//> ${at.versions.join(", ")}</span>`;

/** Where a model is: a few of many, those that are not ready first. */
function Placements({ all }) {
  const [most, setMost] = useState(PLACES);
  const drawn = [...all].sort((a, b) => Number(a.state === "ready") - Number(b.state === "ready")).slice(0, most);
  return html`<div class="row wrap tight">${drawn.map((at) => html`<${Placement} key=${at.id} at=${at}/>`)}${drawn.length < all.length && html`<${Button} small bare onClick=${() => setMost(Infinity)}>${all.length - drawn.length} more<//>`}</div>`;
}

const newest = (model) => `${model.latest_version} of ${count(model.versions.length, "version")}`;

function Model({ model }) {
  const [act, busy, error] = useAct(MODELS, TRITONS);
  const path = `api/models/${model.id}`;
  const wanted = model.tritons.length > 0;
  return html`<tr data-model=${model.name}><td><b class="strong">${model.name}</b> <span class="quiet">${model.description}</span>${error ? html`<div class="err" role="alert">${error.message}</div>` : whyNot(model).map((why) => html`<div class="err" key=${why}>${why}</div>`)}
      <div class="narrow help">${[model.latest_version && newest(model), count(Number(model.inference_count), "inference"), model.last_inference && since(model.last_inference)].filter(Boolean).join(", ")}</div></td>
    <td><${State} kind=${STATES[model.state]}>${model.state}<//></td>
    <td class="wide">${model.latest_version ? newest(model) : "–"}</td>
    <td class=${wanted ? "below" : "wide"}>${wanted ? html`<${Placements} all=${model.tritons}/>` : "–"}</td>
    <td class="num wide">${Number(model.inference_count).toLocaleString("en")}</td><td class="wide soft extra">${since(model.last_inference)}</td>
    <td class="num actions below"><div class="row end tight">${may("fleet:write") && (wanted
      ? html`<${Sure} small disabled=${busy} text="Unload" effect="No Triton serves it then." action=${() => act(`${path}/unload`, { json: {} })}/>`
      : html`<${Button} small disabled=${busy || !model.latest_version} onClick=${() => act(`${path}/load`, { json: {} })}>Load<//>
        <${Sure} small bare disabled=${busy} text="Remove" effect="Its files go too." action=${() => act(path, { method: "DELETE" })}/>`)}</div></td></tr>`;
}

function Models() {
  const { data, error, all, drawn, filter, rest } = useServerListing({ path: MODELS, list: "models", every: EVERY }, (each) => `${each.name} ${each.state} ${each.description}`);
  return html`${error && !data && html`<${Trouble} error=${error} again=${() => refresh(MODELS)}/>`}${filter}
    <section class="card cards" aria-label="Models of the fleet"><div class="tscroll"><table><thead><tr><th>Model</th><th>State</th><th class="wide">Newest</th><th class="wide">Where</th><th class="num wide">Inferences</th><th class="wide extra">Last one</th><th><span class="sr">Actions</span></th></tr></thead>
      <tbody>${drawn.map((each) => html`<${Model} key=${each.id} model=${each}/>`)}</tbody></table></div>${rest}
      ${data && !all.length && html`<p class="pad help">None yet. A directory as in Triton's repository is sent by <code>mataserver fleet models push DIRECTORY</code>, or here.</p>`}</section>`;
}

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
  overview: { title: "Overview", View: Overview, New: NewTriton, text: "Register a Triton", needs: "fleet:write" },
  models: { title: "Models", View: Models, New: NewModel, text: "Add a model", needs: "fleet:write" },
  apps: { title: "Applications", short: "Apps", View: Applications, New: NewApplication, text: "New application", needs: "fleet:write" },
  consumers: { title: "Consumers", View: Consumers, New: NewConsumer, text: "New consumer", needs: "fleet:write" },
  traffic: { title: "Traffic", View: Traffic },
};

export default function Fleet() {
  const { query } = useRoute();
  const [making, setMaking] = useState(false);
  const key = PARTS[query.get("part")] ? query.get("part") : "overview";
  const { View, New, text, needs } = PARTS[key];
  const options = Object.entries(PARTS).map(([name, part]) => [name, part.title]);
  const few = Object.entries(PARTS).map(([name, part]) => [name, part.short ?? part.title]);
  const change = (part) => { setMaking(false); amend({ part }); };
  return html`<${Bar} title="Fleet"><div class="wide"><${Segments} label="What of the fleet" options=${options} value=${key} onChange=${change}/></div><span class="grow"></span>
      ${New && may(needs) && html`<${Button} primary icon="plus" onClick=${() => setMaking(true)}>${text}<//>`}<//>
    <div class="content"><div class="narrow even"><${Segments} label="What of the fleet, short" options=${few} value=${key} onChange=${change}/></div><${View} key=${key}/></div>
    ${making && html`<${New} close=${() => setMaking(false)}/>`}`;
}
