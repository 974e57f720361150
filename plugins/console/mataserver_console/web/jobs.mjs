// Jobs: a list, one of them with its progress, log and files, and a way to start one.
import { Cloud } from "./cloud.mjs";
import { ask, isAbort, may, send, who } from "./api.mjs";
import { useCell } from "./cell.mjs";
import { Button, Copy, Note, Segments, State, Sure, Trouble } from "./controls.mjs";
import { sentence } from "./direction.mjs";
import { useDropped } from "./drops.mjs";
import { ago, bytes, long, parted, zoned } from "./format.mjs";
import { Bar } from "./frame.mjs";
import { html, useEffect, useMemo, useRef, useState } from "./html.mjs";
import { Icon } from "./icons.mjs";
import { fileOf } from "./job_files.mjs";
import { JobVideo, isVideo } from "./job_video.mjs";
import { NewJob } from "./new_job.mjs";
import { Photographs } from "./photographs.mjs";
import { amend, useRoute } from "./route.mjs";
import { now as serverNow } from "./server_time.mjs";
import { passes, refresh, refreshBelow, useSource } from "./source.mjs";

const KINDS = { queued: "off", running: "busy", done: "ok", failed: "bad", cancelled: "off" };
const STAGES = { reconstruct: ["extracting", "matching", "triangulating", "decimating"] };
const FEW = 8, ROWS = 200, MOST = 1000;  // of the list: with no need of a filter, drawn at first, and at most
const listOf = (rows, state = "") => `v1/jobs?limit=${rows}&omit=result${state && `&state=${state}`}`;
const LIST = listOf(ROWS);
const refreshJobs = () => refreshBelow("v1/jobs?");
const ENDED = new Set(["done", "failed", "cancelled"]);
const NEAR = 24;  // pixels: as good as at the end
const PAUSE = 3000;  // milliseconds until a job is asked for again

const took = (job) => (job.started_at ? long(Math.max(0, (job.finished_at ?? serverNow() / 1000) - job.started_at)) : "");
/** The name that a data set of photographs was given. */
const dataset = (spec) => (spec?.dataset_name === "custom" ? "" : spec?.dataset_name);

/** What a job is called: its kind and what it is about. */
const title = (job) => { const about = job.spec?.model ?? (dataset(job.spec) || job.spec?.file || job.spec?.name) ?? ""; return about ? `${job.kind}, ${parted(about)[1]}` : job.kind; };

/** What it was given, if its title does not say it: several jobs of one model are told apart by it. */
const input = (job) => (job.spec?.model || dataset(job.spec) ? job.spec.file || (job.spec.path ?? "").split("/").at(-1) : "");


/** Whether the list tells something else of a job that has ended: somebody runs it again, or removed it. */
function changed(job, listed) {
  if (!job || !listed || !ENDED.has(job.state)) return false;
  const now = listed.jobs.find((each) => each.id === job.id);
  return now ? now.state !== job.state || now.finished_at !== job.finished_at : listed.total <= listed.jobs.length;
}

/** One job as it changes: the server tells each new state until it ends; `follow` listens again. */
function useJob(id) {
  const me = useCell(who)?.id;
  const [job, setJob] = useState(null);
  const [turn, setTurn] = useState(0);
  const [error, setError] = useState(null);
  useEffect(() => {
    if (!me) return undefined;  // the session is over: it is listened to again by who signs in
    setError(null);
    const control = new AbortController();
    const { signal } = control;
    /** @type {EventSource | undefined} */
    let stream;
    let state = "", told = 0, timer = 0, looking = false;
    const take = (said) => {
      if (state && said.state !== state) refreshJobs();  // the list says the same at once
      state = said.state;
      told += 1;
      setJob(said);
      setError(null);
      if (ENDED.has(state)) stream?.close();
    };
    const listen = () => {
      stream?.close();
      const events = stream = new EventSource(`v1/jobs/${id}/events`);
      for (const name of ["job", "end"]) events.addEventListener(name, (event) => take(JSON.parse(event.data)));
      events.onerror = look;
    };
    /** Read what it is. A refusal ends a stream for good, so it is begun anew; what the stream told meanwhile is newer. */
    const look = async () => {
      if (looking) return;
      clearTimeout(timer);
      looking = true;
      const before = told;
      try {
        const said = await ask(`v1/jobs/${id}`, { signal });
        if (signal.aborted) return;
        if (told === before) take(said);
        if (!ENDED.has(state) && (stream?.readyState ?? EventSource.CLOSED) === EventSource.CLOSED) listen();
      } catch (failure) {
        if (signal.aborted) return;
        setError(failure);
        if (failure.status === 404) setJob(null);  // it was removed
        if (passes(failure)) timer = setTimeout(look, PAUSE); else stream?.close();
      } finally { looking = false; }
    };
    look();
    return () => { control.abort(); clearTimeout(timer); stream?.close(); };
  }, [id, turn, me]);
  const follow = (said) => { setJob(said); setTurn((n) => n + 1); };
  const { data: listed } = useSource(LIST, 3);
  useEffect(() => { if (changed(job, listed)) setTurn((n) => n + 1); }, [listed]);
  return { job, error, follow };
}

