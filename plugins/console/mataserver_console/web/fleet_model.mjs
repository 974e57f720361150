// One model of the fleet: its versions, which of them is live, where it is wanted, the way back.
import { ask, may } from "./api.mjs";
import { Button, State, Sure, Trouble } from "./controls.mjs";
import { named } from "./direction.mjs";
import { APPS, MODELS } from "./fleet_apps.mjs";
import { Change, ifStill, told } from "./fleet_edit.mjs";
import { Files, filled } from "./fleet_models.mjs";
import { since, STATES, TRITONS, useAct } from "./fleet_overview.mjs";
import { Form } from "./form.mjs";
import { bytes } from "./format.mjs";
import { html, useState } from "./html.mjs";
import { useListing } from "./listing.mjs";
import { address } from "./route.mjs";
import { refresh, useSource } from "./source.mjs";

const EVERY = 5;
const ids = (model) => encodeURIComponent(model.name);
const own = (model) => `api/models/${ids(model)}`;

/** What routes do with a version: a share of the requests, or a copy of each. */
function uses(version, apps, model) {
  const routes = apps.flatMap((app) => app.routes.filter((route) => route.model_name === model.name).map((route) => ({ app: named(app.name), route })));
  return routes.flatMap(({ app, route }) => {
    const shares = Object.entries(route.weights), all = shares.reduce((sum, [, weight]) => sum + weight, 0);
    const share = shares.find(([number]) => number === version)?.[1];
    return [share !== undefined && `${Math.round((100 * share) / all)} % of ${app}`, route.mirror === version && `mirror of ${app}`].filter(Boolean);
  });
}

/** Where a version is: at all of the Tritons that the model is at, or at some of them. */
function Live({ version, model }) {
  const at = model.tritons.filter((each) => each.versions.includes(version));
  const wanted = model.tritons.filter((each) => each.wanted.includes(version));
  if (!at.length && !wanted.length) return html`<${State} kind="off">not loaded<//>`;
  const all = new Set([...at, ...wanted]).size;
  const kind = at.length < wanted.length ? "warn" : wanted.length < at.length ? "busy" : "ok";
  const text = !at.length ? "wanted" : wanted.length ? "live" : "still loaded";
  return html`<${State} kind=${kind}>${text} at ${at.length === all ? at.length : `${at.length} of ${all}`}<//>`;
}

function Version({ version, model, apps }) {
  const [act, busy, error] = useAct(own(model), MODELS, APPS, TRITONS);
  const { version: number } = version;
  const used = uses(number, apps, model);
  const others = [...new Set(model.tritons.flatMap((each) => each.wanted))].filter((each) => each !== number).join(", ");
  const wanted = model.everywhere.includes(number) || model.tritons.some((each) => each.wanted.includes(number));
  const taken = wanted || used.length > 0 || model.tritons.some((each) => each.versions.includes(number));
  const alone = wanted && !others;
  return html`<tr data-version=${number}><td><b class="strong">${number}</b>${used.map((each) => html` <span class="tag" key=${each}>${each}</span>`)}${error && html`<div class="err" role="alert">${error.message}</div>`}
      <div class="narrow help">${bytes(version.size)}, made ${since(version.create_at)}</div></td>
    <td><${Live} version=${number} model=${model}/></td><td class="num wide">${Number(version.inference_count).toLocaleString("en")}</td><td class="num wide">${bytes(version.size)}</td>
    <td class="wide soft extra"><code title=${version.digest}>${version.digest.slice(0, 12)}</code></td><td class="wide soft extra">${since(version.create_at)}</td>
    <td class="num actions below"><div class="row end tight">${may("fleet:write") && html`
      ${!(alone && model.everywhere.length) && html`<${Sure} small disabled=${busy} text="Load" effect=${others ? `It takes the place of ${others} at every Triton.` : "Every Triton is sent it."} action=${() => act(`${own(model)}/load`, { json: { versions: [number] }, headers: ifStill(model.tag) })}/>`}
      <${Sure} small bare disabled=${busy} text="Remove" effect=${taken ? `In use: ${alone ? "no Triton serves the model then" : "all go on without it"}.` : "Its number is not given again."}
        action=${() => act(`${own(model)}/versions/${number}${taken ? "?force=true" : ""}`, { method: "DELETE", headers: ifStill(model.tag) })}/>`}</div></td></tr>`;
}

function Versions({ model }) {
  const { data } = useSource(`${APPS}#apps`, EVERY);
  const { drawn, rest } = useListing(model.versions, (each) => each.version, { step: 50 });
  return html`<section class="card cards" aria-label="Versions"><header><h2>Versions</h2></header>
    ${model.versions.length ? html`<div class="tscroll"><table><thead><tr><th>Version</th><th>State</th><th class="num wide">Inferences</th><th class="num wide">Size</th><th class="wide extra">Digest</th><th class="wide extra">Made</th><th><span class="sr">Actions</span></th></tr></thead>
      <tbody>${drawn.map((each) => html`<${Version} key=${each.version} version=${each} model=${model} apps=${data?.apps ?? []}/>`)}</tbody></table></div>${rest}` : html`<p class="pad help">It has no version: add its files.</p>`}</section>`;
}

