// Models: what is here, what it takes, what can be pulled.
import { ask, may } from "./api.mjs";
import { Button, KINDS, Menu, State, Sure, Trouble, put } from "./controls.mjs";
import { named, sentence } from "./direction.mjs";
import { ago, bytes, count, long, ms, parted, size } from "./format.mjs";
import { Bar } from "./frame.mjs";
import { html, useEffect, useMemo, useRef, useState } from "./html.mjs";
import { Icon } from "./icons.mjs";
import { Filter } from "./listing.mjs";
import { useLoad } from "./loading.mjs";
import { useDevices, useFigures } from "./metrics.mjs";
import { cancel, dismiss, pull, usePulls } from "./pulls.mjs";
import { go } from "./route.mjs";
import { now } from "./server_time.mjs";
import { refresh, useSource } from "./source.mjs";

const SHOWN = 4;  // models that a bar names
const WHAT = "Filter by name, task or state";
const ROWS = 200;  // drawn at first: thousands of them every two seconds stop the page

function left({ begun, done, total }) {
  const seconds = ((now() - begun) / 1000) * ((total - done) / Math.max(1, done));
  return total ? `${bytes(done)} of ${bytes(total)}${done ? `, ${long(seconds)} left` : ""}` : "asking the hub";
}

const Name = ({ name, pinned }) => {
  const [owner, own] = parted(name);
  return html`<div class="row"><span class="cut name" title=${name}><span class="quiet">${owner}</span><b class="strong">${own}</b></span>
    ${pinned && html`<span class="pinned" title="Pinned"><${Icon} name="pin"/><span class="sr">pinned</span></span>`}</div>`;
};

const Meter = ({ part, label }) => html`<div class="meter grow" role="progressbar" aria-label=${label} aria-valuemin="0" aria-valuemax="100" aria-valuenow=${Math.round(part * 100)}>
  <i style=${{ width: `${part * 100}%` }}></i></div>`;

