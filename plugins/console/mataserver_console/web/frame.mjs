// Navigation, health, theme, who is signed in: what stands around every page.
import { may, silence, who } from "./api.mjs";
import { useCell } from "./cell.mjs";
import { Button, Note, State } from "./controls.mjs";
import { html, useEffect, useState } from "./html.mjs";
import { Icon, Mark } from "./icons.mjs";
import { signOut } from "./login.mjs";
import { address, useRoute } from "./route.mjs";
import { awaited, tryAgain, useSource } from "./source.mjs";
import { THEMES, setTheme, theme } from "./theme.mjs";

/** The pages in their groups; those of guests stand in the group that they name. */
export function groups(pages, guests) {
  const shown = (name) => pages.filter((page) => page.group === name && (!page.needs || may(page.needs)));
  return [["use", "Use"], ["work", "Work"], ["operate", "Operate"]].map(([key, title]) => ({
    title,
    links: [
      ...shown(key).map((page) => ({ ...page, href: address(page.key) })),
      ...guests.filter((guest) => (guest.group ?? "work") === key)
        .map((guest) => ({ key: guest.path, title: guest.title, href: guest.path.replace(/^\//, ""), letter: guest.icon })),
    ],
  })).filter((group) => group.links.length);
}

const Sign = ({ link }) => (link.letter ? html`<span class="i letter" aria-hidden="true">${link.letter}</span>` : html`<${Icon} name=${link.icon ?? "page"}/>`);

/** What `ready` says, as a state's kind and words: 503 is its own answer, another refusal may be a proxy's. */
export function useReady(/** @type {number} */ every) {
  const { data, error } = useSource("ready", every);
  const lost = useCell(silence) || (error && !error.status);
  const state = lost ? ["bad", "No answer"] : error ? ["warn", error.status === 503 ? "Not ready" : "Not known"] : data ? ["ok", "Ready"] : ["off", "Asking"];
  return { data, error, state };
}

function Health() {
  const { error, state } = useReady(10);
  const { data: health } = useSource("v1/health", 60);
  return html`<a class="row between health" href=${address("server")} title=${error?.message ?? state[1]}>
    <${State} kind=${state[0]}>${state[1]}<//><span class="quiet">${health?.version ?? ""}</span></a>`;
}

function Theme() {
  const now = useCell(theme);
  const next = THEMES[(THEMES.indexOf(now) + 1) % THEMES.length];
  return html`<${Button} small bare icon=${now} label=${`Theme: ${now}. Change to ${next}`} onClick=${() => setTheme(next)}/>`;
}

function Me() {
  const me = useCell(who);
  if (!me) return null;
  return html`<div class="me"><span class="t cut grow" title=${me.id}>${me.name}</span>
    ${me.csrf && html`<${Button} small bare class="leave" label="Sign out" title="Sign out" onClick=${signOut}><${Icon} name="leave"/><span class="t">Sign out</span><//>`}<${Theme}/></div>`;
}

/** The line above a page while the server does not answer. */
export function Silence() {
  const lost = useCell(silence);
  const [, tick] = useState(0);
  useEffect(() => {
    if (!lost) return undefined;
    const timer = setInterval(() => tick((n) => n + 1), 1000);
    return () => clearInterval(timer);
  }, [lost]);
  if (!lost) return null;
  const left = Math.max(0, Math.ceil((lost.next - Date.now()) / 1000));
  return html`<div class="silence" role="alert"><${Note} kind="warn"><div class="row between">
    <span>No answer from ${location.hostname}. <span aria-hidden="true">Next try in ${left} s.</span></span><${Button} small onClick=${tryAgain}>Now<//></div><//></div>`;
}

/** The entry of the navigation that is open: a page may stand under another one's. */
function useHere(pages) {
  const { page } = useRoute();
  return pages.find((each) => each.key === page)?.under ?? page;
}

export function Side({ pages, counts }) {
  const page = useHere(pages);
  const { data } = useSource("v1/pages", 60);
  const guests = (data ?? []).filter((each) => each.path !== "/");
  return html`<nav class="side" aria-label="Pages">
    <a class="brand" href=${address("try")} aria-label="mataserver"><${Mark}/><span class="t">mataserver</span></a>
    ${groups(pages, guests).map((group) => html`<div class="nav" key=${group.title}><h2>${group.title}</h2><ul class="nav">
      ${group.links.map((link) => html`<li key=${link.key}><a href=${link.href} aria-current=${link.key === page ? "page" : undefined} title=${link.title}>
        <${Sign} link=${link}/><span class="t">${link.title}</span>
        ${counts[link.key] > 0 && html`<span class="count">${counts[link.key]}</span>`}</a></li>`)}</ul></div>`)}
    <div class="side-foot"><${Health}/><${Me}/></div>
  </nav>`;
}

const FOOT = ["try", "segment", "live", "models"];

export function Foot({ pages }) {
  const page = useHere(pages);
  const here = FOOT.map((key) => pages.find((each) => each.key === key)).filter(Boolean);
  const more = !FOOT.includes(page);
  return html`<nav class="tabs-bottom" aria-label="Pages, short">${pages.length > 0 && html`
    ${here.map((each) => html`<a key=${each.key} href=${address(each.key)} aria-current=${each.key === page ? "page" : undefined}>
      <${Icon} name=${each.icon}/>${each.title}</a>`)}
    <a href=${address("more")} aria-current=${more ? "page" : undefined}><${Icon} name="more"/>More</a>`}</nav>`;
}

/** On a phone: what stands in the side bar of a wide screen. */
export function More({ pages, find }) {
  const { data } = useSource("v1/pages", 60);
  const guests = (data ?? []).filter((each) => each.path !== "/");
  return html`<${Bar} title="More"><span class="grow"></span><${Button} icon="search" onClick=${find}>Find<//><//><div class="content">
    ${groups(pages, guests).map((group) => html`<section class="card" key=${group.title}><header><h2>${group.title}</h2></header>
      <ul class="morelist">${group.links.map((link) => html`<li key=${link.key}><a class="row" href=${link.href}><${Sign} link=${link}/>${link.title}</a></li>`)}</ul></section>`)}
    <section class="card about"><${Health}/><${Me}/></section></div>`;
}

export function Bar({ title, children }) {
  const waits = useCell(awaited) > 0;
  return html`<header class="bar"><h1>${title}</h1>${children}${waits && html`<div class="running"><i></i></div>`}</header>`;
}