const Meter = ({ job }) => html`<div class="meter" role="progressbar" aria-label="Progress" aria-valuemin="0" aria-valuemax="100" aria-valuenow=${Math.round(job.progress)}><i style=${{ width: `${job.progress}%` }}></i></div>`;

/** The stages of a job whose kind tells them, with what is done and what is under way. */
function Stages({ job }) {
  const names = STAGES[job.kind];
  const at = job.state === "done" ? names?.length : names?.indexOf(job.stage);
  if (!names) return null;
  return html`<ol class="stages">${names.map((name, i) => html`<li key=${name} class=${i < at ? "past" : i === at ? "now" : ""} aria-current=${i === at ? "step" : undefined}><${State} kind=${i < at ? "ok" : i === at ? "busy" : "off"}>${name}<//></li>`)}</ol>`;
}

const Item = ({ job, on }) => html`<li class=${on ? "on" : ""}><a href=${`#/jobs?id=${job.id}`} aria-current=${on ? "true" : undefined}>
  <span class="row between"><b class="cut">${title(job)}</b><${State} kind=${KINDS[job.state]}>${job.state === "running" ? `${Math.floor(job.progress)} %` : job.state}<//></span>
  <span class="row between quiet"><span class="cut">${(job.state === "done" && input(job)) || job.message || job.id.slice(0, 8)}</span><span class="nowrap">${ENDED.has(job.state) ? ago(job.finished_at) : took(job)}</span></span>
  ${job.state === "running" && html`<${Meter} job=${job}/>`}</a></li>`;

function Log({ job }) {
  const [text, setText] = useState("");
  const box = useRef(null), follows = useRef(true);  // who reads further up stays there
  const scrolled = ({ currentTarget: { scrollHeight, scrollTop, clientHeight } }) => { follows.current = scrollHeight - scrollTop - clientHeight < NEAR; };
  useEffect(() => {
    const control = new AbortController();
    let timer = 0;
    const look = async () => {
      try { setText(await (await send(`v1/jobs/${job.id}/log`, { signal: control.signal })).text()); } catch (error) { if (isAbort(error)) return; }
      if (!ENDED.has(job.state)) timer = setTimeout(look, 2000);
    };
    look();
    return () => { control.abort(); clearTimeout(timer); };
  }, [job.id, job.state]);
  useEffect(() => { if (follows.current) box.current.scrollTop = box.current.scrollHeight; }, [text]);
  return html`<section class="logbox"><div class="row between pad tight-bottom"><h2>Log</h2>${text && html`<${Copy} text=${text}>Copy<//>`}</div>
    <pre class="code joblog" tabindex="0" ref=${box} onScroll=${scrolled}>${text || "It has printed nothing."}</pre></section>`;
}

/** What a job has written so far, or in the end. @returns {{name: string, size: number}[]} */
const useFiles = (job) => useSource(`v1/jobs/${job.id}/files`, ENDED.has(job.state) ? Infinity : 5).data?.files ?? [];

function Files({ job }) {
  const files = useFiles(job);
  useEffect(() => { refresh(`v1/jobs/${job.id}/files`); }, [job.state]);
  return html`<section class="sect"><h2>Files</h2>${!files.length && html`<p class="help">None yet.</p>`}<ul class="stack-4">${files.map((file) => html`<li class="row between" key=${file.name}>
    <a class="whole" href=${fileOf(job, file.name)} download><${Icon} name="download"/> ${file.name}</a><span class="quiet nowrap">${bytes(file.size)}</span></li>`)}</ul></section>`;
}

const Labels = ({ labels }) => { const most = Math.max(1, ...Object.values(labels)); return html`<ul class="classes">${Object.entries(labels).sort((a, b) => b[1] - a[1]).map(([name, number]) => html`<li key=${name}><span class="whole">${name}</span>
  <span class="meter"><i style=${{ width: `${(number / most) * 100}%` }}></i></span><span>${number.toLocaleString("en")}</span></li>`)}</ul>`; };

/** What could not be answered, by name, a video's frame by its number: the first ones, and how many more there are. */
function Failures({ job: { message, result: { failed, failures = [] } } }) {
  const left = failed - failures.length;
  return html`<${Note} kind="warn"><span>${message}</span>${failures.length > 0 && html`<ul class="stack-4">${failures.map(({ index, file, error }) => html`<li key=${index}><b class="strong">${file ?? `frame ${index}`}</b>: ${sentence(error)}</li>`)}
    ${left > 0 && html`<li class="quiet">and ${left.toLocaleString("en")} more</li>`}</ul>`}<//>`;
}

