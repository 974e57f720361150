// Traffic: what the gateway of this server is asked, by whom, and what it leads to.
import { State, Trouble } from "./controls.mjs";
import { Errors } from "./fleet_errors.mjs";
import { TrafficChart, useLooks } from "./fleet_looks.mjs";
import { bytes, count } from "./format.mjs";
import { html } from "./html.mjs";
import { Icon } from "./icons.mjs";
import { useListing } from "./listing.mjs";

const NONE = [];

export function Traffic() {
  const { now, error } = useLooks();
  const rows = useListing(now?.rows ?? NONE, (row) => `${row.application} ${row.model} ${row.consumer}`);
  const servers = useListing(now?.servers ?? NONE, (each) => each.server, { step: 24 });
  if (error) return html`<${Trouble} error=${error}/>`;
  return html`<${TrafficChart}/>${rows.filter}
    <div class="two-up"><section class="card cards" aria-label="Who asks"><header><h2>Since the gateway's start</h2></header><div class="tscroll"><table><thead><tr><th>Application, model</th><th class="wide">Consumer</th><th class="num wide">Requests</th><th class="num wide">Failed</th><th class="num wide">In, out</th></tr></thead>
      <tbody>${rows.drawn.map((row) => html`<tr key=${row.key}><td><b class="strong">${row.application}</b> <span class="quiet">${row.model}</span><div class="narrow help">of ${row.consumer}: ${count(row.requests, "request")}, ${row.failed.toLocaleString("en")} failed, ${bytes(row.in)} in, ${bytes(row.out)} out</div></td><td class="wide">${row.consumer}</td><td class="num wide">${row.requests.toLocaleString("en")}</td>
        <td class="num wide">${row.failed.toLocaleString("en")}</td><td class="num wide">${bytes(row.in)}, ${bytes(row.out)}</td></tr>`)}</tbody></table></div>${rows.rest}
      ${now && !now.rows.length && html`<p class="pad help">Nothing was asked of this gateway yet.</p>`}</section>
    <section class="card" aria-label="Servers"><header><h2>Servers</h2></header><ul class="sugg plain">${servers.drawn.map((each) => html`<li key=${each.server}><b class="strong grow cut">${each.server}</b>
        <span class="quiet">${each.outstanding ?? 0} under way</span><${State} kind=${each.up ? "ok" : "bad"}>${each.up ? "answers" : "away"}<//></li>`)}
      ${now && !now.servers.length && html`<li class="help">The gateway leads to no server yet.</li>`}</ul>${servers.rest}</section></div><${Errors}/>
    <div class="row"><a class="btn" href="api/usage" download="usage.csv"><${Icon} name="download"/>Usage by day, as CSV</a></div>`;
}
