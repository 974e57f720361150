// The console: what is open, for whom, and the keys that go from page to page.
import { NoAnswer, boot, forgetEarly, may, send, who } from "./api.mjs";
import { useCell } from "./cell.mjs";
import { Trouble } from "./controls.mjs";
import { guardDrops } from "./drops.mjs";
import { Bar, Foot, More, Side, Silence } from "./frame.mjs";
import { html, render, useEffect, useErrorBoundary, useLayoutEffect, useRef, useState } from "./html.mjs";
import { Icon, Mark } from "./icons.mjs";
import { choice, letters } from "./kept.mjs";
import { SignIn, begin, takeCode } from "./login.mjs";
import { address, begunAt, go, useRoute } from "./route.mjs";
import { useLoaded, useSource } from "./source.mjs";

/** Each page is a module that is loaded when it is opened. */
const PAGES = [
  { key: "try", title: "Try", icon: "try", group: "use", load: () => import("./try.mjs") },
  { key: "compare", title: "Compare", under: "try", load: () => import("./compare.mjs") },
  { key: "ask", title: "Ask", icon: "ask", group: "use", needs: "infer", load: () => import("./ask.mjs") },
  { key: "segment", title: "Segment", icon: "segment", group: "use", needs: "infer", plugin: "sam", load: () => import("./segment.mjs") },
  { key: "live", title: "Live", icon: "live", group: "use", needs: "infer", load: () => import("./live.mjs") },
  { key: "jobs", title: "Jobs", icon: "jobs", group: "work", needs: "jobs:read", plugin: "jobs", load: () => import("./jobs.mjs") },
  { key: "fleet", title: "Fleet", icon: "fleet", group: "operate", needs: "fleet:read", plugin: "fleet", load: () => import("./fleet.mjs") },
  { key: "models", title: "Models", icon: "models", group: "operate", needs: "models:read", load: () => import("./models.mjs") },
  { key: "server", title: "Server", icon: "server", group: "operate", needs: "models:read", load: () => import("./server.mjs") },
];
const titleOf = (key) => PAGES.find((each) => each.key === key)?.title ?? "";
const LEAP = { t: "try", a: "ask", s: "segment", l: "live", j: "jobs", m: "models", f: "fleet" };

/** The page of a key. */
function usePage(key) {
  const { module, error } = useLoaded(key, () => {
    boot.preload(key);
    return PAGES.find((each) => each.key === key)?.load() ?? Promise.resolve({ default: null });  // no module: More, or no page
  });
  return { View: module?.default, error };
}

/** Ctrl+K, `?`, and the letters that go to a page: a key that is pressed as soon as the page is seen counts. */
function useLeaps(open) {
  useLayoutEffect(() => {
    let waits = 0;
    const press = (event) => {
      if (event.key?.toLowerCase() === "k" && (event.ctrlKey || event.metaKey) && !event.altKey && !event.shiftKey) { event.preventDefault(); open("find"); return; }
      if (!letters() || event.target.closest("input, textarea, select, [contenteditable]") || event.ctrlKey || event.metaKey || event.altKey) return;
      if (document.querySelector("dialog[open]")) { waits = 0; return; }  // it may show a key that is shown once
      if (event.key === "?") open("keys");
      else if (event.key === "g") waits = Date.now();
      else if (Date.now() - waits < 1500 && LEAP[event.key]) { go(LEAP[event.key]); waits = 0; }
    };
    addEventListener("keydown", press);
    return () => removeEventListener("keydown", press);
  }, []);
}

const LATER = 2000;  // milliseconds: what each page needs has come by then
const finder = () => import(`./finder.mjs`);  // no page: `modules.py` reads those in double quotes

/** What is found by Ctrl+K, and the keys: a dialog that is loaded after the page, to be there without the server too, and never above another one. */
function useFinder() {
  useEffect(() => { const timer = setTimeout(() => finder().catch(() => {}), LATER); return () => clearTimeout(timer); }, []);
  const [{ what, made }, set] = useState({ what: "", made: null });
  const open = (kind) => {
    if (document.querySelector("dialog[open]")) return;
    finder().then((module) => set({ what: kind, made: module }), () => send("v1/health").catch(() => {}));  // which tells that the server is away
  };
  return { open, what, made, close: () => set((old) => ({ ...old, what: "" })) };
}

function useCounts(pages) {
  const models = useSource(may("models:read") ? "v1/models" : null, 15).data;
  const sessions = useSource(may("infer") ? "v1/sessions" : null, 15).data;
  const jobs = pages.some((page) => page.key === "jobs") && may("jobs:read");
  const running = useSource(jobs ? "v1/jobs?limit=1&omit=spec,result&state=running" : null, 15).data;
  return { models: models?.length, live: sessions?.length, jobs: running?.total };
}

