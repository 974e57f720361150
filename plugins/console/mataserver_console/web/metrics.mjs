// The server's metrics as curves: what `/metrics` counts, as rates between two looks.
import { Chart, Legend } from "./chart.mjs";
import { Trouble } from "./controls.mjs";
import { ms, size } from "./format.mjs";
import { html, useMemo } from "./html.mjs";
import { useSource } from "./source.mjs";

/** How many looks are kept, and the seconds between two. */
export const KEPT = 90;
export const EVERY = 2;
const LINE = /^([a-zA-Z_:][\w:]*)(?:\{(.*)\})? (\S+)$/;

/** The samples of Prometheus' text: name, labels, value. */
export function samples(text) {
  const found = [];
  for (const line of text.split("\n")) {
    const match = LINE.exec(line);
    if (!match) continue;
    const labels = Object.fromEntries([...(match[2] ?? "").matchAll(/(\w+)="((?:[^"\\]|\\.)*)"/g)].map((each) => [each[1], each[2]]));
    found.push({ name: match[1], labels, value: Number(match[3]) });
  }
  return found;
}

const sum = (all, name, fits = (_labels) => true) => all.reduce((total, each) => total + (each.name === name && fits(each.labels) ? each.value : 0), 0);

/** Add a sample of a histogram's buckets to the counts by upper bound. */
export function tally(found, { labels, value }) {
  const le = labels.le === "+Inf" ? Infinity : Number(labels.le);
  found.set(le, (found.get(le) ?? 0) + value);
}

/** Counts by upper bound, the least bound first. */
export const ordered = (found) => [...found].sort((a, b) => a[0] - b[0]);

/** Cumulative counts of a histogram's buckets, over all its labels that fit. */
function buckets(all, name, fits) {
  const found = new Map();
  for (const each of all) if (each.name === `${name}_bucket` && fits(each.labels)) tally(found, each);
  return ordered(found);
}

/** A quantile of what a histogram counted between two looks, by straight lines within a bucket; null for nothing. */
export function quantile(before, after, share) {
  const counts = after.map(([le, value], at) => [le, value - (before[at]?.[1] ?? 0)]);
  const total = counts.at(-1)?.[1] ?? 0;
  if (!(total > 0)) return null;
  const wanted = share * total;
  let low = 0, under = 0;
  for (const [le, value] of counts) {
    if (value >= wanted) return le === Infinity ? low : low + ((le - low) * (wanted - under)) / Math.max(1e-9, value - under);
    low = le;
    under = value;
  }
  return low;
}

/** What is counted of one look. */
function look(text, at) {
  const all = samples(text);
  return {
    at,
    requests: sum(all, "mataserver_requests_total"),
    failures: sum(all, "mataserver_requests_total", ({ status }) => status?.startsWith("5")),
    inferences: sum(all, "mataserver_inferences_total"),
    failed: sum(all, "mataserver_inferences_total", ({ outcome }) => outcome === "failed"),
    infer: buckets(all, "mataserver_stage_seconds", ({ stage }) => stage === "infer"),
    queue: sum(all, "mataserver_queue_length"),
    sessions: sum(all, "mataserver_sessions"),
    deaths: sum(all, "mataserver_worker_deaths_total"),
    resident: sum(all, "process_resident_memory_bytes"),
    models: sum(all, "mataserver_model_memory_bytes"),
  };
}

/** What each model did since the server started: p50 and p95 of its own time in ms, and how often it failed. */
export function useFigures() {
  const { data } = useSource("metrics", 10);
  return useMemo(() => {
    const all = samples(data ?? "");
    const names = new Set(all.filter(({ name, labels }) => labels.model && name === "mataserver_inferences_total").map(({ labels }) => labels.model));
    return new Map([...names].map((name) => {
      const took = buckets(all, "mataserver_stage_seconds", ({ model, stage }) => model === name && stage === "infer");
      const [p50, p95] = [0.5, 0.95].map((share) => { const value = quantile([], took, share); return value === null ? null : value * 1000; });
      return [name, { p50, p95, failed: sum(all, "mataserver_inferences_total", ({ model, outcome }) => model === name && outcome === "failed") }];
    }));
  }, [data]);
}

