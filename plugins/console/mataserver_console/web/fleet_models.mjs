// The fleet's models: where each is, and what is done with all of its versions.
import { ask, may } from "./api.mjs";
import { Button, State, Sure, Trouble } from "./controls.mjs";
import { named } from "./direction.mjs";
import { MODELS } from "./fleet_apps.mjs";
import { ifStill } from "./fleet_edit.mjs";
import { since, STATES, TRITONS, useAct, whyNot } from "./fleet_overview.mjs";
import { Form } from "./form.mjs";
import { count } from "./format.mjs";
import { html, useState } from "./html.mjs";
import { useServerListing } from "./listing.mjs";
import { address } from "./route.mjs";
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
  const headers = ifStill(model.tag);
  return html`<tr data-model=${model.name}><td><a class="strong" href=${address("fleet", { part: "models", model: model.name })}>${model.name}</a> <span class="quiet">${model.description}</span>${error ? html`<div class="err" role="alert">${error.message}</div>` : whyNot(model).map((why) => html`<div class="err" key=${why}>${why}</div>`)}
      <div class="narrow help">${[model.latest_version && newest(model), count(Number(model.inference_count), "inference"), model.last_inference && since(model.last_inference)].filter(Boolean).join(", ")}</div></td>
    <td><${State} kind=${STATES[model.state]}>${model.state}<//></td>
    <td class="wide">${model.latest_version ? newest(model) : "–"}</td>
    <td class=${wanted ? "below" : "wide"}>${wanted ? html`<${Placements} all=${model.tritons}/>` : "–"}</td>
    <td class="num wide">${Number(model.inference_count).toLocaleString("en")}</td><td class="wide soft extra">${since(model.last_inference)}</td>
    <td class="num actions below"><div class="row end tight">${may("fleet:write") && (wanted
      ? html`<${Sure} small disabled=${busy} text="Unload" effect="No Triton serves it then." action=${() => act(`${path}/unload`, { json: {}, headers })}/>`
      : html`<${Button} small disabled=${busy || !model.latest_version} onClick=${() => act(`${path}/load`, { json: {}, headers })}>Load<//>
        <${Sure} small bare disabled=${busy} text="Remove" effect="Its files go too." action=${() => act(path, { method: "DELETE", headers })}/>`)}</div></td></tr>`;
}

export function Models() {
  const { data, error, all, drawn, filter, rest } = useServerListing({ path: MODELS, list: "models", every: EVERY }, (each) => `${each.name} ${each.state} ${each.description}`);
  return html`${error && !data && html`<${Trouble} error=${error} again=${() => refresh(MODELS)}/>`}${filter}
    <section class="card cards" aria-label="Models of the fleet"><div class="tscroll"><table><thead><tr><th>Model</th><th>State</th><th class="wide">Newest</th><th class="wide">Where</th><th class="num wide">Inferences</th><th class="wide extra">Last one</th><th><span class="sr">Actions</span></th></tr></thead>
      <tbody>${drawn.map((each) => html`<${Model} key=${each.id} model=${each}/>`)}</tbody></table></div>${rest}
      ${data && !all.length && html`<p class="pad help">None yet. A directory as in Triton's repository is sent by <code>mataserver fleet models push DIRECTORY</code>, or here.</p>`}</section>`;
}

/** The files that were chosen, as the server takes them: the names carry the version, as a directory gives them. */
export function filled(given, fields) {
  const form = new FormData();
  for (const [name, value] of Object.entries(fields)) form.append(name, value);
  for (const file of given.getAll("files")) form.append("files[]", file, file.webkitRelativePath || file.name);
  return form;
}

export function Files() {
  const [whole, setWhole] = useState(false);
  return html`<label class="row"><input type="checkbox" checked=${whole} onChange=${() => setWhole(!whole)}/>A whole directory, as in Triton's repository</label>
    <label class="stack-4"><span class="label">${whole ? "Directory" : "Files: model.onnx, config.pbtxt"}</span><input class="field" type="file" name="files" required multiple webkitdirectory=${whole}/></label>`;
}

export const NewModel = ({ close }) => html`<${Form} title="Add a model" text="Add" close=${close} send=${async (given) => {
    await ask("api/models", { method: "POST", body: filled(given, { name: given.get("name").trim(), description: given.get("description") }) });
    refresh(MODELS);
  }}>
  <label class="stack-4"><span class="label">Name</span><input class="field" name="name" required placeholder="shelf"/></label>
  <label class="stack-4"><span class="label">Description</span><input class="field" name="description"/></label><${Files}/><//>`;
