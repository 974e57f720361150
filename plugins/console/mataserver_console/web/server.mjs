// Server: whether it is well, what it does, what it is made of, who may use it.
import { may, who } from "./api.mjs";
import { Accounts } from "./accounts.mjs";
import { Cluster } from "./cluster.mjs";
import { State, Switch, Trouble } from "./controls.mjs";
import { sentence } from "./direction.mjs";
import { Bar, useReady } from "./frame.mjs";
import { html, useMemo, useState } from "./html.mjs";
import { Icon } from "./icons.mjs";
import { Metrics } from "./metrics.mjs";
import { refresh, useSource } from "./source.mjs";

/** "Not ready: opencv-qr: loading; …" as its parts. */
const reasons = (text) => text.replace(/^Not ready: /, "").split("; ");

function Health() {
  const { data, error, state } = useReady(5);
  const { data: health } = useSource("v1/health", 60);
  const failed = Object.entries(data?.failed_tasks ?? {});
  const unknown = { "No answer": ".", "Not known": `: ${error?.message}` }[state[1]];
  return html`<section class="card pad stack-12" aria-labelledby="health"><div class="row between"><h2 id="health">Health</h2><${State} kind=${state[0]}>${state[1]}<//></div>
    ${unknown ? html`<p class="soft">Whether requests can be served is not known${unknown}</p>` : error ? html`<ul class="stack-4">${reasons(error.message).map((each) => html`<li key=${each}>${sentence(each)}</li>`)}</ul>` : html`<p class="soft">${data ? "Requests can be served." : "…"}</p>`}
    ${failed.map(([name, why]) => html`<p class="err" key=${name}>${name} ended: ${sentence(why)}</p>`)}
    <dl class="facts"><dt>Version</dt><dd>${health?.version ?? "–"}</dd><dt>GPU</dt><dd>${health ? (health.gpu_available ? "there is one" : "none") : "–"}</dd>
      <dt>Address</dt><dd><code>${location.origin}</code></dd><dt>API</dt><dd><a href="docs">Swagger</a>, <a href="redoc">Redoc</a>, <a href="metrics">metrics</a></dd></dl></section>`;
}

function Me() {
  const me = who.get();
  return html`<section class="card pad stack-12" aria-labelledby="me"><div class="row between"><h2 id="me">Signed in as ${me?.name}</h2><span class="tag">${me?.kind}</span></div>
    <p class="soft">May: ${(me?.scopes ?? []).includes("admin") ? "everything" : (me?.scopes ?? []).join(", ") || "nothing but see this"}</p></section>`;
}

function Plugins() {
  const { data, error } = useSource("v1/plugins", 30);
  const rows = data ?? [];
  return html`<section class="card" aria-labelledby="plugins"><header><h2 id="plugins">Plugins</h2><span class="quiet">${data && rows.length}</span></header>
    ${error && !data && html`<div class="pad"><${Trouble} error=${error} again=${() => refresh("v1/plugins")}/></div>`}
    <ul class="sugg plain plugins">${rows.map((plugin) => {
      const missing = plugin.backends.filter((each) => each.missing.length);
      return html`<li key=${plugin.name}><div class="grow"><div class="row wrap"><b class="strong">${plugin.name}</b>${plugin.version && html`<span class="quiet">${plugin.version}</span>`}
        ${[...new Set(plugin.backends.map((each) => each.task))].map((task) => html`<span class="tag" key=${task}>${task}</span>`)}</div>
        ${plugin.error && html`<div class="err">${sentence(plugin.error)}</div>`}${plugin.note && html`<div class="help">${plugin.note}</div>`}
        ${missing.map((each) => html`<div class="help" key=${each.name}>${each.name} needs ${each.missing.join(", ")}${each.install ? html`: <code>${each.install}</code>` : ""}</div>`)}</div>
        <${State} kind=${plugin.error ? "bad" : missing.length ? "warn" : "ok"}>${plugin.error ? "not in use" : missing.length ? "in part" : "in use"}<//></li>`;
    })}</ul></section>`;
}

const ORIGINS = { default: "default", yaml: "configuration", dotenv: ".env", environment: "environment", option: "command line" };

function Settings() {
  const { data, error } = useSource("v1/settings");
  const [words, setWords] = useState("");
  const [changed, setChanged] = useState(false);
  const rows = useMemo(() => (data ?? []).filter((each) => (!changed || each.origin !== "default") && each.name.includes(words.trim().toLowerCase())), [data, words, changed]);
  return html`<section class="card" aria-labelledby="settings"><header class="wrap"><h2 id="settings">Settings</h2><span class="grow"></span>
      <label class="row"><span>Changed only</span><${Switch} label="Changed only" on=${changed} onChange=${setChanged}/></label>
      <label class="field filter"><${Icon} name="search"/><span class="sr">Find a setting</span><input class="bareinput" placeholder="Find a setting" value=${words} onInput=${(event) => setWords(event.target.value)}/></label></header>
    ${error && html`<div class="pad"><${Trouble} error=${error}/></div>`}
    <div class="settings" tabindex="0" role="group" aria-label="Settings, a list"><table><thead><tr><th>Setting</th><th>Value</th><th class="wide">From</th></tr></thead><tbody>${rows.map((each) => html`<tr key=${each.name}>
      <td><code>${each.name}</code></td><td class="value">${each.redacted ? html`<span class="quiet">kept back</span>` : html`<code>${JSON.stringify(each.value)}</code>`}</td>
      <td class="wide soft">${ORIGINS[each.origin] ?? each.origin}</td></tr>`)}</tbody></table>${data && !rows.length && html`<p class="pad help">No such setting.</p>`}</div></section>`;
}

export default function Server() {
  const { data: plugins } = useSource(may("models:read") ? "v1/plugins" : null, 30);
  const accounts = (plugins ?? []).some((each) => each.name === "accounts" && !each.error);
  return html`<${Bar} title="Server"/><div class="content">
    <div class="two-up"><${Health}/><${Me}/></div>
    <${Metrics}/>
    ${may("models:read") && html`<${Cluster}/>`}
    ${accounts && html`<${Accounts}/>`}
    ${may("models:read") && html`<${Plugins}/>`}
    ${may("admin") && html`<${Settings}/>`}</div>`;
}
