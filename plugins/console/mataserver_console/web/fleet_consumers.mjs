// Consumers: the programs that ask applications, with a key each that is shown once.
import { ask, may } from "./api.mjs";
import { Button, State, Sure, Trouble } from "./controls.mjs";
import { named } from "./direction.mjs";
import { Change } from "./fleet_edit.mjs";
import { Form, ShownOnce } from "./form.mjs";
import { html, useState } from "./html.mjs";
import { useServerListing } from "./listing.mjs";
import { refresh } from "./source.mjs";

export const CONSUMERS = "api/consumers?limit=1000";

/** The limits that a form names. */
export const limits = (given) => Object.fromEntries(["rate", "quota"].filter((name) => given.get(name)).map((name) => [name, Number(given.get(name))]));

export const Limits = ({ of = { rate: null, quota: null } }) => html`<label class="stack-4"><span class="label">Requests a minute</span><input class="field" name="rate" type="number" min="1" defaultValue=${of.rate ?? ""} placeholder="no limit"/></label>
  <label class="stack-4"><span class="label">Requests a day</span><input class="field" name="quota" type="number" min="1" defaultValue=${of.quota ?? ""} placeholder="no limit"/></label>`;

const Tags = ({ value = "" }) => html`<label class="stack-4"><span class="label">Tags</span><input class="field" name="tags" defaultValue=${value}/></label>`;

const Changed = ({ consumer, close }) => html`<${Change} path=${`api/consumers/${consumer.id}`} title=${`Limits of ${named(consumer.name)}`} text="Save" close=${close} lists=${[CONSUMERS]}
  change=${(given) => ({ rate: null, quota: null, ...limits(given), tags: given.get("tags") })}
  fields=${(known) => html`<${Limits} of=${known}/><${Tags} value=${known.tags}/>`}/>`;

export function NewConsumer({ close }) {
  const [made, setMade] = useState(null);
  if (made) return html`<${ShownOnce} name=${made.name} secret=${made.key} close=${close}/>`;
  return html`<${Form} title="New consumer" text="Make the consumer" close=${close} send=${async (given) => {
      const answer = await ask("api/consumers", { json: { name: given.get("name").trim(), tags: given.get("tags"), ...limits(given) } });
      refresh(CONSUMERS);
      setMade(answer);
      return false;
    }}>
    <label class="stack-4"><span class="label">Name</span><input class="field" name="name" required placeholder="till"/></label>
    <${Tags}/><${Limits}/><//>`;
}

function Consumer({ consumer }) {
  const [error, setError] = useState(null);
  const [key, setKey] = useState(null);
  const [changing, setChanging] = useState(false);
  const path = `api/consumers/${consumer.id}`;
  const act = (where, options) => ask(path + where, options).then((said) => { setError(null); if (said?.key) setKey(said.key); }, setError).then(() => refresh(CONSUMERS));
  const limit = [consumer.rate && `${consumer.rate.toLocaleString("en")} a minute`, consumer.quota && `${consumer.quota.toLocaleString("en")} a day`].filter(Boolean).join(", ");
  return html`<tr data-consumer=${consumer.name}><td><b class="strong">${consumer.name}</b> <span class="quiet">${consumer.tags}</span><div class="narrow help">${limit || "no limit"}</div>${error && html`<div class="err" role="alert">${error.message}</div>`}
      ${changing && html`<${Changed} consumer=${consumer} close=${() => setChanging(false)}/>`}${key && html`<${ShownOnce} name=${consumer.name} secret=${key} close=${() => setKey(null)}/>`}</td>
    <td><${State} kind=${consumer.active ? "ok" : "off"}>${consumer.active ? "has a key" : "no key"}<//></td><td class="wide">${limit || "no limit"}</td>
    <td class="num actions below"><div class="row end tight">${may("fleet:write") && html`<${Button} small bare onClick=${() => setChanging(true)}>Limits<//><${Sure} small text="Another key" effect="The one before is refused from now on." action=${() => act("/key", { method: "POST" })}/>
      ${consumer.active && may("admin") && html`<${Sure} small text="Revoke" effect="Its key is refused from now on." action=${() => act("/key", { method: "DELETE" })}/>`}
      ${may("admin") && html`<${Sure} small bare text="Remove" effect="Its key is refused from now on." action=${() => act("", { method: "DELETE" })}/>`}`}</div></td></tr>`;
}

export function Consumers() {
  const { data, error, all, drawn, filter, rest } = useServerListing({ path: CONSUMERS, list: "consumers", every: 5 }, (each) => `${each.name} ${each.tags}`);
  return html`${error && !data && html`<${Trouble} error=${error} again=${() => refresh(CONSUMERS)}/>`}${filter}
    <section class="card cards" aria-label="Consumers"><div class="tscroll"><table><thead><tr><th>Consumer</th><th>Key</th><th class="wide">Limits</th><th><span class="sr">Actions</span></th></tr></thead>
      <tbody>${drawn.map((each) => html`<${Consumer} key=${each.id} consumer=${each}/>`)}</tbody></table></div>${rest}
      ${data && !all.length && html`<p class="pad help">None yet. A consumer is a program that may ask applications, with a key of its own.</p>`}</section>`;
}
