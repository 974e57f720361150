// Keys and users, where the plugin accounts keeps them.
import { ask, may } from "./api.mjs";
import { Button, Dialog, State, Sure, Trouble } from "./controls.mjs";
import { ShownOnce, useForm } from "./form.mjs";
import { ago, zoned } from "./format.mjs";
import { html, useState } from "./html.mjs";
import { now } from "./server_time.mjs";
import { refresh, useSource } from "./source.mjs";

const MOST = 1000;
const KEYS = `v1/keys?limit=${MOST}`, USERS = `v1/users?limit=${MOST}`;
const SCOPES = ["infer", "models:read", "models:write", "jobs:read", "jobs:write", "fleet:read", "fleet:write", "admin"];
const ROLES = ["viewer", "developer", "admin"];

function NewKey({ close }) {
  const [made, setMade] = useState(null);
  const { error, busy, submit } = useForm(async (given) => {
    const days = Number(given.get("days"));
    setMade(await ask("v1/keys", { json: {
      name: given.get("name").trim(), scopes: given.getAll("scope"), ...(given.get("standalone") ? { standalone: true } : {}),
      ...(days ? { expires_at: now() / 1000 + days * 86_400 } : {}),
    } }));
    refresh(KEYS);
  });
  if (made) return html`<${ShownOnce} name=${made.name} secret=${made.key} close=${close}/>`;
  return html`<${Dialog} title="New key" onClose=${close}><form class="stack-12" onSubmit=${submit}>${error && html`<${Trouble} error=${error}/>`}
    <label class="stack-4"><span class="label">Name</span><input class="field" name="name" required placeholder="door camera"/></label>
    <fieldset class="stack-4"><legend class="label">May</legend><div class="checks">${SCOPES.filter(may).map((scope) => html`<label class="row" key=${scope}><input type="checkbox" name="scope" value=${scope} defaultChecked=${scope === "infer"}/>${scope}</label>`)}</div></fieldset>
    <label class="stack-4"><span class="label">Ends after days</span><input class="field" name="days" type="number" min="1" placeholder="never"/></label>
    ${may("admin") && html`<label class="row"><input type="checkbox" name="standalone"/>Nobody's own: it outlives whoever makes it</label>`}
    <div><${Button} primary type="submit" disabled=${busy}>Make the key<//></div></form><//>`;
}

function NewUser({ close }) {
  const { error, busy, submit } = useForm(async (given) => {
    await ask("v1/users", { json: { name: given.get("name").trim(), password: given.get("password"), role: given.get("role") } });
    refresh(USERS);
    close();
  });
  return html`<${Dialog} title="New user" onClose=${close}><form class="stack-12" onSubmit=${submit}>${error && html`<${Trouble} error=${error}/>`}
    <label class="stack-4"><span class="label">Name</span><input class="field" name="name" required autocomplete="off"/></label>
    <label class="stack-4"><span class="label">Password</span><input class="field" name="password" type="password" required autocomplete="new-password"/></label>
    <label class="stack-4"><span class="label">Role</span><select class="field" name="role">${ROLES.map((each) => html`<option key=${each}>${each}</option>`)}</select></label>
    <div><${Button} primary type="submit" disabled=${busy}>Add the user<//></div></form><//>`;
}

function useAct(path) {
  const [error, setError] = useState(null);
  const act = (options, where = "") => ask(path.split("?")[0] + where, options).then(() => setError(null), setError).then(() => refresh(path));
  return [error, act];
}

function Keys() {
  const { data, error } = useSource(KEYS, 15);
  const [making, setMaking] = useState(false);
  const [failed, act] = useAct(KEYS);
  const keys = data?.keys ?? [];
  return html`<section class="card" aria-labelledby="keys"><header><h2 id="keys">Keys</h2><span class="quiet">${data?.total ?? ""}</span><span class="grow"></span><${Button} small icon="plus" onClick=${() => setMaking(true)}>New key<//></header>
    ${(failed ?? error) && html`<div class="pad"><${Trouble} error=${failed ?? error}/></div>`}
    ${data && !keys.length && html`<p class="pad help">None yet. The keys of the configuration are not listed here.</p>`}
    <div class="listed" tabindex=${keys.length ? 0 : undefined} role="group" aria-label="Keys, a list"><ul class="sugg plain">${keys.map((key) => html`<li key=${key.id}><div class="grow"><div class="row wrap"><b class="strong">${key.name}</b>${key.scopes.map((each) => html`<span class="tag" key=${each}>${each}</span>`)}</div>
      <span class="help">${key.last_used ? `used ${ago(key.last_used)}` : key.created_at ? `made ${ago(key.created_at)}` : ""}${key.expires_at ? `, ${key.expires_at * 1000 < now() ? "ended" : "ends"} ${zoned(key.expires_at * 1000)}` : ""}</span></div>
      <${Sure} small text="Revoke" effect="It is refused from now on." action=${() => act({ method: "DELETE" }, `/${key.id}`)}/></li>`)}</ul></div>
    ${making && html`<${NewKey} close=${() => setMaking(false)}/>`}</section>`;
}

function Users() {
  const { data, error } = useSource(USERS, 15);
  const [making, setMaking] = useState(false);
  const [failed, act] = useAct(USERS);
  const users = data?.users ?? [];
  const change = (user, changes) => act({ method: "PATCH", headers: { "Content-Type": "application/json" }, body: JSON.stringify(changes) }, `/${user.id}`);
  return html`<section class="card" aria-labelledby="users"><header><h2 id="users">Users</h2><span class="quiet">${data?.total ?? ""}</span><span class="grow"></span>
      ${may("admin") && html`<${Button} small icon="plus" onClick=${() => setMaking(true)}>New user<//>`}</header>
    ${(failed ?? error) && html`<div class="pad"><${Trouble} error=${failed ?? error}/></div>`}
    ${data && !users.length && html`<p class="pad help">None yet.</p>`}
    <div class="listed" tabindex=${users.length ? 0 : undefined} role="group" aria-label="Users, a list"><ul class="sugg plain">${users.map((user) => html`<li key=${user.id}><div class="grow row wrap"><b class="strong">${user.name}</b><span class="tag">${user.role}</span></div>
      <${State} kind=${user.disabled ? "off" : "ok"}>${user.disabled ? "disabled" : "active"}<//>
      ${may("admin") && html`<${Button} small onClick=${() => change(user, { disabled: !user.disabled })}>${user.disabled ? "Enable" : "Disable"}<//>
        <${Sure} small text="Remove" effect="Their keys end too." action=${() => act({ method: "DELETE" }, `/${user.id}`)}/>`}</li>`)}</ul></div>
    ${making && html`<${NewUser} close=${() => setMaking(false)}/>`}</section>`;
}

export const Accounts = () => html`<div class="two-up"><${Users}/><${Keys}/></div>`;
