// The models of an application: how requests are shared out among a model's versions, and which one gets a copy.
import { ask } from "./api.mjs";
import { Button, Copy, Sure } from "./controls.mjs";
import { named } from "./direction.mjs";
import { Change } from "./fleet_edit.mjs";
import { Form } from "./form.mjs";
import { html, useState } from "./html.mjs";
import { ModelField } from "./picker.mjs";
import { refresh, useSource } from "./source.mjs";

export const APPS = "api/apps?limit=1000";
/** The fleet's models. */
export const MODELS = "api/models?limit=1000";
const MOST = 12;  // versions that a form has a field for

export function NewRoute({ app, close }) {
  const { data } = useSource(`${MODELS}#models`, 10);
  const offered = new Set(app.routes.map((each) => each.model_name));
  const free = (data?.models ?? []).filter((each) => !offered.has(each.name));
  return html`<${Form} title=${`A model for ${named(app.name)}`} text="Offer it" close=${close} send=${async (given) => {
      if (!given.get("model")) throw new Error("Add a model to the fleet first.");
      await ask(`api/apps/${app.id}/routes/${encodeURIComponent(given.get("model"))}`, { method: "POST" });
      refresh(APPS);
    }}>
    <${ModelField} models=${free.map(({ name, state }) => ({ model: name, state }))}/>
    ${data && !free.length && html`<p class="help">Every model is offered already.</p>`}<//>`;
}

/** What a version is: live at so many Tritons, or that nothing asks it. */
const liveness = (model, version) => {
  const at = model?.tritons.filter((each) => each.versions.includes(version)).length ?? 0;
  return at ? `live at ${at}` : "not loaded";
};

/** The versions that a form is of: the newest, and all that the route names. */
function chosen(model, route) {
  const versions = (model?.versions ?? []).map((each) => each.version);
  const names = new Set([...versions.slice(0, MOST), ...Object.keys(route.weights), ...(route.mirror ? [route.mirror] : [])]);
  return [...names].sort((a, b) => Number(b) - Number(a));
}

function Shares({ route }) {
  const { data, error } = useSource(`api/models/${encodeURIComponent(route.model_name)}`, 10);
  const versions = chosen(data, route);
  if (error?.status === 404) return html`<p class="help">It is a model of this server, which has one version.</p>`;
  return html`<p class="help">Shares are of requests that name no version; without any, Triton takes the newest that is loaded.</p>
    ${versions.map((version) => html`<label class="stack-4" key=${version}><span class="label">Version ${version}, ${liveness(data, version)}</span><input class="field" name=${`share-${version}`} type="number" min="0" max="1000000" step="any" defaultValue=${route.weights[version] ?? ""} placeholder="no share"/></label>`)}
    <label class="stack-4"><span class="label">A copy of each request, whose answer counts for nothing</span><select class="field" name="mirror"><option value="">to no version</option>${versions.map((version) => html`<option key=${version} value=${version} selected=${route.mirror === version}>to version ${version}</option>`)}</select></label>`;
}

/** The shares that a form names, and its mirror. */
function shared(given) {
  const shares = [...given].filter(([name, value]) => name.startsWith("share-") && value !== "");
  return { weights: Object.fromEntries(shares.map(([name, value]) => [name.slice("share-".length), Number(value)])), mirror: given.get("mirror") || null };
}

function Sharing({ app, model, close }) {
  return html`<${Change} path=${`api/apps/${app.id}`} where=${`/routes/${encodeURIComponent(model)}`} title=${`Versions of ${named(model)} in ${named(app.name)}`} text="Share out" close=${close} lists=${[APPS]} change=${shared}
    fields=${(known) => {
      const route = known.routes.find((each) => each.model_name === model);
      return route ? html`<${Shares} route=${route}/>` : html`<p class="help">The application does not offer it any more.</p>`;
    }}/>`;
}

function weights(route) {
  const all = Object.values(route.weights).reduce((sum, weight) => sum + weight, 0);
  return Object.entries(route.weights).map(([version, weight]) => `version ${version}: ${Number(((100 * weight) / all).toPrecision(3))} %`).join(", ");
}

export function Route({ app, route, writes, act }) {
  const [sharing, setSharing] = useState(false);
  return html`<li data-route=${route.model_name}><div class="grow cut"><b class="strong">${route.model_name}</b> <code class="quiet">${route.paths[0]}</code>
      ${weights(route) && html`<div class="help">${weights(route)}</div>`}${route.mirror && html`<div class="help">mirrored to version ${route.mirror}</div>`}</div>
    <${Copy} text=${route.url} label=${`Copy where ${named(route.model_name)} is asked`}/>
    ${writes && html`<${Button} small bare onClick=${() => setSharing(true)}>Versions<//><${Sure} small text="Take out" effect="It is not found there then." action=${() => act(`/routes/${encodeURIComponent(route.model_name)}`)}/>`}
    ${sharing && html`<${Sharing} app=${app} model=${route.model_name} close=${() => setSharing(false)}/>`}</li>`;
}
