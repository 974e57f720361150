// Live: this device's camera with what a model sees in it, and the cameras of the server.
import { ask, isAbort, may, Refused, send, silence } from "./api.mjs";
import { Chart, Legend } from "./chart.mjs";
import { Button, Dialog, Note, State, Sure, Trouble, useSlow } from "./controls.mjs";
import { sentence } from "./direction.mjs";
import { ago, count, long, ms } from "./format.mjs";
import { Bar } from "./frame.mjs";
import { html, useEffect, useLayoutEffect, useMemo, useRef, useState } from "./html.mjs";
import { Icon } from "./icons.mjs";
import { useLoadTold } from "./loading.mjs";
import { Labels, Overlay, useOutlines } from "./overlay.mjs";
import { ModelField, NoModel, Picker } from "./picker.mjs";
import { NeedsHttps, needsHttps } from "./picture.mjs";
import { itemsOf, told } from "./results.mjs";
import { amend } from "./route.mjs";
import { now } from "./server_time.mjs";
import { refresh, useSource } from "./source.mjs";
import { Stream } from "./stream.mjs";
import { useModel } from "./try.mjs";

const TAIL = 2000;
const LOOK = 3000;  // milliseconds between two pictures of a camera of the server
const OFF = { phase: "off", answer: null, error: null, problem: "", session: "", size: [640, 480], captured: 0, still: null };

/** The stream of this page. Starting ends the one before it, leaving the page ends all. */
function useStream(video) {
  const [state, setState] = useState(OFF);
  const current = useRef(null);
  const stop = () => { current.current?.stop(); current.current = null; };
  const start = (wanted) => {
    stop();
    setState({ ...OFF, phase: "starting" });
    const own = new Stream(video.current, (change) => {
      if (current.current !== own && change.phase !== "off") return;
      if (current.current && current.current !== own) return;  // a newer one has begun
      setState((old) => ({ ...old, ...change }));
      if (change.phase) refresh("v1/sessions", "v1/models");
    });
    current.current = own;
    own.start(wanted);
  };
  useEffect(() => {
    addEventListener("pagehide", stop);
    return () => { removeEventListener("pagehide", stop); stop(); };
  }, []);
  return { ...state, start, stop, meter: () => current.current?.meter };
}

/** Where each track was in the last two seconds, and since when it is seen. */
function useTracks(items, captured) {
  const tails = useRef(new Map()), since = useRef(new Map());
  return useMemo(() => {
    const now = performance.now();
    for (const { id, box } of items) {
      if (id === undefined || !box) continue;
      const tail = tails.current.get(id) ?? [];
      tail.push([(box[0] + box[2]) / 2, box[3], now]);
      tails.current.set(id, tail.filter((point) => point[2] > now - TAIL));
      if (!since.current.has(id)) since.current.set(id, now);
    }
    const here = new Set(items.map((item) => item.id));
    for (const id of tails.current.keys()) if (!here.has(id)) { tails.current.delete(id); since.current.delete(id); }
    return { tails: new Map(tails.current), since: since.current };
  }, [captured]);
}

function useClock(on, every = 250) {
  const [now, setNow] = useState(performance.now());
  useEffect(() => {
    if (!on) return undefined;
    const timer = setInterval(() => setNow(performance.now()), every);
    return () => clearInterval(timer);
  }, [on]);
  return now;
}

/** How often the age is told anew, in milliseconds: what is read is at most so much too young. */
const TICK = 50;
const AGED = 10_000;  // milliseconds: what is older is told in seconds

/** How old what was taken at a time is, as it is looked at: nothing else is drawn again for it. */
function useAge(captured) {
  const [, tick] = useState(0);
  useEffect(() => {
    if (!captured) return undefined;
    const timer = setInterval(() => tick((n) => n + 1), TICK);
    return () => clearInterval(timer);
  }, [Boolean(captured)]);
  return captured ? Math.max(0, Math.round(performance.now() - captured)) : null;
}

const Old = ({ captured }) => { const age = useAge(captured); return age !== null && html`<b>${age < AGED ? `${age} ms` : long(age / 1000)} old</b>`; };
const Age = ({ captured }) => useAge(captured) ?? "–";

const fps = (value) => (value ? value.toFixed(1) : "–");

