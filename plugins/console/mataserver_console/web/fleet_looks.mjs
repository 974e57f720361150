// What the gateway counted, look after look: the figures and curves of Fleet stand on it.
import { named } from "./direction.mjs";
import { html, useMemo } from "./html.mjs";
import { Chart, Legend } from "./chart.mjs";
import { EVERY, KEPT, ordered, perSecond, quantile, samples, short, tally } from "./metrics.mjs";
import { useSource } from "./source.mjs";

const COUNTS = { requests: "requests", failed: "failed", in: "bytes_in", out: "bytes_out" };
const TOOK = "mataserver_gateway_request_seconds_bucket";
const looks = [];
const events = [];
const last = new Map();

/** The gateway's counts by consumer, application and model, its servers, what Tritons inferred; of each application and of all ("") what was asked and how long it took. */
export function counted(text) {
  const rows = new Map(), servers = new Map(), tritons = new Map(), apps = new Map();
  const sum = (app) => { if (!apps.has(app)) apps.set(app, { requests: 0, failed: 0, took: new Map() }); return apps.get(app); };
  for (const sample of samples(text)) {
    const { name, labels, value } = sample;
    const part = Object.keys(COUNTS).find((key) => name === `mataserver_gateway_${COUNTS[key]}_total`);
    if (part) {
      const key = [labels.application, labels.model, labels.consumer].join("\u0000");
      const row = rows.get(key) ?? { key, ...labels, requests: 0, failed: 0, in: 0, out: 0 };
      rows.set(key, { ...row, [part]: value });
      if (part === "requests" || part === "failed") for (const app of ["", labels.application]) sum(app)[part] += value;
    }
    const figure = { mataserver_gateway_server_up: "up", mataserver_gateway_outstanding: "outstanding" }[name];
    if (figure) servers.set(labels.server, { ...servers.get(labels.server), server: labels.server, [figure]: value });
    if (name === "mataserver_fleet_inferences_total") tritons.set(labels.triton, (tritons.get(labels.triton) ?? 0) + value);
    if (name === TOOK) for (const app of ["", labels.application]) tally(sum(app).took, sample);
  }
  return { rows: [...rows.values()].sort((a, b) => b.requests - a.requests), servers: [...servers.values()], tritons, apps };
}

const NONE = { requests: 0, failed: 0, took: new Map() };
/** What a look counted of an application, or of all. */
const of = (look, app = "") => look.apps.get(app) ?? NONE;

/** The looks since the counts last began anew, as a restart of the server has it. */
function unbroken() {
  let from = looks.length - 1;
  while (from > 0 && of(looks[from - 1]).requests <= of(looks[from]).requests) from -= 1;
  return looks.slice(Math.max(0, from));
}

/** What an application, or all of them, did in the looks that are kept; null for what is not known. */
export function figuresOf(app) {
  const own = unbroken();
  if (own.length < 2) return { rate: null, p95: null, errors: null };
  const [first, end] = [own[0], own[own.length - 1]], [before, after] = [of(first, app), of(end, app)];
  const requests = after.requests - before.requests;
  const p95 = quantile(ordered(before.took), ordered(after.took), 0.95);
  return {
    rate: requests / ((end.at - first.at) / 1000),
    p95: p95 === null ? null : p95 * 1000,
    errors: requests ? (after.failed - before.failed) / requests : null,
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

export const rates = (key, app) => perSecond(looks, (look) => of(look, app)[key]);

/** Note which Tritons have another state than at the last look. */
export function noteStates(tritons) {
  for (const { name, state } of tritons) {
    if (last.has(name) && last.get(name) !== state && state !== "unknown") events.push({ at: Date.now(), text: `${named(name)} ${state}` });
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