function PullRow({ own }) {
  return html`<tr><td><${Name} name=${own.model}/>
      ${own.error ? html`<div class="err">${sentence(own.error)}</div>` : own.ended ? own.warnings.map((each) => html`<div class="help" key=${each}>${each}</div>`)
        : html`<div class="row prog"><${Meter} part=${own.total ? own.done / own.total : 0} label=${`Pulling ${named(own.model)}`}/>
          <span class="quiet nowrap">${own.place ? `number ${own.place} in the queue` : left(own)}</span></div>`}</td>
    <td class="wide"><span class="tag">${own.task}</span></td>
    <td>${own.error ? html`<${State} kind="bad">failed<//>` : own.ended ? html`<${State} kind="ok">pulled<//>` : html`<${State} kind="busy">pulling<//>`}</td>
    <td class="num wide" colspan="3"></td><td class="wide extra" colspan="2"></td><td class="num actions">${!may("models:write") ? null : own.error || own.ended
      ? html`<div class="row end">${own.error && html`<${Button} small onClick=${() => pull(own.model, own.task)}>Try again<//>`}<${Button} small bare icon="close" label="Dismiss" onClick=${() => dismiss(own.model)}/></div>`
      : html`<${Button} small onClick=${() => cancel(own.model)}>Cancel<//>`}</td></tr>`;
}

/** One action on a model at a time, with its error in the model's row. */
function useActs(model) {
  const [state, setState] = useState({ busy: "", error: null });
  const last = useRef("");
  const act = async (name, json, path = `v1/models/${name}`, method = "POST") => {
    setState({ busy: name, error: null });
    last.current = name;
    try {
      await ask(path, method === "DELETE" ? { method } : { json });
      if (last.current === name) setState({ busy: "", error: null });
    } catch (error) { if (last.current === name) setState({ busy: "", error }); }  // a load that is cancelled is refused, as was wished
    refresh("v1/models", "v1/sessions");
  };
  const named = { model };
  return {
    ...state,
    load: () => act("warmup", named), unload: () => act("unload", named), cancel: () => act("unload", { ...named, if_loading: true }), pin: () => act("pin", named), unpin: () => act("unpin", named),
    remove: () => act("remove", null, `v1/models/${encodeURIComponent(model)}`, "DELETE"),
    forget: () => setState({ busy: "", error: null }),
  };
}

function Row({ model, sessions, figures }) {
  const acts = useActs(model.model);
  const [asked, setAsked] = useState(false);
  const row = useRef(null), before = useRef(false);
  useEffect(() => {
    if (asked !== before.current) row.current.querySelector(asked ? ".keep" : ".menubox button")?.focus();
    before.current = asked;
  }, [asked]);
  const here = model.loaded_at !== null;
  const used = sessions.filter((each) => each.model === model.model).length;
  const writes = may("models:write");
  const loading = model.state === "loading" || acts.busy === "warmup";
  const load = useLoad(model);
  const menu = [
    ["Open in Try", () => go("try", { model: model.model })],
    ...(writes ? [here ? ["Unload", acts.unload] : load ? ["Cancel the load", acts.cancel] : [model.error ? "Try again" : "Load", acts.load]] : []),
    ["Copy the name", () => put(model.model)],
    ...(writes ? [model.pinned ? ["Unpin", acts.unpin] : ["Pin in memory", acts.pin], ["Remove", () => setAsked(true), true]] : []),
  ];
  const effect = `${size(model.memory_mb)}${used ? `; ${used} ${used === 1 ? "session uses" : "sessions use"} it` : ""}`;
  return html`<tr data-model=${model.model} ref=${row}><td><${Name} name=${model.model} pinned=${model.pinned}/>
      ${(acts.error ?? model.error) && html`<div class="err" role=${acts.error ? "alert" : undefined}>${acts.error?.message ?? sentence(model.error)}</div>`}
      ${load && html`<div class="help">${load.took}, ${load.what}</div>`}
      ${asked && html`<div class="row wrap"><span class="help full">It is taken off the list; its files stay.</span>
        <${Button} small danger onClick=${() => { setAsked(false); acts.remove(); }}><span class="cut">Remove ${parted(model.model)[1]}</span><//><${Button} small bare class="keep" onClick=${() => setAsked(false)}>Keep<//></div>`}</td>
    <td class="wide"><span class="tag">${model.task}</span></td>
    <td>${loading ? html`<${State} kind="busy">loading<//>` : html`<${State} kind=${model.error && !here ? "bad" : KINDS[model.state]}>${model.state}<//>`}</td>
    <td class="num wide">${size(model.memory_mb)}</td><td class="num wide extra">${size(model.size_mb)}</td><td class="num wide" title=${figures && `p95 ${ms(figures.p95)}`}>${ms(figures?.p50)}</td><td class="num wide">${figures?.failed ? html`<span class="err">${figures.failed.toLocaleString("en")}</span>` : 0}</td><td class="wide soft extra">${ago(model.last_used)}</td>
    <td class="num actions"><div class="row end tight">${writes && (here
      ? used ? html`<${Sure} small text="Unload" effect=${effect} action=${acts.unload}/>` : html`<${Button} small disabled=${Boolean(acts.busy)} onClick=${acts.unload}>Unload<//>`
      : load ? html`<${Button} small disabled=${acts.busy === "unload"} onClick=${acts.cancel}>Cancel<//>`
      : html`<${Button} small disabled=${loading} onClick=${acts.load}>${model.error ? "Try again" : "Load"}<//>`)}
      <${Menu} label=${`More for ${named(model.model)}`} actions=${menu}/></div></td></tr>`;
}

/** One device's memory as a bar: what models hold, what else is in use, what is free. It has its place before its figures are known. */
function Device({ title, total, used, held, others, none }) {
  const shown = held.slice(0, SHOWN), rest = held.slice(SHOWN);
  const parts = shown.map(([name, mb], at) => [parted(name)[1], mb, `c${at + 1}`]);
  const sum = (all) => all.reduce((most, [, mb]) => most + mb, 0);
  if (rest.length) parts.push([count(rest.length, "more model"), sum(rest), "c5"]);
  const known = total !== null;
  const other = known ? Math.max(0, used - sum(held)) : null, free = Math.max(0, total - Math.max(used, sum(held)));
  if (other !== 0) parts.push([others, other, "c6"]);
  const told = known ? [...parts, ["free", free]].map(([name, mb]) => `${name} ${size(mb)}`).join(", ") : "–";
  return html`<section class="card pad stack-12" aria-label=${title} data-device=${title}><div class="row between wrap"><h2>${title}</h2>
      <span><b>${size(used)}</b> <span class="quiet">of ${size(total)} used</span></span></div>
    <div class="timing tall" role="img" aria-label=${told}>
      ${known && parts.map(([name, mb, kind]) => html`<i key=${name} class=${kind} title=${`${named(name)}, ${size(mb)}`} style=${{ flex: `${mb} 1 0` }}></i>`)}<i class="free" style=${{ flex: `${known ? free : 1} 1 0` }}></i></div>
    <div class="legend">${parts.map(([name, mb, kind]) => html`<span key=${name}><i class=${kind}></i>${name} <b>${size(mb)}</b></span>`)}${!held.length && none && html`<span>${none}</span>`}</div></section>`;
}

/** What the models take of the machine's memory and of its GPU's; of several GPUs how full each is. */
function Memory({ models, listed }) {
  const { devices, vram } = useDevices();
  const loaded = models.filter((each) => each.memory_mb);
  const held = (own) => loaded.map((each) => [each.model, own(each)]).filter(([, mb]) => mb > 0).sort((a, b) => b[1] - a[1]);
  const onGpu = (each) => vram.get(each.model) ?? 0;
  const gpus = devices.length - 1;
  return html`<div class=${devices.length > 1 ? "two-up" : "stack-12"}>${devices.map(([name, { total, used }]) => html`<${Device} key=${name} title=${name === "ram" ? "Memory of this machine" : `GPU ${name.split(":")[1]}`}
    total=${total} used=${used} held=${name === "ram" ? held((each) => each.memory_mb - onGpu(each)) : gpus === 1 ? held(onGpu) : []} others=${name === "ram" ? "server, other programs" : "other programs"} none=${name === "ram" && listed && "No model is in memory: the first request to one loads it."}/>`)}</div>`;
}

/** What can be pulled: backends whose model comes with their packages, and names on the hub. */
function More({ models, plugins }) {
  const backends = (plugins ?? []).flatMap((plugin) => plugin.backends);
  const here = new Set(models.map((each) => each.model));
  const tasks = [...new Set(backends.filter((each) => each.source !== "pip").map((each) => each.task))].sort();
  const packaged = backends.filter((each) => each.source === "pip" && !here.has(each.name));
  const [task, setTask] = useState("");
  const submit = (event) => {
    event.preventDefault();
    const given = Object.fromEntries(new FormData(event.target));
    pull(String(given.model).trim(), given.task);
    event.target.reset();
  };
  const shown = packaged.filter((each) => !task || each.task === task);
  const kinds = [...new Set(packaged.map((each) => each.task))].sort();
  return html`<section class="card" aria-labelledby="more" id="pull"><header><h2 id="more">More models</h2><span class="grow"></span>
      ${kinds.length > 1 && html`<div class="seg wide" role="group" aria-label="Task"><button type="button" aria-pressed=${String(!task)} onClick=${() => setTask("")}>All</button>
        ${kinds.map((each) => html`<button type="button" key=${each} aria-pressed=${String(each === task)} onClick=${() => setTask(each)}>${each}</button>`)}</div>`}</header>
    ${tasks.length > 0 ? html`<form class="pad pullform" onSubmit=${submit}><label class="stack-4 grow"><span class="label">Name on the hub</span><input class="field" name="model" required placeholder="org/name"/></label>
      <label class="stack-4"><span class="label">Task</span><select class="field" name="task">${tasks.map((each) => html`<option key=${each}>${each}</option>`)}</select></label>
      <${Button} type="submit">Pull<//></form>` : ""}
    <p class="pad help">${tasks.length ? "" : "Models of the hub need a plugin that serves them, such as mataserver-hf or mataserver-onnx. "}A checkpoint or an ONNX file of your own is pulled on the server's machine: <code>mataserver pull ./folder --task detect</code>.</p>
    ${shown.length > 0 && html`<ul class="sugg">${shown.map((each) => html`<li key=${each.name}><div class="grow cut"><b class="strong">${each.name}</b>
        ${each.install && html`<span class="quiet"> installs ${each.missing.join(", ")}</span>`}</div><span class="tag">${each.task}</span>
      <${Button} small onClick=${() => pull(each.name, each.task)}>Pull<//></li>`)}</ul>`}</section>`;
}

export default function Models() {
  const { data, error } = useSource("v1/models", 2);
  const { data: sessions } = useSource(may("infer") ? "v1/sessions" : null, 5);
  const { data: plugins, error: noPlugins } = useSource("v1/plugins", 60);
  const figures = useFigures();
  const going = usePulls();
  const [words, setWords] = useState("");
  const form = useRef(null);
  const models = data ?? [];
  const shown = useMemo(() => models.filter((each) => `${each.model} ${each.task} ${each.state}`.toLowerCase().includes(words.toLowerCase())), [data, words]);
  const [most, setMost] = useState(ROWS);
  const drawn = shown.slice(0, most);
  const below = (data || error) && (plugins || noPlugins);  // what may still grow moves nothing that is seen
  const toPull = () => { form.current.scrollIntoView({ block: "center" }); form.current.querySelector("input, button")?.focus(); };
  return html`<${Bar} title="Models"><span class="grow"></span>
      <${Filter} what=${WHAT} where="wide" words=${words} setWords=${setWords}/>
      ${may("models:write") && html`<${Button} primary icon="download" onClick=${toPull}>Pull a model<//>`}<//>
    <div class="content">
      ${error && !data && html`<${Trouble} error=${error} again=${() => refresh("v1/models")}/>`}
      <${Memory} models=${models} listed=${Boolean(data)}/>
      ${models.length > 8 && html`<${Filter} what=${WHAT} where="narrow" words=${words} setWords=${setWords}/>`}
      <section class="card cards" aria-label="Models"><div class="tscroll"><table class="named"><thead><tr><th>Model</th><th class="wide">Task</th><th>State</th><th class="num wide">Memory</th><th class="num wide extra">On disk</th><th class="num wide" title="Of the model itself, since the server started">p50</th><th class="num wide" title="Inferences that failed since the server started">Errors</th><th class="wide extra">Used</th><th><span class="sr">Actions</span></th></tr></thead>
        <tbody>${going.map((own) => html`<${PullRow} key=${`pull ${own.model}`} own=${own}/>`)}
        ${drawn.map((model) => html`<${Row} key=${model.model} model=${model} sessions=${sessions ?? []} figures=${figures.get(model.model)}/>`)}</tbody></table></div>
        ${drawn.length < shown.length && html`<div class="row between pad"><span class="help">The first ${drawn.length.toLocaleString("en")} of ${shown.length.toLocaleString("en")}.</span><${Button} small onClick=${() => setMost(most + ROWS)}>More<//></div>`}
        ${data && !shown.length && html`<p class="pad help">${models.length ? "No model here matches." : "No model is registered yet: pull one below."}</p>`}</section>
      ${may("models:write") && html`<div ref=${form}>${below && html`<${More} models=${models} plugins=${plugins}/>`}</div>`}
    </div>`;
}
