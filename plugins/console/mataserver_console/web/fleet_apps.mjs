// Applications: what programs ask; each offers models and lets consumers in.
import { ask, may } from "./api.mjs";
import { Button, Copy, Sure, Trouble } from "./controls.mjs";
import { named } from "./direction.mjs";
import { CONSUMERS, Limits, limits } from "./fleet_consumers.mjs";
import { Form, ShownOnce } from "./form.mjs";
import { html, useState } from "./html.mjs";
import { useServerListing } from "./listing.mjs";
import { ModelField } from "./picker.mjs";
import { refresh, useSource } from "./source.mjs";

export const APPS = "api/apps?limit=1000";
/** The fleet's models. */
export const MODELS = "api/models?limit=1000";

export const NewApplication = ({ close }) => html`<${Form} title="New application" text="Make the application" close=${close} send=${async (given) => {
    const host = given.get("host").trim();
    await ask("api/apps", { json: { name: given.get("name").trim(), ...(host ? { host } : {}), resend: given.get("resend") !== null } });
    refresh(APPS);
  }}>
  <label class="stack-4"><span class="label">Name</span><input class="field" name="name" required placeholder="shop"/></label>
  <label class="stack-4"><span class="label">Public host</span><input class="field" name="host" placeholder="none: it is asked below /gateway/"/></label>
  <label class="row"><input type="checkbox" name="resend"/>Asking twice changes nothing: a request may be sent anew</label><//>`;

function NewRoute({ app, close }) {
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

function NewLink({ app, close, shown }) {
  const { data } = useSource(CONSUMERS, 10);
  const names = (data?.consumers ?? []).map((each) => each.name);
  return html`<${Form} title=${`Who may ask ${named(app.name)}`} text="Let it in" close=${close} send=${async (given) => {
      const said = await ask(`api/apps/${app.id}/consumers/${encodeURIComponent(given.get("consumer").trim())}`, { json: limits(given) });
      refresh(APPS, CONSUMERS);
      if (said?.key) shown({ name: said.name, secret: said.key });
    }}>
    <label class="stack-4"><span class="label">Consumer: one of these, or a new name</span><input class="field" name="consumer" required list="consumers" placeholder="till"/></label>
    <datalist id="consumers">${names.map((each) => html`<option key=${each} value=${each}/>`)}</datalist><${Limits}/><//>`;
}

const weights = (route) => Object.entries(route.weights).map(([version, weight]) => `version ${version}: ${weight}`).join(", ");

function Application({ app }) {
  const [error, setError] = useState(null);
  const [making, setMaking] = useState("");
  const [key, setKey] = useState(null);
  const path = `api/apps/${app.id}`;
  const writes = may("fleet:write");
  const act = (where) => ask(path + where, { method: "DELETE" }).then(() => setError(null), setError).then(() => refresh(APPS));
  return html`<section class="card" aria-label=${app.name} data-app=${app.name}><header class="wrap"><h2>${app.name}</h2><span class="quiet cut">${app.host ?? `/gateway/${app.name}`}</span><span class="grow"></span>
      ${writes && html`<${Button} small icon="plus" onClick=${() => setMaking("route")}>Model<//><${Button} small icon="plus" onClick=${() => setMaking("link")}>Consumer<//>
        <${Sure} small bare text="Remove" effect="Nobody can ask it then." action=${() => act("")}/>`}</header>
    ${error && html`<div class="pad"><${Trouble} error=${error}/></div>`}
    <ul class="sugg plain">${app.routes.map((route) => html`<li key=${route.model_name}><div class="grow cut"><b class="strong">${route.model_name}</b> <code class="quiet">${route.paths[0]}</code>
        ${weights(route) && html`<span class="help"> ${weights(route)}</span>`}${route.mirror && html`<span class="help"> mirrored to version ${route.mirror}</span>`}</div>
      <${Copy} text=${route.url} label=${`Copy where ${named(route.model_name)} is asked`}/>
      ${writes && html`<${Sure} small text="Take out" effect="It is not found there then." action=${() => act(`/routes/${encodeURIComponent(route.model_name)}`)}/>`}</li>`)}
    ${!app.routes.length && html`<li class="help">It offers no model yet.</li>`}</ul>
    <div class="pad row wrap tight"><span class="label">May ask</span>${app.consumers.map((each) => html`<span class="tag" key=${each.id}>${each.name}
      ${writes && html`<${Sure} small bare text="Keep out" effect=${`${named(each.name)} is refused from now on.`} action=${() => act(`/consumers/${encodeURIComponent(each.name)}`)}/>`}</span>`)}
      ${!app.consumers.length && html`<span class="help">nobody yet</span>`}</div>
    ${making === "route" && html`<${NewRoute} app=${app} close=${() => setMaking("")}/>`}
    ${making === "link" && html`<${NewLink} app=${app} close=${() => setMaking("")} shown=${setKey}/>`}
    ${key && html`<${ShownOnce} ...${key} close=${() => setKey(null)}/>`}</section>`;
}

export function Applications() {
  const { data, error, all, drawn, filter, rest } = useServerListing({ path: APPS, list: "apps", every: 5 }, (each) => `${each.name} ${each.host ?? ""}`, 24);
  return html`${error && !data && html`<${Trouble} error=${error} again=${() => refresh(APPS)}/>`}${filter}
    ${data && !all.length && html`<section class="card"><p class="pad help">None yet. An application offers models under one address and lets consumers in.</p></section>`}
    <div class="two-up">${drawn.map((each) => html`<${Application} key=${each.id} app=${each}/>`)}</div>${rest}`;
}
