// Compare: two models on the same picture, each with its own parameters, one after the other.
import { Code } from "./code.mjs";
import { Button, Switch, Tabs, Trouble } from "./controls.mjs";
import { useDropped } from "./drops.mjs";
import { clock, ms, parted } from "./format.mjs";
import { From } from "./found.mjs";
import { Bar } from "./frame.mjs";
import { html, useEffect, useMemo, useRef, useState } from "./html.mjs";
import { paired } from "./pairs.mjs";
import { Parameters } from "./params.mjs";
import { Picker } from "./picker.mjs";
import { Empty, Examples, Named, Ways } from "./picture.mjs";
import { told } from "./results.mjs";
import { amend, go, useRoute } from "./route.mjs";
import { Lane } from "./runner.mjs";
import { Stage, Zoom } from "./stage.mjs";
import { Busy, Nothing, OTHER, Ramp, useKeys, useShow, useTrial } from "./trial.mjs";
import { useAuto, useModel, usePicture } from "./try.mjs";

const SIDES = ["a", "b"];
const NOBODY = { a: 0, b: 0 };

/** The second model: the one that the address names, else another one of the same task. */
function useSecond(chosen) {
  const { query } = useRoute();
  const others = chosen.models.filter((each) => each.model !== chosen.name);
  const name = query.get("with") ?? (others.find((each) => each.task === chosen.model?.task) ?? others[0])?.model ?? "";
  return { ...chosen, name, model: chosen.models.find((each) => each.model === name) };
}

/** Change a model: its own parameters go, those of the other one stay. */
function chooser(query, key, prefix) {
  const own = (name) => name !== "from" && name !== "model" && name !== "with" && name.startsWith(OTHER) === (prefix === OTHER);
  return (name) => amend({ ...Object.fromEntries([...query.keys()].filter(own).map((each) => [each, undefined])), [key]: name });
}

/** What has no place on a picture. */
function Words({ answer }) {
  if (answer?.task === "vlm") return html`<div class="foot said">${answer.text}</div>`;
  if (answer?.task === "embed") return html`<div class="foot">A vector of ${answer.embedding.length} numbers, of length 1.</div>`;
  return null;
}

const NO_PLACE = new Set(["vlm", "embed", "depth"]);

function Side({ trial, picture, letter, hover, setHover, show, zoom, setScale }) {
  const { run, items, shown, depth, chosen } = trial;
  const { answer } = run;
  const said = answer && !NO_PLACE.has(answer.task) ? `${shown.length} found` : "";
  return html`<section class="side-of" data-side=${letter} aria-label=${`Model ${letter.toUpperCase()}`}>
    <header class="row sidehead"><span class="sw none">${letter.toUpperCase()}</span><b class="cut strong grow" title=${chosen.name}>${parted(chosen.name)[1]}</b>
      <span class="quiet nowrap">${said}</span><b class="nowrap">${answer && run.times.total ? ms(run.times.total) : ""}</b></header>
    <div class="stagebox"><${Stage} picture=${picture} items=${shown} hover=${hover} setHover=${setHover} show=${show} depth=${depth} old=${trial.old} zoom=${zoom} onScale=${setScale}/>
      <${Busy} run=${run} seconds=${trial.seconds} model=${chosen.model}/></div>
    <div class="feet">${trial.error && html`<div class="foot"><${Trouble} error=${trial.error} again=${run.run}/></div>`}
    ${trial.stale && html`<div class="foot help">Answer of ${clock(run.at)}</div>`}
    ${depth && html`<${Ramp} depth=${depth}/>`}<${Words} answer=${answer}/>
    ${answer && !run.begun && !items.length && !NO_PLACE.has(answer.task) && html`<${Nothing} answer=${answer} params=${trial.given} setParams=${trial.setGiven} schema=${trial.schema}/>`}</div></section>`;
}

/** The server's time for each, on one scale. */
function Race({ trials }) {
  const totals = trials.map(({ run }) => (run.answer ? run.times.total : undefined));
  const [a, b] = totals;
  const most = Math.max(...totals.map((each) => each ?? 0), 1e-9);
  const factor = a && b ? Math.max(a, b) / Math.min(a, b) : 0;
  return html`<section class="sect"><h2>Server time</h2><ul class="race">${trials.map(({ chosen }, at) => html`<li key=${at} data-time=${SIDES[at]}>
      <span class="sw none">${SIDES[at].toUpperCase()}</span><span class="cut" title=${chosen.name}>${parted(chosen.name)[1]}</span><b>${totals[at] ? ms(totals[at]) : "–"}</b>
      <span class="meter"><i style=${{ width: `${(100 * (totals[at] ?? 0)) / most}%` }}></i></span></li>`)}</ul>
    ${factor > 0 && html`<p class="help">${factor < 1.05 ? "Both take as long." : `${(a > b ? "A" : "B")} takes ${factor.toFixed(1)} times as long.`} They run one after the other.</p>`}</section>`;
}

