// Segment's video: open, look at any frame, point, track, correct on a later frame, take the masks along.
import { Clicks, Marks, Pointing, Tools, Words, around, useTool } from "./clicks.mjs";
import { Code } from "./code.mjs";
import { Button, Note, Segments, Status, Trouble } from "./controls.mjs";
import { named } from "./direction.mjs";
import { isPicture, useDropped } from "./drops.mjs";
import { save } from "./exporting.mjs";
import { isOver } from "./film.mjs";
import { bytes, count, long } from "./format.mjs";
import { Bar } from "./frame.mjs";
import { html, useEffect, useMemo, useRef, useState } from "./html.mjs";
import { outlineOfRuns } from "./outline.mjs";
import { Labels } from "./overlay.mjs";
import { useSeconds } from "./runner.mjs";
import { refresh } from "./source.mjs";
import { Timeline, timeOf } from "./timeline.mjs";
import { cornersOf, kOf } from "./tracks.mjs";
import { CODE } from "./video_code.mjs";
import { packed, shownOf } from "./video_masks.mjs";
import { useFilm, useFrame } from "./watching.mjs";

const DIRECTIONS = [["backward", "Back"], ["both", "Both"], ["forward", "Forward"]];
const ACCEPT = "video/*,.mkv,.avi,.mov,.ts,.flv,.wmv,.gif";
const name = (file) => file.name.replace(/\.\w+$/, "");

function Choose({ take, primary, children }) {
  const field = useRef(null);
  const choose = (event) => { if (event.target.files[0]) take(event.target.files[0]); event.target.value = ""; };
  return html`<input ref=${field} class="sr" type="file" accept=${ACCEPT} tabindex="-1" aria-hidden="true" data-video onChange=${choose}/>
    <${Button} icon="file" primary=${primary} onClick=${() => field.current.click()}>${children}<//>`;
}

/** Nothing is open yet, or a file is on its way. */
function Before({ film, take }) {
  const seconds = useSeconds(film.begun);
  if (film.phase !== "sending") {
    return html`<div class="stage"><div class="drop"><h2><span class="wide">Drop a video here</span><span class="narrow">Choose a video</span></h2><${Choose} primary take=${take}>Choose a video<//>
      <span class="help">It is kept on the server while it is open here, and no longer.</span></div></div>`;
  }
  const { file, sent } = film;
  const whole = sent >= file.size;
  return html`<div class="stage"><div class="drop"><h2 class="cut">${file.name}</h2>
    <div class="meter sending" role="progressbar" aria-label="Sent" aria-valuemin="0" aria-valuemax=${file.size} aria-valuenow=${Math.min(sent, file.size)}><i style=${{ width: `${Math.min(100, (sent / file.size) * 100)}%` }}></i></div>
    <${Status} text=${whole ? `The server opens it${seconds >= 1 ? `, ${Math.round(seconds)} s` : ""}` : `${bytes(sent)} of ${bytes(file.size)} sent${sent && seconds > 3 ? `, ${long((seconds * (file.size - sent)) / sent)} left` : ""}`}/>
    ${whole && seconds > 5 && html`<span class="help" role="status">The first video waits for the model to be loaded.</span>`}
    <${Button} onClick=${film.close}>Cancel<//></div></div>`;
}