/** The memory of the machine ("ram") and of its GPUs in MB, and what each model holds on GPUs; the machine without a figure until they are known. */
export function useDevices() {
  const { data, error } = useSource("metrics", 10);
  return useMemo(() => {
    const devices = new Map(), vram = new Map();
    for (const { name, labels, value } of samples(data ?? "")) {
      if (name === "mataserver_device_memory_bytes") devices.set(labels.device, { ...devices.get(labels.device), [labels.kind]: value / 1e6 });
      if (name === "mataserver_model_vram_bytes") vram.set(labels.model, value / 1e6);
    }
    if (!data && !error) devices.set("ram", { total: null, used: null });
    return { devices: [...devices].sort((a, b) => Number(a[0] !== "ram") - Number(b[0] !== "ram")), vram };
  }, [data, error]);
}

/** The looks of this visit, kept while other pages are open. */
const looks = [];

/** The change of a count for each second between two looks; null after a restart of the server. */
export const perSecond = (all, count) => all.slice(1).map((each, at) => { const step = count(each) - count(all[at]); return step < 0 ? null : step / ((each.at - all[at].at) / 1000); });
const rates = (key) => perSecond(looks, (look) => look[key]);
const plain = (key, unit = 1) => looks.slice(1).map((each) => each[key] / unit);
const quantiles = (share) => looks.slice(1).map((each, at) => { const value = quantile(looks[at].infer, each.infer, share); return value === null ? null : value * 1000; });

export const short = (value) => (value >= 100 ? String(Math.round(value)) : String(Number(value.toFixed(1))));

const Card = ({ title, names, children }) => html`<section class="card" aria-label=${title}><header><h2>${title}</h2><span class="grow"></span>${names && html`<${Legend} names=${names}/>`}</header>${children}</section>`;

export function Metrics() {
  const { data, error, at } = useSource("metrics", EVERY);
  useMemo(() => {
    if (!data || looks.at(-1)?.at === at) return;
    looks.push(look(data, at));
    if (looks.length > KEPT) looks.shift();
  }, [at]);
  if (error && !data) return html`<${Trouble} error=${error}/>`;
  const now = looks.at(-1);
  const since = looks.length > 1 ? `${Math.round((now.at - looks[0].at) / 1000)} s ago` : "";
  const ends = [since, "now"];
  const charts = [
    { title: "Requests a second", series: [["all", rates("requests")], ["failed", rates("failures")]], format: short },
    { title: "Inferences a second", series: [["all", rates("inferences")], ["failed", rates("failed")]], format: short },
    { title: "Time in the model", series: [["p50", quantiles(0.5)], ["p95", quantiles(0.95)]], format: ms },
    { title: "Memory", series: [["models", plain("models", 1e6)], ["the server itself", plain("resident", 1e6)]], format: size },
  ];
  const figure = (name, value) => [name, now ? value(now).toLocaleString("en") : "–"];  // each has its place from the first
  const figures = [figure("Requests", (it) => it.requests), figure("Failed", (it) => it.failures), figure("Waiting now", (it) => it.queue), figure("Sessions", (it) => it.sessions), figure("Workers that died", (it) => it.deaths)];
  return html`<dl class="stats">${figures.map(([name, value]) => html`<div class="stat" key=${name}><dt>${name}</dt><dd>${value}</dd></div>`)}</dl>
    <div class="two-up">${charts.map(({ title, series, format }) => html`<${Card} key=${title} title=${title} names=${series.map(([name]) => name)}>
      <${Chart} label=${title} series=${series.map(([name, values]) => ({ name, values }))} format=${format} ends=${ends}/><//>`)}</div>`;
}