/** Rates are of what runs; the others are of the last run, too. */
function Figures({ figures, captured, on }) {
  const plain = (value) => (value === null ? "–" : Math.round(value));
  const shown = [["Camera", fps(on && figures.camera), "fps"], ["Results", fps(on && figures.results), "fps"], ["p50", plain(figures.p50), "ms"], ["p95", plain(figures.p95), "ms"],
    ["Dropped", figures.dropped, `of ${figures.sent.toLocaleString("en")}`], ["Age", html`<${Age} captured=${captured}/>`, "ms"]];
  return html`<dl class="stats live-stats">${shown.map(([name, value, unit]) => html`<div class="stat" key=${name} data-figure=${name}><dt>${name}</dt><dd>${value} <small>${unit}</small></dd></div>`)}</dl>`;
}

const EMPTY = { camera: 0, results: 0, p50: null, p95: null, dropped: 0, sent: 0 };
const WORDS = { off: "Off", starting: "Waiting for the camera", loading: "Loading the model", live: "Live", lost: "No connection" };
const KIND = { live: "ok", lost: "bad" };

function Video({ video, stream, items, tracks, start }) {
  const [width, height] = stream.size;
  const [shape, setShape] = useState(stream.size);  // of the camera's picture now: a phone may have been turned since
  const box = useRef(null);
  const [scale, setScale] = useState(1);
  const outlines = useOutlines(items);
  useEffect(() => {
    const watch = new ResizeObserver(([entry]) => setScale(entry.contentRect.width / width));
    watch.observe(box.current);
    return () => watch.disconnect();
  }, [width]);
  const on = stream.phase !== "off", { still } = stream;
  const canvas = useRef(null);
  useLayoutEffect(() => {
    if (!still) return;
    Object.assign(canvas.current, { width: still.width, height: still.height });
    canvas.current.getContext("2d").drawImage(still, 0, 0);
  }, [still]);
  const fits = Math.abs((width * shape[1]) / (height * shape[0]) - 1) < 0.02;
  return html`<div class=${`vid ${on ? stream.phase === "live" ? "" : "old" : "off"}`} ref=${box} style=${{ aspectRatio: (still ? stream.size : shape).join(" / ") }}><video ref=${video} muted playsinline hidden=${!on} aria-label="The camera's picture"
      onResize=${({ target: { videoWidth, videoHeight } }) => { if (videoWidth) setShape([videoWidth, videoHeight]); }}></video>
    <canvas ref=${canvas} hidden=${!on || !still} aria-hidden="true"></canvas>
    ${on && (fits || still) && html`<${Overlay} items=${items} outlines=${outlines} width=${width} height=${height} hover=${0} tails=${tracks.tails}/>
      <${Labels} items=${items} width=${width} height=${height} scale=${scale} hover=${0} scores=${true} taken=${[[0, 0, 230, 40], [width * scale - 120, 0, width * scale, 40]]}/>`}
    ${on ? html`<span class="glass vl" title=${stream.session && `Session ${stream.session}`}><${State} kind=${KIND[stream.phase] ?? "busy"}>${WORDS[stream.phase]}<//><${Old} captured=${stream.captured}/></span>
      <span class="glass vr">${shape.join(" × ")}</span>` : html`<div class="nopic"><${Icon} name="camera"/><span>The camera of this device is off.</span>${start && html`<${Button} icon="camera" class="wide" onClick=${start}>Turn it on<//>`}</div>`}</div>`;
}

function Tile({ session }) {
  const { camera } = session;
  const [shot, setShot] = useState({ url: "", at: 0, error: "" });
  useEffect(() => {
    const control = new AbortController();
    let timer = 0, last = "", busy = false, fails = 0;
    const look = async () => {
      clearTimeout(timer);
      if (document.hidden || busy || silence.get()) return;  // it goes on once the page is seen, and the server is there
      busy = true;
      try {
        const answer = await send(`v1/sessions/${encodeURIComponent(session.session_id)}/snapshot`, { signal: control.signal });
        const url = URL.createObjectURL(await answer.blob());
        URL.revokeObjectURL(last);
        last = url;
        fails = 0;
        setShot({ url, at: now() / 1000, error: "" });
      } catch (error) { if (isAbort(error)) return; fails += 1; setShot((old) => ({ ...old, error: error.message })); }
      busy = false;
      timer = setTimeout(look, LOOK * Math.min(5, 1 + fails));
    };
    look();
    document.addEventListener("visibilitychange", look);
    const leave = silence.watch(look);
    return () => { leave(); control.abort(); clearTimeout(timer); document.removeEventListener("visibilitychange", look); URL.revokeObjectURL(last); };
  }, [session.session_id]);
  const kind = { connected: "ok", connecting: "busy", failed: "bad", idle: "off" }[camera.state] ?? "off";
  const why = camera.problem ? sentence(camera.problem) : shot.error;
  return html`<article class="card tile"><div class="tpic">${shot.url && camera.state !== "failed" ? html`<img src=${shot.url} alt=${`What ${session.session_id} shows`}/>${shot.error && html`<span class="glass vl"><${State} kind="bad"><span title=${shot.error}>of ${ago(shot.at)}</span><//></span>`}`
    : html`<div class="nopic">${why ? html`<${Icon} name="warn"/><span>${why}</span>` : html`<span class="quiet">Waiting for a picture</span>`}</div>`}</div>
    <div class="tfoot"><div class="row between"><b class="cut strong">${session.session_id}</b><${State} kind=${kind}>${camera.state}<//></div>
      <div class="row between quiet"><span class="cut">${session.model}</span><span class="nowrap">${camera.source}</span></div></div></article>`;
}

