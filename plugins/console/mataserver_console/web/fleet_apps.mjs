// Applications: what programs ask; each offers models and lets consumers in.
import { ask, may } from "./api.mjs";
import { Button, Sure, Trouble } from "./controls.mjs";
import { named } from "./direction.mjs";
import { CONSUMERS, Limits, limits } from "./fleet_consumers.mjs";
import { Change } from "./fleet_edit.mjs";
import { APPS, MODELS, NewRoute, Route } from "./fleet_routes.mjs";
import { Form, ShownOnce } from "./form.mjs";
import { count } from "./format.mjs";
import { html, useState } from "./html.mjs";
import { useServerListing } from "./listing.mjs";
import { refresh, useSource } from "./source.mjs";

export { APPS, MODELS };

export const NewApplication = ({ close }) => html`<${Form} title="New application" text="Make the application" close=${close} send=${async (given) => {
    const host = given.get("host").trim();
    await ask("api/apps", { json: { name: given.get("name").trim(), ...(host ? { host } : {}), resend: given.get("resend") !== null } });
    refresh(APPS);
  }}>
  <label class="stack-4"><span class="label">Name</span><input class="field" name="name" required placeholder="shop"/></label>
  <label class="stack-4"><span class="label">Public host</span><input class="field" name="host" placeholder="none: it is asked below /gateway/"/></label>
  <label class="row"><input type="checkbox" name="resend"/>Asking twice changes nothing: a request may be sent anew</label><//>`;

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

const Settings = ({ app, close }) => html`<${Change} path=${`api/apps/${app.id}`} title=${`Settings of ${named(app.name)}`} text="Save" close=${close} lists=${[APPS]}
  change=${(given) => ({ ...(given.has("host") ? { host: given.get("host").trim() || null } : {}), retries: Number(given.get("retries")), resend: given.get("resend") !== null })}
  fields=${(known) => html`${may("fleet:write") && html`<label class="stack-4"><span class="label">Public host</span><input class="field" name="host" defaultValue=${known.host ?? ""} placeholder="none: it is asked below /gateway/"/></label>`}
    <label class="stack-4"><span class="label">How often a request is tried anew</span><input class="field" name="retries" type="number" min="0" max="100" required defaultValue=${known.retries}/></label>
    <label class="row"><input type="checkbox" name="resend" defaultChecked=${known.resend}/>Asking twice changes nothing: a request may be sent anew</label>`}/>`;

const said = (app) => `${app.retries ? `Tried anew up to ${count(app.retries, "time")}` : "Not tried anew"}${app.resend ? ", also what a server has received" : ""}`;

const FORMS = { route: NewRoute, link: NewLink, settings: Settings };

function Application({ app, writes }) {
  const [error, setError] = useState(null);
  const [making, setMaking] = useState("");
  const [key, setKey] = useState(null);
  const path = `api/apps/${app.id}`;
  const Making = FORMS[making];
  const act = (where) => ask(path + where, { method: "DELETE" }).then(() => setError(null), setError).then(() => refresh(APPS));
  return html`<section class="card" aria-label=${app.name} data-app=${app.name}><header class="wrap"><h2>${app.name}</h2><span class="quiet cut">${app.host ?? `/gateway/${app.name}`}</span><span class="grow"></span>
      ${writes && html`<${Button} small icon="plus" onClick=${() => setMaking("route")}>Model<//><${Button} small icon="plus" onClick=${() => setMaking("link")}>Consumer<//>
        ${may("fleet:write") && html`<${Sure} small bare text="Remove" effect="Nobody can ask it then." action=${() => act("")}/>`}`}</header>
    ${error && html`<div class="pad"><${Trouble} error=${error}/></div>`}
    <ul class="sugg plain">${app.routes.map((route) => html`<${Route} key=${route.model_name} app=${app} route=${route} writes=${writes} act=${act}/>`)}
    ${!app.routes.length && html`<li class="help">It offers no model yet.</li>`}</ul>
    <div class="pad row wrap tight"><span class="label">May ask</span>${app.consumers.map((each) => html`<span class="tag" key=${each.id}>${each.name}
      ${writes && html`<${Sure} small bare text="Keep out" effect=${`${named(each.name)} is refused from now on.`} action=${() => act(`/consumers/${encodeURIComponent(each.name)}`)}/>`}</span>`)}
      ${!app.consumers.length && html`<span class="help">nobody yet</span>`}</div>
    ${writes && html`<div class="row between wrap pad"><span class="help">${said(app)}</span><${Button} small bare onClick=${() => setMaking("settings")}>Settings<//></div>`}
    ${Making && html`<${Making} app=${app} close=${() => setMaking("")} shown=${setKey}/>`}
    ${key && html`<${ShownOnce} ...${key} close=${() => setKey(null)}/>`}</section>`;
}

export function Applications() {
  const { data, error, all, drawn, filter, rest } = useServerListing({ path: APPS, list: "apps", every: 5 }, (each) => `${each.name} ${each.host ?? ""}`, 24);
  return html`${error && !data && html`<${Trouble} error=${error} again=${() => refresh(APPS)}/>`}${filter}
    ${data && !all.length && html`<section class="card"><p class="pad help">None yet. An application offers models under one address and lets consumers in.</p></section>`}
    <div class="two-up">${drawn.map((each) => html`<${Application} key=${each.id} app=${each} writes=${may("fleet:write")}/>`)}</div>${rest}`;
}
