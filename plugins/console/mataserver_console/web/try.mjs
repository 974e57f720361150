// Try: a picture and parameters at the left, what was found on it in the middle, in words at the right.
import { may } from "./api.mjs";
import { Code } from "./code.mjs";
import { Button, Menu, Switch, Tabs, Trouble } from "./controls.mjs";
import { paint } from "./depth.mjs";
import { useDropped } from "./drops.mjs";
import { drawn, save } from "./exporting.mjs";
import { clock, count, ms } from "./format.mjs";
import { Bars, Found, From, Json, Lines, Times } from "./found.mjs";
import { Bar } from "./frame.mjs";
import { html, useEffect, useRef, useState } from "./html.mjs";
import { choice, kept } from "./kept.mjs";
import { Parameters } from "./params.mjs";
import { NoModel, Picker } from "./picker.mjs";
import { Empty, Examples, Named, Ways, exampleOf, pictureOf, remember } from "./picture.mjs";
import { told } from "./results.mjs";
import { amend, go, useRoute } from "./route.mjs";
import { useSource } from "./source.mjs";
import { Stage, Zoom } from "./stage.mjs";
import { Busy, Nothing, Ramp, useKeys, useShow, useTrial } from "./trial.mjs";

const FIRST = ["opencv-faces", "opencv-qr", "rapidocr"];

/**
 * The model that the address names, or one that is a good beginning.
 * @param {(model: any) => boolean} [fits] which models may be chosen
 */
export function useModel(fits = () => true) {
  const { query } = useRoute();
  const { data, error } = useSource(may("models:read") ? "v1/models" : null, 5);
  const models = (data ?? []).filter(fits);
  const first = FIRST.find((name) => models.some((each) => each.model === name)) ?? models[0]?.model ?? "";
  const name = query.get("model") ?? first;
  return { name, models, listed: may("models:read"), error, known: Boolean(data) || !may("models:read"), none: Boolean(data) && !models.length, model: models.find((each) => each.model === name) };
}

/** Whether a change runs the model again, as this browser was told the last time. @returns {[boolean, (on: boolean) => void]} */
export function useAuto() {
  const [auto, setAuto] = useState(choice.get("auto") !== "no");
  return [auto, (on) => { choice.set("auto", on ? "yes" : "no"); setAuto(on); }];
}

/** The picture of this visit: the one that was kept, or that is taken. */
export function usePicture() {
  const [picture, setPicture] = useState(null);
  const [error, setError] = useState(null);
  useEffect(() => {
    kept("picture").then((found) => found && pictureOf(found.blob, found.name, found.mark)).then((found) => found && setPicture((now) => now ?? found));
  }, []);
  const [coming, setComing] = useState(false);
  const turn = useRef(0);  // a picture that takes long to come does not replace one that was chosen later
  const come = async (made, all = 1) => {
    const own = turn.current += 1;
    setError(null);
    setComing(true);
    try {
      const found = await made;
      if (own !== turn.current) URL.revokeObjectURL(found.url);
      else {
        setPicture(remember(found));
        if (all > 1) setError(new Error(`This is the first of ${all.toLocaleString("en")} files. Jobs runs a model over all of them.`));
      }
    } catch (failure) { if (own === turn.current) setError(failure); }
    if (own === turn.current) setComing(false);
  };
  const take = (blob, name, all) => come(pictureOf(blob, name), all?.length);
  const pick = (name) => come(exampleOf(name));
  useEffect(() => () => { if (picture?.url) URL.revokeObjectURL(picture.url); }, [picture]);
  return { picture, take, pick, coming, error, setError };
}

