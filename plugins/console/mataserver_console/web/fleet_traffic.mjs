// Traffic: what the gateway of this server is asked, as it happens.
import { Chart, Legend } from "./chart.mjs";
import { State, Trouble } from "./controls.mjs";
import { bytes } from "./format.mjs";
import { html, useMemo } from "./html.mjs";
import { Icon } from "./icons.mjs";
import { EVERY, KEPT, perSecond, samples, short } from "./metrics.mjs";
import { useSource } from "./source.mjs";

const COUNTS = { requests: "requests", failed: "failed", in: "bytes_in", out: "bytes_out" };
const looks = [];

/** The gateway's counts by consumer, application and model, and its servers. */
export function counted(text) {
  const rows = new Map();
  const servers = new Map();
  for (const { name, labels, value } of samples(text)) {
    const part = Object.keys(COUNTS).find((key) => name === `mataserver_gateway_${COUNTS[key]}_total`);
    if (part) {
      const key = [labels.application, labels.model, labels.consumer].join("\u0000");
      const row = rows.get(key) ?? { key, ...labels, requests: 0, failed: 0, in: 0, out: 0 };
      rows.set(key, { ...row, [part]: value });
    }
    const figure = { mataserver_gateway_server_up: "up", mataserver_gateway_outstanding: "outstanding" }[name];
    if (figure) servers.set(labels.server, { ...servers.get(labels.server), server: labels.server, [figure]: value });
  }
  return { rows: [...rows.values()].sort((a, b) => b.requests - a.requests), servers: [...servers.values()] };
}

const total = (look, key) => look.rows.reduce((sum, row) => sum + row[key], 0);
const rates = (key) => perSecond(looks, (look) => total(look, key));

export function Traffic() {
  const { data, error, at } = useSource("metrics", EVERY);
  const now = useMemo(() => {
    if (!data) return null;
    if (looks.at(-1)?.at !== at) looks.push({ at, ...counted(data) });
    if (looks.length > KEPT) looks.shift();
    return looks.at(-1);
  }, [at]);
  if (error && !data) return html`<${Trouble} error=${error}/>`;
  const series = [["all", rates("requests")], ["failed", rates("failed")]].map(([name, values]) => ({ name, values }));
  const ends = [looks.length > 1 ? `${Math.round((now.at - looks[0].at) / 1000)} s` : "", "now"];
  return html`<section class="card" aria-label="Requests a second"><header><h2>Requests a second</h2><span class="grow"></span><${Legend} names=${["all", "failed"]}/></header>
      <${Chart} label="Requests a second" series=${series} format=${short} ends=${ends}/></section>
    <div class="two-up"><section class="card cards" aria-label="Who asks"><header><h2>Since the gateway's start</h2></header><div class="tscroll"><table><thead><tr><th>Application, model</th><th>Consumer</th><th class="num">Requests</th><th class="num wide">Failed</th><th class="num wide">In, out</th></tr></thead>
      <tbody>${(now?.rows ?? []).map((row) => html`<tr key=${row.key}><td><b class="strong">${row.application}</b> <span class="quiet">${row.model}</span></td><td>${row.consumer}</td><td class="num">${row.requests.toLocaleString("en")}</td>
        <td class="num wide">${row.failed.toLocaleString("en")}</td><td class="num wide">${bytes(row.in)}, ${bytes(row.out)}</td></tr>`)}</tbody></table></div>
      ${now && !now.rows.length && html`<p class="pad help">Nothing was asked of this gateway yet.</p>`}</section>
    <section class="card" aria-label="Servers"><header><h2>Servers</h2></header><ul class="sugg plain">${(now?.servers ?? []).map((each) => html`<li key=${each.server}><b class="strong grow cut">${each.server}</b>
        <span class="quiet">${each.outstanding ?? 0} under way</span><${State} kind=${each.up ? "ok" : "bad"}>${each.up ? "answers" : "away"}<//></li>`)}
      ${now && !now.servers.length && html`<li class="help">The gateway leads to no server yet.</li>`}</ul></section></div>
    <div class="row"><a class="btn" href="api/usage" download="usage.csv"><${Icon} name="download"/>Usage by day, as CSV</a></div>`;
}