/** Open a camera; a server without the plugin has no such route. */
async function openCamera(asked) {
  try {
    return await ask("v1/cameras", { json: asked });
  } catch (failure) {
    if (failure.status !== 404 || failure.message !== "Not found") throw failure;
    const how = "pip install mataserver-cameras (./plugins/cameras in a checkout), then start the server anew";
    throw new Refused(404, `Cameras come with a package: ${how}`, "", 0);
  }
}

function AddCamera({ models, close }) {
  const [error, setError] = useState(null);
  const [busy, setBusy] = useState(false);
  const submit = async (event) => {
    event.preventDefault();
    const { source, model, fps: most } = Object.fromEntries(new FormData(event.target));
    setBusy(true);
    try {
      await openCamera({ model, source: String(source).trim(), ...(most ? { fps: Number(most) } : {}) });
      refresh("v1/sessions");
      close();
    } catch (failure) { setError(failure); setBusy(false); }
  };
  return html`<${Dialog} title="Add a camera" onClose=${close}><form class="stack-12" onSubmit=${submit}>
    ${error && html`<${Trouble} error=${error}/>`}
    <label class="stack-4"><span class="label">Source</span><input class="field" name="source" required placeholder="rtsp://user:password@192.168.1.20/stream1"/>
      <span class="help">A network camera, a stream over HTTP, /dev/videoN, or a file. The server's camera_hosts and camera_paths say what is allowed.</span></label>
    <${ModelField} models=${models}/>
    <label class="stack-4"><span class="label">At most frames a second</span><input class="field" name="fps" type="number" min="0.1" step="any" placeholder="as they come"/></label>
    <div><${Button} primary type="submit" disabled=${busy}>Add<//></div></form><//>`;
}

function Sessions({ sessions, own }) {
  const others = sessions.filter((each) => !each.camera && each.session_id !== own);
  const [error, setError] = useState(null);
  if (!others.length) return null;
  const close = (id) => ask(`v1/sessions/${encodeURIComponent(id)}`, { method: "DELETE" }).catch(setError).then(() => refresh("v1/sessions"));
  return html`<section class="card" aria-labelledby="others"><header><h2 id="others">Other sessions</h2><span class="quiet">${others.length}</span></header>
    ${error && html`<div class="pad"><${Trouble} error=${error}/></div>`}
    <ul class="sugg plain">${others.map((each) => html`<li key=${each.session_id}><code class="cut" title=${each.session_id}>${each.session_id}</code><span class="grow cut">${each.model}</span><span class="quiet wide">${count(each.results, "result")}, ${ago(each.created_at)}</span>
      <${State} kind=${each.connected ? "ok" : "off"}>${each.connected ? "connected" : "waiting"}<//><${Sure} small text="Close" effect="It loses its place." action=${() => close(each.session_id)}/></li>`)}</ul></section>`;
}