/** The frame that is shown, and what is known of exactly that frame. */
function Canvas({ film, shown, tool, opacity }) {
  const { width, height } = film.info.resolution;
  const { tracks } = film;
  const seen = useMemo(() => {
    const found = tracks.frames.get(shown.frame);
    return tracks.things.filter((thing) => found?.has(thing.key)).map((thing) => {
      const one = found.get(thing.key);
      return { thing, ...one, path: outlineOfRuns(one.mask, width, height).path, corners: cornersOf(one.box, width, height) };
    });
  }, [tracks, film.version, shown.frame]);
  const labels = seen.map(({ thing, score, corners }) => ({ n: thing.key, name: thing.name, score, box: corners, k: kOf(thing) }));
  const pointed = tracks.things.flatMap((thing) => thing.pointed.filter((each) => each.frame === shown.frame).map((each) => ({ thing, ...each })));
  const boxes = pointed.filter(({ thing, box }) => box && !seen.some((each) => each.thing === thing));
  const beside = html`<span class="glass took">${shown.error ? shown.error.message : `frame ${shown.frame}`}</span>`;
  const shot = { url: shown.url, width, height, name: `${film.file.name}, frame ${shown.frame}: ${count(seen.length, "object")}` };
  return html`<${Clicks} shot=${shot} tool=${tool} idle=${film.tracking !== null} beside=${beside} onPoint=${(x, y, inside) => film.point(shown.frame, { points: [[x, y, inside]], box: null })} onBox=${(box) => film.point(shown.frame, { points: [], box })}>${(scale) => html`
    <svg class="over" viewBox=${`0 0 ${width} ${height}`} preserveAspectRatio="none" aria-hidden="true">${seen.map(({ thing, path }) => html`<g key=${thing.key} class=${`${kOf(thing)} ${thing.key === film.now ? "on" : ""}`}>
      <path class="mask" d=${path} fill-rule="evenodd" style=${{ fillOpacity: opacity }}/><path class="case" d=${path}/><path class="line" d=${path}/></g>`)}
      ${boxes.map(({ thing, box }) => html`<g key=${`b${thing.key}`} class=${kOf(thing)}><path class="line" stroke-dasharray="7 4" d=${around(box, width, height)}/></g>`)}</svg>
    ${film.waiting.filter((each) => each.frame === shown.frame).map((each, i) => html`<${Marks} key=${`w${i}`} points=${each.points} width=${width * scale} height=${height * scale}/>`)}
    ${pointed.map(({ thing, points }, i) => html`<${Marks} key=${`${thing.key} ${i}`} points=${points} width=${width * scale} height=${height * scale}/>`)}
    ${scale > 0 && html`<${Labels} items=${labels} width=${width} height=${height} scale=${scale} hover=${0} scores=${true}/>`}`}<//>`;
}

/** How far the tracking is: frames, how many a second, and how long it may take. */
function Progress({ tracking }) {
  useSeconds(tracking.begun);
  const { done, planned, begun } = tracking;
  const seconds = (performance.now() - begun) / 1000;
  const left = done > 1 ? ((planned - done) * seconds) / done : null;
  return html`<div class="meter grow" role="progressbar" aria-label="Tracked" aria-valuemin="0" aria-valuemax=${planned} aria-valuenow=${done}><i style=${{ width: `${(done / planned) * 100}%` }}></i></div>
    <span class="quiet nowrap">${done} of ${count(planned, "frame")}${seconds >= 1 && done > 1 ? `, ${(done / seconds).toFixed(1)} a second` : ""}${left !== null && seconds > 3 ? `, ${long(left)} left` : ""}</span>`;
}