/** An address that leads nowhere here. */
const Missing = ({ known }) => html`<${Bar} title=${known?.title ?? "No such page"}/><div class="content blank"><section class="stack-12" aria-labelledby="missing">
  <${Icon} name=${known?.icon ?? "page"} class="big"/><h2 id="missing">${known ? `${known.title} is not part of this server` : "There is no such page"}</h2>
  <p class="soft">${known ? `It comes with the plugin ${known.plugin}, which this server does not use. Where the plugin is installed, Server says why.` : "The address names no page of this console."}</p>
  <div class="row wrap"><a class="btn primary" href=${address("try")}>Go to Try</a>${known && may("models:read") && html`<a class="btn" href=${address("server")}>Look at the plugins</a>`}</div></section></div>`;

function Page({ pages, inUse, open }) {
  const { page } = useRoute();
  const { View, error } = usePage(page);
  const [broken, mend] = useErrorBoundary();
  useEffect(() => { mend(); document.title = `${titleOf(page) || (page === "more" ? "More" : "No such page")} · mataserver`; }, [page]);
  if (page === "more") return html`<${More} pages=${pages} find=${() => open("find")}/>`;
  const known = PAGES.find((each) => each.key === page);
  if (!known || (inUse && known.plugin && !inUse.has(known.plugin))) return html`<${Missing} known=${known}/>`;
  const failed = broken ?? error;
  if (failed) return html`<${Bar} title=${failed instanceof NoAnswer ? known.title : "This page failed"}/><div class="content"><${Trouble} error=${failed} again=${() => location.reload()}/></div>`;
  return View ? html`<${View}/>` : html`<${Bar} title=${known.title}/>`;
}

const USED = `plugins ${location.pathname}`;  // several servers may share a proxy
/** The pages of this server: those of a plugin that is not in use have no entry. Until it is known which are, those of the visit before, and at the first one none: what one is about to click must not move. */
function usePages() {
  const listed = may("models:read");
  const { data, error } = useSource(listed ? "v1/plugins" : null, 60);
  const now = data?.filter((each) => !each.error).map((each) => each.name).join();
  useEffect(() => { if (now !== undefined) choice.set(USED, now); }, [now]);
  const known = now ?? (listed ? choice.get(USED) : "") ?? (error ? "" : null);
  const names = new Set(known?.split(","));
  return { inUse: now === undefined ? null : names, pages: known === null ? [] : PAGES.filter((page) => !page.plugin || names.has(page.plugin)) };
}

function Signed() {
  const { pages, inUse } = usePages();
  const counts = useCounts(pages);
  const { open, what, made, close } = useFinder();
  useLeaps(open);
  return html`<a class="skip" href="#main" onClick=${(event) => { event.preventDefault(); document.getElementById("main")?.focus(); }}>Skip to content</a>
    <div class="app"><${Side} pages=${pages} counts=${counts}/>
      <main class="main" id="main" tabindex="-1"><${Silence}/><${Page} pages=${pages} inUse=${inUse} open=${open}/></main><${Foot} pages=${pages}/></div>
    ${made && what === "find" && html`<${made.Finder} pages=${pages} close=${close} keys=${() => setTimeout(() => open("keys"))}/>`}${made && what === "keys" && html`<${made.Keys} close=${close}/>`}`;
}

/** What stands in `index.html` until somebody is signed in. */
const Shell = () => html`<div class="app shell" inert><nav class="side"><span class="brand"><${Mark}/><span class="t">mataserver</span></span></nav>
  <main class="main"><${Bar} title=${titleOf(begunAt)}/></main><nav class="tabs-bottom"></nav></div>`;

function Gate({ said }) {
  const box = useRef(null);
  useEffect(() => { box.current.showModal(); return () => box.current?.close(); }, []);
  return html`<dialog ref=${box} class="gate" aria-label="Sign in" onCancel=${(event) => event.preventDefault()}><${SignIn} said=${said}/></dialog>`;
}

function App({ said }) {
  const me = useCell(who);
  const [seen, setSeen] = useState("");
  useEffect(() => { if (me) setSeen(me.id); }, [me]);
  // The page stays while its person signs in again; somebody else begins with an empty one.
  return html`${me || seen ? html`<${Signed} key=${me?.id ?? seen}/>` : html`<${Shell}/>`}${me === null && html`<${Gate} said=${said}/>`}`;
}

guardDrops();
// On its way while the server is asked who this is; what fails is told when the page is opened.
PAGES.find((each) => each.key === begunAt)?.load().catch(() => {});
begin(takeCode()).then((said) => render(html`<${App} said=${said}/>`, document.body)).finally(() => setTimeout(forgetEarly, 3000));