export default function Live() {
  const chosen = useModel((model) => model.task !== "vlm" && model.task !== "embed");
  const video = useRef(null);
  const stream = useStream(video);
  const [adding, setAdding] = useState(false);
  const [track, setTrack] = useState(false);
  const { data } = useSource("v1/sessions", 3);
  const { data: plugins } = useSource(may("models:read") ? "v1/plugins" : null, 60);
  const tracks_ = (plugins ?? []).some((plugin) => plugin.backends.some((each) => each.task === "track" && each.source !== "pip"));
  const mayTrack = tracks_ && chosen.model?.task === "detect";
  const on = stream.phase !== "off";
  const load = useLoadTold(chosen.model, stream.phase === "loading");
  const adds = may("infer") && chosen.models.length > 0;
  const now = useClock(on);
  const items = useMemo(() => itemsOf(on ? stream.answer : null), [stream.answer, on]);
  const tracks = useTracks(items, stream.captured);
  const meter = stream.meter();
  const figures = useMemo(() => meter?.figures(now) ?? EMPTY, [meter, now]);
  const sessions = data ?? [];
  const cameras = sessions.filter((each) => each.camera);
  const curve = useMemo(() => meter?.curve(now) ?? { p50: [], p95: [] }, [meter, Math.floor(now / 1000)]);
  const begin = (name = chosen.name) => {
    const tracked = track && tracks_ && chosen.models.find(({ model }) => model === name)?.task === "detect";
    stream.start({ model: name, task: tracked ? "track" : "", params: {} });
  };
  const choose = (name) => { amend({ model: name }); if (on) begin(name); };
  useLayoutEffect(() => {
    const press = (event) => { if (event.key === " " && on && !event.target.closest("input, textarea, select, button, a")) { stream.stop(); event.preventDefault(); } };
    addEventListener("keydown", press);
    return () => removeEventListener("keydown", press);
  }, [on]);
  return html`<${Bar} title="Live"><${Picker} models=${chosen.models} listed=${chosen.listed} value=${chosen.name} choose=${choose}/>
      ${mayTrack && html`<${Button} small pressed=${track} disabled=${on} onClick=${() => setTrack(!track)}>Track<//>`}
      <span class="grow"></span>
      ${on ? html`<${Button} icon="stop" onClick=${stream.stop}>Stop<//>` : html`<${Button} primary icon="camera" disabled=${!chosen.name || needsHttps()} onClick=${() => begin()}>Start<//>`}<//>
    <div class=${`content ${cameras.length && !on ? "watching" : ""}`}>
      ${needsHttps() && html`<${NeedsHttps}/>`}${chosen.none && html`<${NoModel} which="for moving pictures"/>`}${stream.error && html`<${Trouble} error=${stream.error} again=${() => begin()}/>`}${stream.problem && html`<${Note} kind="warn">${stream.problem}<//>`}${on && load && html`<p class="help" role="status">${load}</p>`}
      <div class=${`livegrid ${on ? "" : "idle"}`}><section class="card livecard" aria-label="This device's camera"><${Video} video=${video} stream=${stream} items=${items} tracks=${tracks} start=${chosen.name && !needsHttps() ? () => begin() : undefined}/>
        <ul class="tracks">${items.slice(0, 8).map((item) => html`<li key=${item.id ?? item.n} class=${item.k}><span class="sw">${item.id ?? item.n}</span><b class="cut">${item.name}</b>
          <span class="quiet nowrap">${tracks.since.has(item.id) ? `for ${long((performance.now() - tracks.since.get(item.id)) / 1000)}` : item.score?.toFixed(2)}</span></li>`)}</ul></section>
        <div class="livefigures"><${Figures} figures=${figures} captured=${on ? stream.captured : 0} on=${on}/>
          <section class="card" aria-labelledby="latency"><header><h2 id="latency">Latency</h2><span class="grow"></span><${Legend} names=${["p50", "p95"]}/></header>
            <${Chart} label="Latency" series=${[{ name: "p50", values: curve.p50 }, { name: "p95", values: curve.p95 }]} format=${ms} ends=${on || !meter ? ["60 s ago", "now"] : ["60 s before", "the end"]}/></section></div></div>
      <section class="stack-12" aria-labelledby="cams"><div class="row"><h2 id="cams">Cameras of this server</h2><span class="quiet">${cameras.length ? `${cameras.length}, ${cameras.filter((each) => each.camera.state === "connected").length} connected` : ""}</span>
        <span class="grow"></span>${adds && html`<${Button} small icon="plus" onClick=${() => setAdding(true)}>Add<//>`}</div>
        ${cameras.length ? html`<div class="tiles">${cameras.map((each) => html`<${Tile} key=${each.session_id} session=${each}/>`)}</div>` : html`<p class="card pad help">No camera yet. ${adds ? "Add one here: a network camera, a stream, a file. Those that the configuration names are shown here, too." : "Those that the configuration names are shown here."}</p>`}</section>
      <${Sessions} sessions=${sessions} own=${stream.session}/>
    </div><p class="sr" role="status">${useSlow(on && items.length ? told(items) : "")}</p>
    ${adding && html`<${AddCamera} models=${chosen.models} close=${() => setAdding(false)}/>`}`;
}
