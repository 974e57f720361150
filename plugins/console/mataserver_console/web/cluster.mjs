// Past one machine: the nodes of the Ray cluster, and the front-ends of a shared directory.
import { State, Trouble } from "./controls.mjs";
import { named } from "./direction.mjs";
import { count, size } from "./format.mjs";
import { html, useMemo } from "./html.mjs";
import { useListing } from "./listing.mjs";
import { samples, short } from "./metrics.mjs";
import { refresh, useSource } from "./source.mjs";

const EVERY = 5;
const NODES = "v1/cluster", FRONTENDS = "v1/frontends";
const KINDS = { alive: "ok", silent: "warn", lost: "bad" };
const NONE = [];

/** What the metrics tell: whether there is a cluster, whether there are front-ends, and how many requests wait for each model. A server without them has no such routes, and is not asked. */
function useTold() {
  const { data } = useSource("metrics", EVERY);
  return useMemo(() => {
    const all = samples(data ?? "");
    const has = (name) => all.some((each) => each.name === name);
    const waiting = new Map(all.filter(({ name }) => name === "mataserver_queue_length").map(({ labels, value }) => [labels.model, value]));
    return { cluster: has("mataserver_cluster_away"), frontends: has("mataserver_frontends"), waiting };
  }, [data]);
}

/** A list under its title; nothing for what the server does not have. */
function Listed({ title, path, text, children }) {
  const { data, error } = useSource(path, EVERY);
  const { drawn, filter, rest } = useListing(data ?? NONE, text);
  if (error?.status === 404) return null;
  const id = title.toLowerCase();
  return html`<section class="card" aria-labelledby=${id}><header class="wrap"><h2 id=${id}>${title}</h2><span class="quiet">${data && !error && data.length}</span><span class="grow"></span>${filter}</header>
    ${error && html`<div class="pad"><${Trouble} error=${error} again=${() => refresh(path)}/></div>`}
    ${data && !error && !data.length && html`<p class="pad help">None yet.</p>`}
    ${!error && drawn.length > 0 && html`<div class="listed" tabindex="0" role="group" aria-label=${`${title}, a list`}><ul class="sugg plain">${drawn.map(children)}</ul></div>`}${!error && rest}</section>`;
}

/** "3 of 4 CPUs, 12.5 of 12.5 GB free": what Ray has not assigned. */
function room({ total, free }) {
  const of = (what, write) => `${write(free[what] ?? 0)} of ${write(total[what] ?? 0)}`;
  const parts = ["CPU", "GPU"].filter((what) => total[what]).map((what) => `${of(what, short)} ${total[what] === 1 ? what : `${what}s`}`);
  if (total.memory) parts.push(of("memory", (bytes) => size(bytes / 1e6)));
  return parts.length ? `${parts.join(", ")} free` : "No room for models";
}

function Node({ node, waiting }) {
  const models = new Map();
  for (const name of node.workers) models.set(name, (models.get(name) ?? 0) + 1);
  return html`<li data-node=${node.id}><div class="grow"><div class="row wrap"><b class="strong">${named(node.name)}</b>
      ${[...models].map(([name, workers]) => html`<span class="tag" key=${name}>${named(name)}${workers > 1 ? ` × ${workers}` : ""}${waiting.get(name) ? `, ${waiting.get(name)} waiting` : ""}</span>`)}</div>
    <div class="help">${room(node)}</div></div><${State} kind=${KINDS[node.state] ?? "off"}>${node.state}<//></li>`;
}

const Frontend = ({ each }) => html`<li data-frontend=${each.id}><div class="grow"><div class="row wrap"><b class="strong">${named(each.address || each.id)}</b>${each.here && html`<span class="tag">this one</span>`}</div>
  <div class="help">${count(each.sessions, "session")}</div></div><${State} kind=${each.alive ? "ok" : "bad"}>${each.alive ? "alive" : "silent"}<//></li>`;

/** Both, where this server has them; models of several servers that share a cluster are each server's own. */
export function Cluster() {
  const { cluster, frontends, waiting } = useTold();
  if (!cluster && !frontends) return null;
  return html`<div class=${cluster && frontends ? "two-up" : ""}>
    ${cluster && html`<${Listed} title="Cluster" path=${NODES} text=${(node) => `${node.name} ${node.workers.join(" ")}`}>${(node) => html`<${Node} key=${node.id} node=${node} waiting=${waiting}/>`}<//>`}
    ${frontends && html`<${Listed} title="Front-ends" path=${FRONTENDS} text=${(each) => each.address}>${(each) => html`<${Frontend} key=${each.id} each=${each}/>`}<//>`}</div>`;
}