const score = (item) => (item ? (item.score === null ? "yes" : item.score.toFixed(2)) : "–");

/** What both found, and what one alone: a row each, with both scores. */
function Pairs({ pairs, hover, setHover }) {
  const both = pairs.filter((pair) => pair.a && pair.b).length;
  const only = (side) => pairs.filter((pair) => pair[side] && !pair[side === "a" ? "b" : "a"]).length;
  const on = ({ a, b }) => (a && a.n === hover.a) || (b && b.n === hover.b);
  return html`<section class="sect bare"><h2>${both} in both</h2><span class="quiet">${only("a")} in A alone, ${only("b")} in B alone</span></section>
    <ul class="found pairs" tabindex="-1"><li class="off head" aria-hidden="true"><span></span><span></span><span class="v">A</span><span class="v">B</span></li>
    ${pairs.map((pair) => { const item = pair.a ?? pair.b; const mark = { a: pair.a?.n ?? 0, b: pair.b?.n ?? 0 };
      return html`<li key=${pair.n} class=${`${item.k} ${on(pair) ? "on" : ""}`} tabindex="0" onMouseEnter=${() => setHover(mark)} onMouseLeave=${() => setHover(NOBODY)} onFocus=${() => setHover(mark)} onBlur=${() => setHover(NOBODY)}>
        <span class="sw">${pair.n}</span><span class="whole">${item.name}${pair.a && pair.b && pair.a.name !== pair.b.name ? html`<span class="quiet"> / ${pair.b.name}</span>` : ""}</span>
        <span class="v"><span class="sr">A </span>${score(pair.a)}</span><span class="v"><span class="sr">B </span>${score(pair.b)}</span></li>`; })}</ul>`;
}

/** A stage that is moved moves the other one. */
function link(event) {
  for (const stage of event.currentTarget.querySelectorAll(".stage")) {
    if (stage !== event.target) stage.scrollTo(event.target.scrollLeft, event.target.scrollTop);
  }
}

/** What is pointed at on one picture, and the same thing on the other. */
function useLinked(pairs) {
  const [hover, setHover] = useState(NOBODY);
  const mark = (side) => (n) => {
    const pair = n ? pairs.find((each) => each[side]?.n === n) : null;
    setHover(pair ? { a: pair.a?.n ?? 0, b: pair.b?.n ?? 0 } : NOBODY);
  };
  return { hover, setHover, mark };
}

function Given({ trials }) {
  const [side, setSide] = useState("a");
  const trial = trials[SIDES.indexOf(side)];
  const wrong = trials.find((each) => Object.keys(each.wrong).length);
  useEffect(() => { if (wrong) setSide(SIDES[trials.indexOf(wrong)]); }, [wrong && trials.indexOf(wrong)]);
  return html`<div class="tabs params-of"><${Tabs} label="Parameters of" tabs=${trials.map(({ chosen }, at) => [SIDES[at], `${SIDES[at].toUpperCase()} ${parted(chosen.name)[1]}`])} value=${side} onChange=${setSide}/></div>
    ${trial.noSchema && trial.noSchema.status !== 404 ? html`<div class="pad"><${Trouble} error=${trial.noSchema}/></div>` : null}
    ${trial.schema && html`<${Parameters} key=${`${side} ${trial.chosen.name}`} schema=${trial.schema} given=${trial.given} setGiven=${trial.setGiven} wrong=${trial.wrong}/>`}`;
}

/** Back to one model, with what it was given. */
function single(query, name) {
  const kept = [...query].filter(([key]) => key !== "with" && !key.startsWith(OTHER));
  go("try", { ...Object.fromEntries(kept), model: name });
}

