// What the gateway counted, look after look: the figures and curves of Fleet stand on it.
import { html, useMemo } from "./html.mjs";
import { Chart, Legend } from "./chart.mjs";
import { EVERY, KEPT, perSecond, quantile, samples, short } from "./metrics.mjs";
import { useSource } from "./source.mjs";

const COUNTS = { requests: "requests", failed: "failed", in: "bytes_in", out: "bytes_out" };
const TOOK = "mataserver_gateway_request_seconds_bucket";
const looks = [];
const events = [];
const last = new Map();

/** Counts of buckets by their upper bound, summed over several. */
function add(buckets, le, value) {
  const bound = le === "+Inf" ? Infinity : Number(le);
  buckets.set(bound, (buckets.get(bound) ?? 0) + value);
}

/** The gateway's counts by consumer, application and model, its servers, what Tritons inferred. */
export function counted(text) {
  const rows = new Map(), servers = new Map(), tritons = new Map(), took = new Map();
  for (const { name, labels, value } of samples(text)) {
    const part = Object.keys(COUNTS).find((key) => name === `mataserver_gateway_${COUNTS[key]}_total`);
    if (part) {
      const key = [labels.application, labels.model, labels.consumer].join("\u0000");
      const row = rows.get(key) ?? { key, ...labels, requests: 0, failed: 0, in: 0, out: 0 };
      rows.set(key, { ...row, [part]: value });
    }
    const figure = { mataserver_gateway_server_up: "up", mataserver_gateway_outstanding: "outstanding" }[name];
    if (figure) servers.set(labels.server, { ...servers.get(labels.server), server: labels.server, [figure]: value });
    if (name === "mataserver_fleet_inferences_total") tritons.set(labels.triton, (tritons.get(labels.triton) ?? 0) + value);
    if (name === TOOK) {
      if (!took.has(labels.application)) took.set(labels.application, new Map());
      add(took.get(labels.application), labels.le, value);
    }
  }
  return { rows: [...rows.values()].sort((a, b) => b.requests - a.requests), servers: [...servers.values()], tritons, took };
}

/** The sum of a count in a look, of one application or of all. */
export const total = (look, key, app) => look.rows.reduce((sum, row) => sum + (app === undefined || row.application === app ? row[key] : 0), 0);

const buckets = (look, app) => {
  const all = new Map();
  for (const [name, own] of look.took) if (app === undefined || name === app) for (const [le, value] of own) add(all, le, value);
  return [...all].sort((a, b) => a[0] - b[0]);
};

/** The looks since the counts last began anew, as a restart of the server has it. */
function unbroken() {
  let from = looks.length - 1;
  while (from > 0 && total(looks[from - 1], "requests") <= total(looks[from], "requests")) from -= 1;
  return looks.slice(Math.max(0, from));
}

/** What an application, or all of them, did in the looks that are kept; null for what is not known. */
export function figuresOf(app) {
  const own = unbroken();
  if (own.length < 2) return { rate: null, p95: null, errors: null };
  const [first, end] = [own[0], own[own.length - 1]];
  const requests = total(end, "requests", app) - total(first, "requests", app);
  const p95 = quantile(buckets(first, app), buckets(end, app), 0.95);
  return {
    rate: requests / ((end.at - first.at) / 1000),
    p95: p95 === null ? null : p95 * 1000,
    errors: requests ? (total(end, "failed", app) - total(first, "failed", app)) / requests : null,
  };
}

/** Inferences a second of a Triton; null where this server does not count them. */
export function inferred(triton) {
  const own = unbroken().filter((look) => look.tritons.has(triton));
  if (own.length < 2) return null;
  const [first, end] = [own[0], own[own.length - 1]];
  const count = end.tritons.get(triton) - first.tritons.get(triton);
  return count < 0 ? null : count / ((end.at - first.at) / 1000);
}

export const rates = (key, app) => perSecond(looks, (look) => total(look, key, app));

/** Note which Tritons have another state than at the last look. */
export function noteStates(tritons) {
  for (const { name, state } of tritons) {
    if (last.has(name) && last.get(name) !== state && state !== "unknown") events.push({ at: Date.now(), text: `${name} ${state}` });
    last.set(name, state);
  }
  while (events.length > 20) events.shift();
}

/** The newest look, and why there is none; a new one every two seconds. */
export function useLooks() {
  const { data, error, at } = useSource("metrics", EVERY);
  const now = useMemo(() => {
    if (!data) return null;
    if (looks.at(-1)?.at !== at) looks.push({ at, ...counted(data) });
    if (looks.length > KEPT) looks.shift();
    return looks.at(-1);
  }, [at]);
  return { now, error: data ? null : error };
}

/** Requests a second with what failed as bars, and what happened to the Tritons. */
export function TrafficChart() {
  const first = looks[0]?.at ?? 0, end = looks.at(-1)?.at ?? 0;
  const ends = /** @type {[string, string]} */ ([looks.length > 1 ? `${Math.round((end - first) / 1000)} s ago` : "", "now"]);
  const marks = events.filter(({ at }) => end > first && at >= first && at <= end).map(({ at, text }) => ({ share: (at - first) / (end - first), text }));
  return html`<section class="card" aria-label="Requests a second"><header><h2>Requests a second</h2><span class="grow"></span><${Legend} names=${["all"]} bars="failed"/></header>
    <${Chart} label="Requests a second" series=${[{ name: "all", values: rates("requests") }]} bars=${{ name: "failed", values: rates("failed") }} marks=${marks} format=${short} ends=${ends}/></section>`;
}