function Answer({ answer, items, shown, hover, setHover, from, setFrom, outlines, times, error, run }) {
  const [tab, setTab] = useState("results");
  const scored = items.some((item) => item.score !== null) && answer?.task !== "classify";
  const hidden = items.length - shown.length;
  const said = !answer || ["depth", "embed"].includes(answer.task) ? "" : answer.text !== undefined && answer.task === "vlm" ? (answer.usage ? count(answer.usage.completion_tokens, "token") : "") : `${shown.length} found${hidden ? `, ${hidden} hidden` : ""}`;
  return html`<aside class="panel right" aria-label="Answer">
    <div class="tabs"><${Tabs} label="Answer" tabs=${[["results", "Results"], ["json", "JSON"]]} value=${tab} onChange=${setTab}/><span class="grow"></span>
      <span class="quiet middle" role="status">${said}</span></div>
    ${error && html`<div class="pad"><${Trouble} error=${error} again=${run}>${error.status === 413 && html`<span>Make the picture smaller, or raise <code>max_body_mb</code>.</span>`}<//></div>`}
    <div class="scroll" tabindex="-1">
    ${!answer && !error && html`<p class="pad help">${tab === "json" ? "The answer as it comes, for programs." : "What the model finds is listed here, linked with the picture."}</p>`}
    ${tab === "json" ? answer && html`<${Json} value=${answer}/>` : answer && html`
      ${scored && items.length > 0 && html`<${From} items=${items} from=${from} setFrom=${setFrom}/>`}
      ${answer.task === "vlm" && html`<p class="pad said">${answer.text}</p>`}
      ${answer.task === "embed" && html`<p class="pad said">A vector of ${answer.embedding.length} numbers, of length 1.</p>`}
      ${answer.task === "depth" && html`<p class="pad said">A map of ${answer.depth_shape[1]} × ${answer.depth_shape[0]} values. Point at the picture to read one; a click keeps it.</p>`}
      ${answer.task === "ocr" ? html`<${Lines} items=${shown} text=${shown.map((item) => item.name).join("\n")} hover=${hover} setHover=${setHover}/>`
        : answer.task === "classify" ? html`<${Bars} items=${items}/>`
        : html`<${Found} items=${items} shown=${shown} hover=${hover} setHover=${setHover} from=${from} outlines=${outlines}/>`}`}
    </div><${Times} times=${times}/></aside>`;
}

export default function Try() {
  const { query } = useRoute();
  const chosen = useModel();
  const { picture, take, pick, coming, error: wrongPicture, setError } = usePicture();
  const [auto, setAuto] = useAuto();
  const trial = useTrial({ chosen, picture, auto });
  const { schema, noSchema, given, setGiven, needs, run, items, shown, depth, outlines, from, task } = trial;
  const [hover, setHover] = useState(0);
  const [zoom, setZoom] = useState(1);
  const [scale, setScale] = useState(1);
  const stage = useRef(null);
  const { show, toggle, buttons } = useShow(task);
  const over = useDropped(take, setError);
  const choose = (name) => { setZoom(1); amend({ ...Object.fromEntries([...query.keys()].map((each) => [each, undefined])), model: name }); };
  const compare = () => go("compare", { ...Object.fromEntries(query), model: chosen.name });
  const step = (by) => setHover((now) => shown[(shown.findIndex((item) => item.n === now) + by + shown.length) % shown.length]?.n ?? 0);
  const bigger = (factor) => setZoom((now) => Math.max(1, Math.min(8, now * factor)));
  useKeys({
    run: run.run, Escape: run.stop, b: () => toggle("boxes"), l: () => toggle("labels"), o: () => toggle("fill"), "[": () => step(-1), "]": () => step(1),
    "+": () => bigger(1.5), "-": () => bigger(1 / 1.5), 0: () => setZoom(1),
  });
  const download = async () => {
    const map = depth && show.map && document.createElement("canvas");
    if (map) paint(map, depth);
    save(await drawn(picture, shown, show, map), `${picture.name.replace(/\.\w+$/, "")}-${task}.png`);
  };
  const downloads = [["Picture with results", download], ["JSON", () => save(new Blob([JSON.stringify(run.answer, null, 2)], { type: "application/json" }), `${picture.name.replace(/\.\w+$/, "")}.json`)]];
  return html`
    <${Bar} title="Try"><${Picker} models=${chosen.models} listed=${chosen.listed} value=${chosen.name} choose=${choose}/><span class="grow"></span>
      ${chosen.models.length > 1 && html`<${Button} icon="compare" class="wide" onClick=${compare}>Compare<//><${Button} icon="compare" label="Compare" class="narrow" onClick=${compare}/>`}
      ${run.answer && html`<div class="row">${picture.unseen ? null : html`<${Button} icon="download" class="wide" onClick=${download}>Download<//>`}<${Menu} label="Downloads" actions=${picture.unseen ? downloads.slice(1) : downloads}/></div>`}<//>
    <div class=${`work fill ${over ? "over-drop" : ""}`}>
      <aside class="panel left" aria-label="Input"><div class="scroll" tabindex="-1">
        <section class="sect pictures"><div class="row between"><h2>Picture</h2>${picture ? html`<${Named} picture=${picture}/>` : html`<span class="quiet">none yet</span>`}</div>
          ${picture && html`<${Examples} task=${chosen.model?.task} chosen=${picture.name} pick=${pick}/><${Ways} take=${take} onError=${setError}/>`}
          ${wrongPicture && html`<p class="err" role="alert">${wrongPicture.message}</p>`}</section>
        ${noSchema && noSchema.status !== 404 && noSchema.message !== trial.error?.message ? html`<div class="pad"><${Trouble} error=${noSchema}/></div>` : null}
        ${schema && html`<${Parameters} key=${chosen.name} schema=${schema} given=${given} setGiven=${setGiven} wrong=${trial.wrong}/>`}</div>
        <section class="sect end"><div class="row between"><span>Run on every change</span><${Switch} label="Run on every change" on=${auto} onChange=${setAuto}/></div>
          <${Button} primary class="full" disabled=${!picture || !chosen.name || needs.length > 0} onClick=${run.run}>Run <kbd>Ctrl ↵</kbd><//></section>
      </aside>
      <section class="mid" aria-label="Picture and code"><div class="toolbar">
        ${buttons.map(([name, text]) => html`<${Button} small key=${name} pressed=${show[name]} onClick=${() => toggle(name)}>${text}<//>`)}<span class="grow"></span>
        ${picture && html`<${Zoom} zoom=${zoom} setZoom=${setZoom} percent=${Math.round(scale * 100)} full=${() => stage.current?.requestFullscreen?.()}/>`}</div>
        <div class="stagebox">${coming && html`<div class="running"><i></i></div>`}${picture ? html`<${Stage} picture=${picture} items=${shown} hover=${hover} setHover=${setHover} show=${show} depth=${depth} old=${trial.old}
          zoom=${zoom} onScale=${setScale} stage=${stage}/>` : html`<${Empty} task=${chosen.model?.task} take=${take} pick=${pick} onError=${setError}/>`}
          <${Busy} run=${run} seconds=${trial.seconds} model=${chosen.model}/></div>
        ${picture?.unseen && html`<div class="foot help">This browser cannot show this picture itself.${run.answer ? ` The server read it.${picture.known ? "" : " How large it is cannot be told here, so what was found is only listed."}` : ""}</div>`}
        ${chosen.none && html`<div class="foot"><${NoModel}/></div>`}
        ${trial.stale && html`<div class="foot help">Answer of ${clock(run.at)}</div>`}
        ${depth && html`<${Ramp} depth=${depth}/>`}
        ${run.answer && !run.begun && !items.length && !depth && !["vlm", "embed"].includes(run.answer.task) && html`<${Nothing} answer=${run.answer} params=${given} setParams=${setGiven} schema=${schema}/>`}
        <${Code} request=${{ model: chosen.name || "org/name", params: given, file: picture?.name ?? "picture.jpg" }}/></section>
      <${Answer} answer=${run.answer} items=${items} shown=${shown} hover=${hover} setHover=${setHover} from=${from} setFrom=${(value) => amend({ from: value || undefined })}
        outlines=${outlines} times=${run.times} error=${trial.error} run=${run.run}/>
    </div>
    <p class="sr" role="status">${run.answer && !run.begun ? `${["depth", "embed", "vlm"].includes(run.answer.task) ? "Answered" : `${items.length} found`} in ${ms(run.took)}. ${told(shown)}` : ""}</p>`;
}