export default function Compare() {
  const { query } = useRoute();
  const first = useModel();
  const second = useSecond(first);
  const { picture, take, pick, coming, error: wrongPicture, setError } = usePicture();
  const [auto, setAuto] = useAuto();
  const lane = useRef(null);
  lane.current ??= new Lane();
  const a = useTrial({ chosen: first, picture, auto, lane: lane.current });
  const b = useTrial({ chosen: second, picture, auto, prefix: OTHER, lane: lane.current });
  const trials = [a, b];
  const pairs = useMemo(() => paired(a.shown, b.shown), [a.shown, b.shown]);
  const { hover, setHover, mark } = useLinked(pairs);
  const [zoom, setZoom] = useState(1);
  const [scale, setScale] = useState(1);
  const { show, toggle, buttons } = useShow(a.task, b.task);
  const over = useDropped(take, setError);
  const run = () => { for (const trial of trials) trial.run.run(); };
  const step = (by) => { const at = pairs.findIndex((pair) => pair.a?.n === hover.a && pair.b?.n === hover.b); const next = pairs[(at + by + pairs.length) % pairs.length]; if (next) setHover({ a: next.a?.n ?? 0, b: next.b?.n ?? 0 }); };
  useKeys({
    run, Escape: () => { for (const trial of trials) trial.run.stop(); }, b: () => toggle("boxes"), l: () => toggle("labels"), o: () => toggle("fill"), "[": () => step(-1), "]": () => step(1),
    "+": () => setZoom((now) => Math.min(8, now * 1.5)), "-": () => setZoom((now) => Math.max(1, now / 1.5)), 0: () => setZoom(1),
  });
  const scored = [...a.items, ...b.items].filter((item) => item.score !== null).map((item, at) => ({ ...item, n: at + 1 }));
  const needs = trials.some((trial) => !trial.chosen.name || trial.needs.length > 0);
  const done = trials.every((trial) => trial.run.answer && !trial.run.begun);
  return html`
    <${Bar} title="Compare"><${Picker} models=${first.models} listed=${first.listed} value=${first.name} choose=${chooser(query, "model", "")}/>
      <${Picker} models=${second.models} listed=${second.listed} value=${second.name} label="With" choose=${chooser(query, "with", OTHER)}/><span class="grow"></span>
      <${Button} icon="close" class="wide" onClick=${() => single(query, first.name)}>One model<//><${Button} icon="close" label="One model" class="narrow" onClick=${() => single(query, first.name)}/><//>
    <div class=${`work versus fill ${over ? "over-drop" : ""}`}>
      <aside class="panel left" aria-label="Input"><div class="scroll" tabindex="-1">
        <section class="sect pictures"><div class="row between"><h2>Picture</h2>${picture && html`<${Named} picture=${picture}/>`}</div>
          <${Examples} task=${first.model?.task} chosen=${picture?.name} pick=${pick}/>${picture && html`<${Ways} take=${take} onError=${setError}/>`}
          ${wrongPicture && html`<p class="err" role="alert">${wrongPicture.message}</p>`}</section>
        <${Given} trials=${trials}/></div>
        <section class="sect end"><div class="row between"><span>Run on every change</span><${Switch} label="Run on every change" on=${auto} onChange=${setAuto}/></div>
          <${Button} primary class="full" disabled=${!picture || needs} onClick=${run}>Run both <kbd>Ctrl ↵</kbd><//></section>
      </aside>
      <section class="mid" aria-label="Pictures and code"><div class="toolbar">
        ${buttons.map(([name, text]) => html`<${Button} small key=${name} pressed=${show[name]} onClick=${() => toggle(name)}>${text}<//>`)}<span class="grow"></span>
        ${picture && html`<${Zoom} zoom=${zoom} setZoom=${setZoom} percent=${Math.round(scale * 100)}/>`}</div>
        ${picture ? html`<div class="sides" onScrollCapture=${link}>${trials.map((trial, at) => html`<${Side} key=${SIDES[at]} letter=${SIDES[at]} trial=${trial} picture=${picture} hover=${hover[SIDES[at]]} setHover=${mark(SIDES[at])} show=${show} zoom=${zoom} setScale=${at ? undefined : setScale}/>`)}</div>`
          : html`<div class="stagebox">${coming && html`<div class="running"><i></i></div>`}<${Empty} task=${first.model?.task} take=${take} pick=${pick} onError=${setError}/></div>`}
        <div class="sides codes">${trials.map((trial, at) => html`<${Code} key=${SIDES[at]} label=${`Code of ${SIDES[at].toUpperCase()}`} request=${{ model: trial.chosen.name, params: trial.given, file: picture?.name ?? "picture.jpg" }}/>`)}</div></section>
      <aside class="panel right" aria-label="Answers"><div class="scroll" tabindex="-1"><${Race} trials=${trials}/>
        ${scored.length > 0 && html`<${From} items=${scored} from=${a.from} setFrom=${(value) => amend({ from: value || undefined })}/>`}
        ${trials.some((trial) => trial.items.length > 0) && html`<${Pairs} pairs=${pairs} hover=${hover} setHover=${setHover}/>`}</div></aside>
    </div>
    <p class="sr" role="status">${done ? trials.map((trial, at) => `${SIDES[at].toUpperCase()}: ${trial.items.length} found in ${ms(trial.run.took)}. ${told(trial.shown)}`).join(" ") : ""}</p>`;
}
