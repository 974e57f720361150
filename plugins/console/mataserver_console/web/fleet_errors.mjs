// Errors as they happen: the last requests of known consumers that were answered with one.
import { State, Trouble } from "./controls.mjs";
import { since } from "./fleet_overview.mjs";
import { html } from "./html.mjs";
import { useListing } from "./listing.mjs";
import { refresh, useSource } from "./source.mjs";

const ERRORS = "api/errors";
const EVERY = 2;
const NONE = [];

const Failure = ({ failure }) => html`<li><${State} kind=${failure.status >= 500 ? "bad" : "warn"}>${failure.status}<//>
  <div class="grow"><div class="cut"><b class="strong">${failure.application}</b> <span class="quiet">${failure.model && `${failure.model}, `}asked by ${failure.consumer}</span></div><div class="help">${failure.reason || "A server answered so."}</div></div>
  <span class="quiet nowrap" title=${failure.at}>${since(failure.at)}</span></li>`;

/** The newest first. */
export function Errors() {
  const { data, error } = useSource(ERRORS, EVERY);
  const all = data?.errors ?? NONE;
  const { drawn, filter, rest } = useListing(all, (each) => `${each.status} ${each.application} ${each.model} ${each.consumer} ${each.reason}`, { step: 20 });
  if (error && !data) return html`<${Trouble} error=${error} again=${() => refresh(ERRORS)}/>`;
  return html`<section class="card" aria-label="Last errors"><header><h2>Last errors</h2></header>${filter && html`<div class="pad">${filter}</div>`}
    <ul class="sugg plain">${drawn.map((each, at) => html`<${Failure} key=${`${each.at} ${at}`} failure=${each}/>`)}
    ${data && !all.length && html`<li class="help">No request was answered with an error since the gateway's start.</li>`}</ul>${rest}</section>`;
}