/** The first video among the files of a job that is done. */
function Made({ job }) {
  const made = useFiles(job).find(isVideo);
  return job.state === "done" && made && html`<${JobVideo} key=${`${made.name} ${job.finished_at}`} job=${job} name=${made.name}/>`;
}

const Result = ({ job }) => html`<div class="pad stack-12">${job.error && html`<${Trouble} error=${new Error(sentence(job.error))}/>`}
  ${job.result?.failed > 0 && job.message && html`<${Failures} job=${job}/>`}
  <${Made} job=${job}/>
  ${job.result && typeof job.result === "object" && html`<section class="card"><header><h2>Result</h2></header>
    ${job.result.labels && Object.keys(job.result.labels).length > 0 && html`<${Labels} labels=${job.result.labels}/>`}
    <dl class="facts pad">${Object.entries(job.result).filter(([, value]) => typeof value !== "object").map(([name, value]) => [html`<dt key=${name}>${name}</dt>`, html`<dd>${String(value)}</dd>`])}</dl></section>`}
  ${job.spec && html`<section class="card"><header><h2>Asked</h2></header><pre class="code spec" tabindex="0">${JSON.stringify(job.spec, (_, value) => value ?? undefined, 2)}</pre></section>`}</div>`;

/** What a reconstruction found; one that was cancelled tells how far it came in a file. */
function useFigures(job) {
  const ended = job?.kind === "reconstruct" && ENDED.has(job.state);
  const { data } = useSource(ended && !job.result ? `v1/jobs/${job.id}/files/result.json` : null);
  return ended ? job.result ?? data : null;
}