function Place({ at, model }) {
  const [act, busy, error] = useAct(own(model), MODELS, TRITONS);
  return html`<li data-place=${at.name}><div class="grow cut"><b class="strong">${at.name}</b> <span class="quiet">${at.versions.length ? `serves ${at.versions.join(", ")}` : "serves none"}, wanted ${at.wanted.join(", ") || "none"}</span>
      ${(error?.message || at.reason) && html`<div class="err" role=${error ? "alert" : undefined}>${error?.message ?? at.reason}</div>`}</div>
    <${State} kind=${STATES[at.state] ?? "off"}>${at.state}<//>
    ${may("fleet:write") && at.wanted.length > 0 && html`<${Sure} small bare disabled=${busy} text="Unload" effect=${`${named(at.name)} serves it no more.`} action=${() => act(`${own(model)}/unload`, { json: { triton_id: String(at.id) }, headers: ifStill(model.tag) })}/>`}</li>`;
}

const Places = ({ model }) => {
  const { drawn, rest } = useListing(model.tritons, (each) => each.name, { step: 24 });
  return html`<section class="card" aria-label="Where"><header class="wrap"><h2>Where</h2><span class="quiet">${model.everywhere.length ? `wanted at all Tritons, also those to come: ${model.everywhere.join(", ")}` : ""}</span></header>
    <ul class="sugg plain">${drawn.map((at) => html`<${Place} key=${at.id} at=${at} model=${model}/>`)}${!model.tritons.length && html`<li class="help">No Triton has it.</li>`}</ul>${rest}</section>`;
};

/** Any versions beside one another, as a canary needs, at one Triton or at all. */
function NewLoad({ model, close }) {
  const { data } = useSource(`${TRITONS}#tritons`, EVERY);
  const [meant, setMeant] = useState(model);  // what is chosen is a change of what was shown as it was opened
  const now = new Set(meant.tritons.flatMap((each) => each.wanted));
  return html`<${Form} title=${`Load versions of ${named(model.name)}`} text="Load" close=${close} send=${async (given) => {
      const versions = given.getAll("version"), triton = given.get("triton");
      if (!versions.length) throw new Error("Choose a version.");
      try {
        await ask(`${own(model)}/load`, { json: { versions, ...(triton ? { triton_id: triton } : {}) }, headers: ifStill(meant.tag) });
      } catch (error) {
        await ask(own(model)).then(setMeant, () => {});  // it is shown as it is now
        throw told(error);
      } finally { refresh(own(model), MODELS, TRITONS); }
    }}>
    <fieldset class="stack-4" key=${meant.tag}><legend class="label">These, and no others</legend><div class="checks">${meant.versions.map(({ version }) => html`<label class="row" key=${version}><input type="checkbox" name="version" value=${version} defaultChecked=${now.has(version)}/>${version}</label>`)}</div></fieldset>
    <label class="stack-4"><span class="label">Where</span><select class="field" name="triton"><option value="">All Tritons, also those to come</option>${(data?.tritons ?? []).map((each) => html`<option key=${each.id} value=${each.id}>${each.name}</option>`)}</select></label><//>`;
}

const NewVersion = ({ model, close }) => html`<${Form} title=${`A version of ${named(model.name)}`} text="Add" close=${close} send=${async (given) => {
    const load = given.get("load") ? "?load=true" : "";
    try {
      await ask(`${own(model)}/versions${load}`, { method: "POST", body: filled(given, {}) });
    } finally { refresh(own(model), MODELS); }
  }}><${Files}/>
  <label class="row"><input type="checkbox" name="load"/>Load it at all Tritons at once</label><//>`;

function Actions({ model, make }) {
  const [act, busy, error] = useAct(own(model), MODELS, TRITONS);
  const wanted = [...model.everywhere, ...model.tritons.flatMap((each) => each.wanted)].map(Number);
  const last = Math.max(0, ...wanted);
  return html`${error && html`<div class="pad"><${Trouble} error=${error}/></div>`}<div class="row wrap tight pad">
    <${Button} small icon="plus" onClick=${() => make("version")}>Version<//><${Button} small disabled=${!model.versions.length} onClick=${() => make("load")}>Load versions<//>
    ${last > 0 && html`<${Sure} small disabled=${busy} text="Roll back" effect=${`The version before ${last} that was served takes its place wherever it is wanted.`} action=${() => act(`${own(model)}/rollback`, { method: "POST", headers: ifStill(model.tag) })}/>
      <${Sure} small bare disabled=${busy} text="Unload" effect="No Triton serves it then." action=${() => act(`${own(model)}/unload`, { json: {}, headers: ifStill(model.tag) })}/>`}
    <${Button} small bare onClick=${() => make("words")}>Describe<//></div>`;
}

const Describe = ({ model, close }) => html`<${Change} path=${own(model)} title=${`What ${named(model.name)} is`} text="Describe" close=${close} lists=${[own(model), MODELS]}
  change=${(given) => ({ description: given.get("description") })} fields=${(known) => html`<label class="stack-4"><span class="label">Description</span><input class="field" name="description" defaultValue=${known.description}/></label>`}/>`;

const FORMS = { version: NewVersion, load: NewLoad, words: Describe };

export function Model({ name }) {
  const path = own({ name });
  const { data: model, error } = useSource(path, EVERY);
  const [making, setMaking] = useState("");
  const Making = FORMS[making];
  return html`<p><a href=${address("fleet", { part: "models" })}>All models</a></p>
    ${error && (!model || error.status === 404) && html`<${Trouble} error=${error} again=${() => refresh(path)}/>`}
    ${model && !(error?.status === 404) && html`<section class="card" aria-label=${model.name} data-one=${model.name}><header class="wrap"><h2>${model.name}</h2><${State} kind=${STATES[model.state]}>${model.state}<//><span class="quiet cut">${model.description}</span></header>
        ${may("fleet:write") && html`<${Actions} model=${model} make=${setMaking}/>`}</section>
      <${Versions} model=${model}/><${Places} model=${model}/>`}
    ${Making && html`<${Making} model=${model} close=${() => setMaking("")}/>`}`;
}