function Transport({ film, watch, direction, setDirection }) {
  const { info, tracking } = film;
  const last = info.total_frames - 1;
  return html`<div class="transport">
    <${Button} small bare icon="before" label="Frame before" disabled=${watch.wanted === 0} onClick=${() => watch.step(-1)}/>
    <${Button} small bare icon=${watch.playing ? "stop" : "play"} label=${watch.playing ? "Pause" : "Play"} onClick=${watch.play}/>
    <${Button} small bare icon="after" label="Next frame" disabled=${watch.wanted === last} onClick=${() => watch.step(1)}/>
    <span class="nowrap">${watch.wanted} <span class="quiet">of ${last}</span></span><span class="quiet nowrap wide">${timeOf(watch.wanted, info)}</span>
    ${tracking ? html`<${Progress} tracking=${tracking}/><${Button} icon="stop" onClick=${film.stop}>Stop<//>`
    : html`<span class="grow"></span><${Segments} label="Direction" options=${DIRECTIONS} value=${direction} onChange=${setDirection}/>
      <${Button} primary disabled=${!film.tracks.things.length || film.phase !== "open"} onClick=${() => film.track(direction, watch.wanted)}>Track<//>`}</div>`;
}

function told(thing, tracks) {
  const frames = [...new Set(thing.pointed.map((each) => each.frame))];
  const where = frames.length && `pointed at on ${frames.length === 1 ? "frame" : "frames"} ${frames.slice(0, 6).join(", ")}${frames.length > 6 ? "…" : ""}`;
  const { all, old } = tracks.count(thing);
  return [thing.word && !frames.length && "word", where, `seen on ${count(all, "frame")}`, old && `${old} of them from before the last correction`].filter(Boolean).join("; ");
}

function Objects({ film, shown }) {
  const { tracks } = film;
  const seen = tracks.frames.get(shown.frame);
  if (!tracks.things.length) return null;
  return html`<ul class="found objects">${tracks.things.map((thing) => html`<li key=${thing.key} class=${`${kOf(thing)} ${thing.key === film.now ? "on" : ""}`}>
    <button type="button" class="choose" aria-pressed=${String(thing.key === film.now)} onClick=${() => film.choose(thing.key)}><span class="sw">${thing.key}</span><span class="cut">${thing.name}</span>
      <span class="v">${seen?.get(thing.key)?.score.toFixed(2) ?? ""}</span><span class="more help">${told(thing, tracks)}</span></button>
    <${Button} small bare icon="close" label=${`Remove ${named(thing.name)}`} disabled=${film.tracking !== null} onClick=${() => film.remove(thing.key)}/></li>`)}</ul>`;
}

/** Opened again, with what is known of it on the page. */
function Reopening({ film }) {
  return html`<${Note}><${Status} text=${`Opening it again: ${bytes(film.sent)} of ${bytes(film.file.size)} sent`}/><div class="meter"><i style=${{ width: `${Math.min(100, (film.sent / film.file.size) * 100)}%` }}></i></div><//>`;
}

/** What went wrong, with what can be done. */
function Wrong({ film, none, model }) {
  const { error } = film;
  if (film.phase === "sending" && film.info) return html`<${Reopening} film=${film}/>`;
  if (isOver(error)) {
    return html`<${Trouble} error=${error}><span>The session is over: it was not used for long, or the server was started anew. What is on this page stays.</span>
      <${Button} small primary onClick=${film.again}>Open it again<//><//>`;
  }
  if (model?.loaded && !model.capabilities.includes("video_tracking")) {
    return html`<${Note} kind="warn"><b>${model.checkpoint} takes no videos here</b><span>Set <code>plugins.sam.model</code> to a SAM3 or to a SAM 2 of the type <code>sam2_video</code>, such as facebook/sam2.1-hiera-small, and <code>video_enabled</code> to true. Pictures work.</span><//>`;
  }
  if (error) {
    const large = error.status === 413;
    return html`<${Trouble} error=${error} again=${film.phase === "off" && film.file ? film.again : undefined}>
      ${large && html`<span>Cut it shorter or make it smaller, or raise <code>plugins.sam.max_video_mb</code>.</span>`}
      ${film.phase === "open" && error.status >= 500 && html`<${Button} small onClick=${film.reset}>Start over<//>`}<//>`;
  }
  if (none) return html`<${Trouble} error=${none}/>`;
  if (model && !model.checkpoint) return html`<${Note} kind="warn"><b>No model is configured</b><span>Set <code>plugins.sam.model</code> or <code>SAM3_CHECKPOINT</code> to a SAM3 or a SAM 2 for videos, and start the server again.</span><//>`;
  return null;
}

function Said({ film }) {
  const { ended, missing } = film;
  if (missing) return html`<div class="pad"><${Note}><span role="status">${missing}</span><//></div>`;
  if (!ended || film.tracking) return null;
  const text = ended.whole ? `Tracked ${count(ended.frames, "frame")} in ${long(ended.took)}.` : `Stopped after ${count(ended.frames, "frame")}: what was tracked stays.`;
  return html`<div class="pad"><${Note} kind=${ended.whole ? "ok" : ""}><span role="status">${text}</span><//></div>`;
}

