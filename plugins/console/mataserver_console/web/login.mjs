// Signing in once: by key, by name and password where users are known, by the printed link.
import { Refused, ask, setLeaving, who } from "./api.mjs";
import { Button, Note } from "./controls.mjs";
import { html, useEffect, useRef, useState } from "./html.mjs";
import { Mark } from "./icons.mjs";
import { keepNothing } from "./kept.mjs";
import { endSessions } from "./open_sessions.mjs";
import { forget, refreshAll } from "./source.mjs";

/** Take the code out of the address, before anything else can see it. */
export function takeCode() {
  const code = new URLSearchParams(location.hash.slice(1)).get("code");
  if (code) history.replaceState(null, "", location.pathname + location.search);
  return code;
}

/** The number of the last look at who is signed in, or of a sign-in: what an older one says counts no more. */
let turn = 0;

/** Find out who is signed in; a link is good once, but the browser that it signed in stays so. */
export async function begin(code) {
  let said = "";
  const own = turn += 1;
  if (code) {
    try { return enter(await ask("v1/session", { json: { code }, csrf: "" }), true); } catch (error) { said = error.message; }
  }
  try { enter(await ask("v1/session")); } catch (error) {
    if (own !== turn) return "";
    if (error.status !== 401) { who.set(null); return error.message; }
    who.set(null);
  }
  return said;
}

/** The other tabs of this browser: all have one cookie, so one that signs in or out does it for all. */
const tabs = "BroadcastChannel" in window ? new BroadcastChannel(`mataserver ${location.pathname}`) : null;
let last = "";
let forgetting = 0;
if (tabs) {
  tabs.onmessage = ({ data }) => {
    clearTimeout(forgetting);
    if (typeof data === "boolean") {
      setLeaving(data);
      if (data) forgetting = setTimeout(() => setLeaving(false), 10_000);  // the tab that leaves may have crashed
    }
    else if (!data || (last && last !== data)) leave();
    else begin("");
  };
}
/** Tell every tab, this one too, whether somebody is signing out: what is asked meanwhile may be refused, and no sign-in stands there for a moment and is put away. */
const tellLeaving = (now) => { setLeaving(now); tabs?.postMessage(now); };

function enter(login, here = false) {
  turn += 1;
  if (last && last !== login.id) { forget(); keepNothing(); }
  last = login.id;
  who.set(login);
  refreshAll();
  if (here) tabs?.postMessage(login.id);
  return "";
}

export async function signOut() {
  tellLeaving(true);
  const broken = () => tabs?.postMessage("");  // this tab goes before it knows: the others look for themselves
  addEventListener("pagehide", broken);
  await endSessions();
  try { await ask("v1/session", { method: "DELETE", again: false }); } catch (error) {
    if (error.status !== 401) { removeEventListener("pagehide", broken); tellLeaving(false); return; }
  }
  await keepNothing();
  removeEventListener("pagehide", broken);
  tabs?.postMessage("");
  leave();
}

function leave() {
  clearTimeout(forgetting);
  setLeaving(true);
  location.assign(location.pathname);  // nothing of what was seen stays in the page's memory
  location.reload();
}

async function byPassword(username, password) {
  try {
    const token = await ask("auth/token", { json: { username, password }, csrf: "" });
    return await ask("v1/session", { json: { key: token.access_token }, csrf: "" });
  } catch (error) {
    if (error.status !== 404) throw error;
    throw new Refused(404, "This server knows keys only: users come with the plugin accounts.", "", 0);
  }
}

/** The form; it stands before the page that was open, which is kept. */
export function SignIn({ said }) {
  const [users, setUsers] = useState(false);
  const [error, setError] = useState(said ? new Error(said) : null);
  const [busy, setBusy] = useState(false);
  const first = useRef(null);
  useEffect(() => first.current?.focus(), [users]);
  const submit = async (event) => {
    event.preventDefault();
    const given = Object.fromEntries(new FormData(event.target));
    setBusy(true);
    try {
      enter(users ? await byPassword(given.name, given.password)
        : await ask("v1/session", { json: { key: String(given.key).trim() }, csrf: "" }), true);
    } catch (failure) { setError(failure); setBusy(false); }
  };
  return html`<form class="signin card" onSubmit=${submit} aria-labelledby="signin">
    <div class="brand"><${Mark}/>mataserver</div>
    <h2 id="signin">Sign in to go on</h2>
    ${error && html`<${Note} kind="bad">${error.message}<//>`}
    ${users ? html`
      <label class="stack-4"><span class="label">Name</span><input class="field" name="name" autocomplete="username" required ref=${first}/></label>
      <label class="stack-4"><span class="label">Password</span><input class="field" type="password" name="password" autocomplete="current-password" required/></label>`
    : html`<label class="stack-4"><span class="label">Key</span><input class="field" type="password" name="key" autocomplete="off" required ref=${first}/>
      <span class="help">The server says at its start where it is; by default in <code>~/.mataserver/api_key</code>. This page does not keep it.</span></label>`}
    <div class="row wrap"><${Button} primary type="submit" disabled=${busy}>Sign in<//>
      <${Button} bare onClick=${() => { setUsers(!users); setError(null); }}>${users ? "Use a key" : "Use a name and password"}<//></div>
  </form>`;
}