function Detail({ id }) {
  const { job, error, follow } = useJob(id);
  const figures = useFigures(job);
  const [chosen, choose] = useState("");
  const [failed, setFailed] = useState(null);
  const act = (path, method = "POST") => ask(`v1/jobs/${id}${path}`, { method }).then((said) => { setFailed(null); if (said) follow(said); else amend({ id: undefined }); }, setFailed).then(refreshJobs);
  if (error && !job) return html`<section class="mid jobmid"><div class="pad"><${Trouble} error=${error}><${Button} small onClick=${() => amend({ id: undefined })}>All jobs<//><//></div></section>`;
  if (!job) return html`<section class="mid jobmid"></section>`;
  const ended = ENDED.has(job.state);
  const side = html`<${Files} key=${job.id} job=${job}/><${Log} key=${`log ${job.id}`} job=${job}/>`;
  return html`<section class="mid jobmid" aria-label="Job"><header class="jobhead"><${Button} small bare icon="left" label="Back to the list" class="narrow" onClick=${() => amend({ id: undefined })}/>
      <div class="grow"><div class="row"><h2 class="cut">${title(job)}</h2><${State} kind=${KINDS[job.state]}>${job.state}<//></div>
      <span class="quiet cut">${job.id.slice(0, 8)}, ${zoned(job.created_at * 1000)}${took(job) ? `, ${took(job)}` : ""}${job.attempt > 1 ? `, attempt ${job.attempt}` : ""}${input(job) ? `, ${input(job)}` : ""}</span></div>
      ${may("jobs:write") && (ended ? html`<${Button} icon="again" onClick=${() => act("/restart")}>Run again<//><${Sure} text="Remove" effect="Its files go too." action=${() => act("", "DELETE")}/>`
        : html`<${Sure} text="Cancel" effect="What it has done stays." action=${() => act("/cancel")}/>`)}</header>
    ${!ended && html`<${Stages} job=${job}/>`}
    ${!ended && html`<div class="jobprog stack-4"><div class="row between"><span>${STAGES[job.kind] && job.stage ? job.message : job.stage || "waiting for its turn"}</span><span class="quiet nowrap">${STAGES[job.kind] || !job.message ? "" : `${job.message}, `}${Math.floor(job.progress)} %</span></div><${Meter} job=${job}/></div>`}
    ${failed && html`<div class="pad"><${Trouble} error=${failed}/></div>`}
    ${figures ? html`<${Cloud} key=${`${job.id} ${job.finished_at}`} job=${job} figures=${figures} chosen=${chosen} choose=${choose} follow=${follow}/>` : html`<div class="scroll" tabindex="-1"><${Result} job=${job}/></div>`}</section>
    <aside class="panel right jobside" aria-label="Files and log">${figures ? html`<${Photographs} job=${job} figures=${figures} chosen=${chosen} choose=${choose}>${side}<//>` : side}</aside>`;
}

const FILTERS = ["queued", "running", "failed"];

/** How many jobs have a state: the server says, where the list has not all of them. */
function useNumber(all, state) {
  const whole = !all || all.total <= all.jobs.length;
  const { data } = useSource(whole ? null : `v1/jobs?limit=1&omit=spec,result&state=${state}`, 5);
  return whole ? all?.jobs.filter((job) => job.state === state).length ?? 0 : data?.total ?? "";
}

/** The jobs of a state, or all (""): so many rows of them. */
function useList(state, rows) {
  const { data: all } = useSource(LIST, 3);
  const whole = !all || all.total <= all.jobs.length;
  const { data: now, error } = useSource(whole ? LIST : listOf(rows, state), 3);
  const last = useRef(now);
  const data = last.current = now ?? last.current;  // what is here stays until other rows come
  const shown = useMemo(() => (data?.jobs ?? []).filter((job) => !state || job.state === state), [data, state]);
  const numbers = FILTERS.map((each) => [each, `${each[0].toUpperCase()}${each.slice(1)} ${useNumber(all, each).toLocaleString("en")}`]);
  return { all, data, error, shown, numbers, left: whole ? 0 : (data?.total ?? 0) - shown.length };
}

/** No job is there yet: what makes the first one. */
function Nothing({ make }) {
  const field = useRef(/** @type {HTMLInputElement | null} */ (null));
  const choose = (event) => { if (event.target.files.length) make([...event.target.files]); event.target.value = ""; };
  return html`<div class="drop"><h2><span class="wide">Drop pictures, a video or a ZIP here</span><span class="narrow">Choose pictures, a video or a ZIP</span></h2>
    <input ref=${field} class="sr" type="file" multiple tabindex="-1" aria-hidden="true" data-first accept="image/*,.heic,.heif,video/*,.zip" onChange=${choose}/>
    <${Button} icon="file" onClick=${() => field.current?.click()}>Choose files<//>
    <span class="help">Then you choose what is made of them. The job goes on if you close this page.</span></div>`;
}

export default function Jobs() {
  const { query } = useRoute();
  const [filter, setFilter] = useState("");
  const [rows, setRows] = useState(ROWS);
  const { all, data, error, shown, numbers, left } = useList(filter, rows);
  const [making, setMaking] = useState(/** @type {File[] | null} */ (null));
  const [wrong, setWrong] = useState(/** @type {Error | null} */ (null));
  const make = (files) => { setWrong(null); setMaking(files); };
  const over = useDropped((_first, _name, files) => make(files), setWrong, may("jobs:write") && !making);
  const id = query.get("id") ?? "";
  return html`<${Bar} title="Jobs"><div class="wide"><${Segments} label="Which" value=${filter} onChange=${setFilter} options=${[["", "All"], ...numbers]}/></div><span class="grow"></span>
      ${may("jobs:write") && html`<${Button} primary icon="file" onClick=${() => make([])}>New job<//>`}<//>
    <div class=${`jobs fill ${id ? "chosen" : ""} ${over ? "over-drop" : ""}`}><nav class="panel left joblist" aria-label="Jobs">${all?.total > FEW && html`<div class="narrow even pad"><${Segments} label="Which, short" value=${filter} onChange=${setFilter} options=${[["", "All"], ...numbers]}/></div>`}<ul class="scroll" tabindex="-1">${shown.map((job) => html`<${Item} key=${job.id} job=${job} on=${job.id === id}/>`)}
        ${data && !shown.length && html`<li class="pad help">${all?.total ? "None of these." : "No job yet. A job runs a model over a video or many pictures, and continues after a restart of the server."}</li>`}
        ${left > 0 && html`<li class="pad help row between"><span>The newest ${shown.length.toLocaleString("en")} of ${data.total.toLocaleString("en")}.</span>${rows < MOST && html`<${Button} small onClick=${() => setRows(rows + ROWS)}>More<//>`}</li>`}</ul>
        ${wrong && html`<div class="pad"><${Trouble} error=${wrong}/></div>`}
        ${error && !data && html`<div class="pad"><${Trouble} error=${error} again=${refreshJobs}/></div>`}</nav>
      ${id ? html`<${Detail} key=${id} id=${id}/>` : html`<section class=${`mid jobmid empty ${all?.total === 0 ? "" : "wide"}`}>${all && (all.total ? html`<p class="quiet">Choose a job at the left.</p>` : may("jobs:write") && html`<${Nothing} make=${make}/>`)}</section>`}</div>
    ${making && html`<${NewJob} files=${making} close=${() => setMaking(null)} made=${(made) => { setMaking(null); refreshJobs(); amend({ id: made }); }}/>`}`;
}