/** Masks as a ZIP, and the video with them drawn in. */
function Exports({ film }) {
  const [busy, setBusy] = useState(null);
  const work = async (what, make, suffix) => {
    setBusy({ what, text: "" });
    try { save(await make((text) => setBusy({ what, text })), `${name(film.file)}${suffix}`); } catch (error) { film.fail(error); }
    setBusy(null);
  };
  if (!film.tracks.frames.size) return null;
  if (busy) return html`<span class="row"><${Status} class="state busy" text=${`${busy.what}${busy.text}`}/></span>`;
  return html`<${Button} icon="download" onClick=${() => work("Packing masks", (tell) => packed(film, tell), "-masks.zip")}>Masks<//>
    ${film.phase === "open" && html`<${Button} icon="download" onClick=${() => work("Making the video", () => film.drawn(shownOf(film)), "-tracked.mp4")}>Video<//>`}`;
}

export function Video({ head, model, none }) {
  const film = useFilm();
  const watch = useFrame(film);
  const { shown } = watch;
  const [opacity, setOpacity] = useState(0.42);
  const [direction, setDirection] = useState("forward");
  const take = (file) => { if (isPicture(file)) film.tell(`${named(file.name)} is a picture and no video: “Picture”, above, takes it.`); else film.open(file); };
  const over = useDropped(take, (error) => film.tell(error.message));
  const undo = film.canUndo ? film.undo : undefined;
  const [tool, setTool] = useTool({ n: () => film.choose(null), z: () => undo?.(), ",": () => watch.step(-1), ".": () => watch.step(1) });
  useEffect(() => { if (film.phase !== "sending") refresh("models/info"); }, [film.phase]);  // the model is loaded now, or cannot be
  const words = !model?.loaded || model.capabilities.includes("text_prompt");
  const open = film.info !== null;
  return html`<${Bar} title="Segment">${head}<span class="grow"></span>${open && html`<div class="row wide"><${Exports} film=${film}/></div>`}<//>
    <div class=${`work two fill ${over ? "over-drop" : ""}`}><section class="mid" aria-label="Video"><${Tools} tool=${tool} setTool=${setTool} undo=${undo} opacity=${opacity} setOpacity=${setOpacity}/>
        <div class="stagebox">${(film.busy || shown.late) && html`<div class="running"><i></i></div>`}${open && shown.url ? html`<${Canvas} film=${film} shown=${shown} tool=${tool} opacity=${opacity}/>` : html`<${Before} film=${film} take=${take}/>`}</div>
        ${open && html`<div class="player"><${Timeline} info=${film.info} frame=${watch.wanted} tracks=${film.tracks} version=${film.version} at=${film.tracking?.frame ?? null} now=${film.now} onFrame=${watch.go} onStep=${watch.step}/>
          <${Transport} film=${film} watch=${watch} direction=${direction} setDirection=${setDirection}/></div>`}
        <${Code} made=${CODE} request=${{ film, frame: shown.frame, direction }}/></section>
      <aside class="panel right" aria-label="Objects"><section class="sect"><div class="row between"><h2>Objects</h2><${Button} small icon="plus" disabled=${!open} pressed=${open && film.now === null} onClick=${() => film.choose(null)}>New object<kbd>N</kbd><//></div>
          ${open && html`<div class="row"><${Choose} take=${take}>Another video<//><${Button} bare onClick=${film.close}>Close<//></div><div class="row narrow"><${Exports} film=${film}/></div>`}</section>
        <${Words} find=${words && film.phase === "open" && !film.tracking && ((text) => film.find(shown.frame, text))}/>
        <div class="stack-12 wrongs"><${Wrong} film=${film} none=${none} model=${model}/></div>
        <div class="scroll" tabindex="-1"><${Objects} film=${film} shown=${shown}/><${Said} film=${film}/>
          <p class="pad help">${open ? html`<${Pointing}/> Then Track; where it goes wrong, stop and point at it on that frame. <span class="wide"><kbd>,</kbd> <kbd>.</kbd> step.</span>` : "Open a video first."}</p></div></aside></div>`;
}
