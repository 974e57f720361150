// Users, and the applications that each may change: `auth` and `unauth` of the fleet.
import { ask, may } from "./api.mjs";
import { Button, Sure, Trouble } from "./controls.mjs";
import { named } from "./direction.mjs";
import { APPS } from "./fleet_apps.mjs";
import { useAct } from "./fleet_overview.mjs";
import { Form } from "./form.mjs";
import { html, useState } from "./html.mjs";
import { useServerListing } from "./listing.mjs";
import { refresh, useSource } from "./source.mjs";

export const USERS = "api/users?limit=1000";
const at = (user, app) => `api/users/${user.id}/apps/${encodeURIComponent(app)}`;

function NewGrant({ user, close }) {
  const { data } = useSource(`${APPS}#apps`, 10);
  const free = (data?.apps ?? []).filter((each) => !user.apps.includes(each.name));
  return html`<${Form} title=${`What ${named(user.name)} may change`} text="Authorise" close=${close} send=${async (given) => {
      if (!given.get("app")) throw new Error("There is no other application.");
      await ask(`${at(user, given.get("app"))}/auth`, { method: "POST" });
      refresh(USERS);
    }}>
    <label class="stack-4"><span class="label">Application</span><select class="field" name="app" required>${free.map((each) => html`<option key=${each.id}>${each.name}</option>`)}</select></label>
    ${data && !free.length && html`<p class="help">There is no other application.</p>`}
    ${user.role === "viewer" && html`<p class="help">A viewer only reads: it counts once they are a developer.</p>`}<//>`;
}

function User({ user }) {
  const [making, setMaking] = useState(false);
  const [act, busy, error] = useAct(USERS);
  return html`<tr data-user=${user.name}><td><b class="strong">${user.name}</b> <span class="quiet">${user.tags}</span>${error && html`<div class="err" role="alert">${error.message}</div>`}
      <div class="narrow help">${user.role}</div></td>
    <td class="wide">${user.role}</td>
    <td class="below"><div class="row wrap tight">${user.role === "admin" ? html`<span class="help">all</span>` : user.apps.map((app) => html`<span class="tag" key=${app}>${app}
      ${may("admin") && html`<${Sure} small bare disabled=${busy} text="Withdraw" effect=${`${named(user.name)} may not change it any more.`} action=${() => act(`${at(user, app)}/unauth`, { method: "POST" })}/>`}</span>`)}${user.role !== "admin" && !user.apps.length && html`<span class="help">none</span>`}</div></td>
    <td class="num actions below"><div class="row end tight">${may("admin") && user.role !== "admin" && html`<${Button} small icon="plus" onClick=${() => setMaking(true)}>Application<//>`}
      ${making && html`<${NewGrant} user=${user} close=${() => setMaking(false)}/>`}</div></td></tr>`;
}

export function Users() {
  const { data, error, all, drawn, filter, rest } = useServerListing({ path: USERS, list: "users", every: 5 }, (each) => `${each.name} ${each.role} ${each.tags} ${each.apps.join(" ")}`);
  return html`${error && !data && html`<${Trouble} error=${error} again=${() => refresh(USERS)}/>`}${filter}
    <section class="card cards" aria-label="Users"><div class="tscroll"><table><thead><tr><th>User</th><th class="wide">Role</th><th class="wide">May change</th><th><span class="sr">Actions</span></th></tr></thead>
      <tbody>${drawn.map((each) => html`<${User} key=${each.id} user=${each}/>`)}</tbody></table></div>${rest}
      ${data && !all.length && html`<p class="pad help">No user to show. Users are made on the page Server; here a developer is authorised for applications.</p>`}</section>`;
}
