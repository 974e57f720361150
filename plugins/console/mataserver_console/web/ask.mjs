// Ask: a conversation about a picture with a model that writes; each answer as it comes, with its tokens.
import { events, isAbort, may } from "./api.mjs";
import { GIVEN, answerTo, beginning, conversationOf, historyOf, mayBeLong, mostTold, replaced } from "./conversation.mjs";
import { sentence } from "./direction.mjs";
import { Code, WRITTEN } from "./code.mjs";
import { Button, Copy, Status, Trouble } from "./controls.mjs";
import { useDropped } from "./drops.mjs";
import { count } from "./format.mjs";
import { Bar } from "./frame.mjs";
import { html, useEffect, useRef, useState } from "./html.mjs";
import { useLoadTold } from "./loading.mjs";
import { Parameters, givenOf, wrongOf } from "./params.mjs";
import { NoModel, Picker } from "./picker.mjs";
import { Empty, Examples, Unseen, Ways } from "./picture.mjs";
import { amend, useRoute } from "./route.mjs";
import { refresh, useSource } from "./source.mjs";
import { useTalk } from "./talk.mjs";
import { useModel, usePicture } from "./try.mjs";
import { useSeconds } from "./runner.mjs";

const OWN = ["model", "prompt"];
const QUESTIONS = ["What is in the picture?", "Which text is in it?", "What stands out?"];

/** Ask once; `tell` gets the turn as it grows. `rest` of a turn is said by `conversation.mjs`. */
async function ask({ model, params, limit, history, picture, question, signal, ...rest }, tell) {
  const turn = { ...rest, question, model, limit, mark: picture.mark, of: picture.name, told: 0, asked: Date.now(), text: "", begun: performance.now(), first: 0, done: 0, usage: null, error: null, stopped: false };
  const change = (changes) => { Object.assign(turn, changes); tell({ ...turn }); };
  change({});
  try {
    const [answer, told] = await answerTo({ model, params: { ...params, prompt: question }, history, picture, signal, headers: { Accept: "text/event-stream" } });
    change({ told });
    for await (const { name, value } of events(answer)) {
      if (name === "token") change({ text: turn.text + value.text, first: turn.first || performance.now() });
      if (name === "result") change({ text: value.text, usage: value.usage ?? null, first: turn.first || performance.now(), done: performance.now() });
      if (name === "error") throw new Error(sentence(value.detail));
    }
    if (!turn.done) throw new Error("The answer ended before its end.");
  } catch (error) {
    change(isAbort(error) ? { stopped: true, done: performance.now() } : { error, done: performance.now() });
  }
}

const NEAR = 48;  // pixels: as good as at the end

/** Keep the end in sight while an answer is written, but not from who reads further up; a new question always. */
function useFollowing(end, number, text) {
  const follows = useRef(true);
  useEffect(() => {
    const look = () => {
      const box = end.current?.closest(".scroll").getBoundingClientRect();
      if (box) follows.current = end.current.getBoundingClientRect().top <= Math.min(innerHeight, box.bottom) + NEAR;
    };
    addEventListener("scroll", look, { capture: true, passive: true });
    return () => removeEventListener("scroll", look, { capture: true });
  }, []);
  const before = useRef(0);
  useEffect(() => {
    if (number > before.current) follows.current = true;
    before.current = number;
    if (number && follows.current) end.current?.scrollIntoView({ block: "nearest" });
  }, [number, text]);
}

/** Where an answer was cut off, if it was. */
function cut({ usage, limit, told }) {
  if (!usage?.truncated) return "";
  if (!limit || usage.completion_tokens >= limit) return "It was cut off at max_tokens.";
  return `It was cut off where the model's context ends.${told ? " A new conversation has room again." : ""}`;
}

function Counts({ turn, other, again }) {
  if (!turn.done || turn.error) return null;
  const seconds = (turn.done - turn.first) / 1000;
  const { usage } = turn;
  const said = [
    other && turn.model, turn.told > 0 && `told of ${count(turn.told, "earlier question")}`,
    usage && `${count(usage.prompt_tokens, "token")} in`, usage && `${usage.completion_tokens} out`,
    turn.first && `first word after ${((turn.first - turn.begun) / 1000).toFixed(1)} s`,
    usage && seconds > 0.05 && `${((usage.completion_tokens - 1) / seconds).toFixed(1)} tokens a second`,
  ].filter(Boolean).join(", ");
  return html`<span class="help row wrap"><span>${said}</span><span class="row nowrap">${turn.text && html`<${Copy} text=${turn.text} label="Copy the answer"/>`}${again && html`<${Button} small bare icon="again" label="Answer again" onClick=${again}/>`}</span></span>
    ${cut(turn) && html`<span class="help">${cut(turn)}</span>`}${turn.stopped && html`<span class="help">Stopped: what was written stays.</span>`}`;
}

/** A turn; `again` and `alone` ask its question once more, `alone` without what was said before. */
const Turn = ({ turn, before, gone, again, alone }) => html`${beginning(turn, before) && html`<li class="begins">${beginning(turn, before)}</li>`}<li class=${`turn ${gone ? "gone" : ""}`}><p class="question">${turn.question}</p>
  <div class="answer">${turn.text}${!turn.done && html`<span class="caret" aria-hidden="true"></span>`}</div>
  ${turn.error && html`<${Trouble} error=${turn.error} again=${again}>${alone && mayBeLong(turn.error) && html`<${Button} small onClick=${alone}>Ask without what was said before<//>`}<//>`}
  <${Counts} turn=${turn} other=${Boolean(before) && before.model !== turn.model} again=${again}/>${gone && html`<span class="help">Answered again: the model is not told of this answer.</span>`}</li>`;

/** What goes with the next question, and the choice to have nothing go with it. */
function With({ most, said, changed, isFirst, setFirst }) {
  if (!most) return html`<span class="help">${may("models:read") ? "Each question stands by itself: this model sees the picture and this question." : "Each question stands by itself: your key may not read what the model takes (models:read)."}</span>`;
  if (!said) return html`<span class="help">${changed ? "A new picture: a new conversation." : "The model is told what was said before."}</span>`;
  const full = said > most;
  const text = isFirst ? "A new conversation: the model is told of nothing before." : `The model is told of ${count(said, "earlier question")} and ${said === 1 ? "its answer" : "their answers"}.`;
  return html`<span class=${full && !isFirst ? "err" : "help wide"}>${full && !isFirst ? `This model takes ${count(most, "earlier question")}, and there are ${said}: begin a new conversation.` : text}</span>
    <${Button} small pressed=${isFirst} onClick=${() => setFirst(!isFirst)}>New conversation<//>`;
}

export default function Ask() {
  const { query } = useRoute();
  const chosen = useModel((model) => model.task === "vlm");
  const name = chosen.listed && chosen.known && !chosen.model ? chosen.models[0]?.model ?? "" : chosen.name;
  const { picture, take, pick, coming, error: wrongPicture, setError } = usePicture();
  const { data, error: unknown } = useSource(name && may("models:read") ? `v1/models/${encodeURIComponent(name)}?include=params` : null);
  const schema = data?.params && { ...data.params, properties: Object.fromEntries(Object.entries(data.params.properties).filter(([each]) => !GIVEN.includes(each))) };
  const given = givenOf(query, schema?.properties);
  const { turns, setTurns, words, setWords } = useTalk();
  const control = useRef(null);
  const end = useRef(null);
  const [isFirst, setFirst] = useState(false);
  const last = turns.at(-1);
  const most = mostTold(name, data?.params);
  const said = picture && most ? conversationOf(turns, picture.mark) : [];
  const told = isFirst ? [] : said;
  const full = told.length > most;
  const ready = Boolean(picture && name && !full && (data || unknown || !may("models:read")));  // else it is not known yet what the model takes
  const busy = Boolean(last && !last.done);
  const seconds = useSeconds(busy ? last.begun : 0);
  const load = useLoadTold(chosen.model, busy && seconds > 1);
  const over = useDropped(take, setError);
  useEffect(() => () => control.current?.abort(), []);
  const gone = replaced(turns);
  useFollowing(end, turns.length, last?.done || last?.text);  // its counts come at the end
  /** Ask; `history` is what the model is told of, `rest` says what of the turns before stays. */
  const put = async (question, history = told, rest = { isFirst }) => {
    if (!question.trim() || !ready || busy) return;
    control.current = new AbortController();
    setFirst(false);
    const at = turns.length;
    const asking = { model: name, params: given, limit: given.max_tokens ?? schema?.properties.max_tokens?.default, history: historyOf(history), picture, question: question.trim(), signal: control.current.signal, ...rest };
    await ask(asking, (turn) => setTurns((all) => [...all.slice(0, at), turn]));
    refresh("v1/models");
  };
  const putWords = () => { put(words); if (ready && !busy) setWords(""); };
  const again = (turn) => put(turn.question, said.filter((each) => each !== turn), { isFirst: Boolean(turn.isFirst), instead: turn.asked });
  const alone = (turn) => put(turn.question, [], { isFirst: true });
  const mayRepeat = (turn) => ready && turn === last && turn.mark === picture?.mark;
  const press = (event) => { if (event.key === "Enter" && !event.shiftKey && !event.isComposing) { event.preventDefault(); putWords(); } };
  const setGiven = (next) => {
    const changes = Object.fromEntries([...query.keys()].filter((each) => !OWN.includes(each)).map((each) => [each, undefined]));
    amend({ ...changes, ...Object.fromEntries(Object.entries(next).map(([each, value]) => [each, typeof value === "string" ? value : JSON.stringify(value)])) });
  };
  return html`<${Bar} title="Ask"><${Picker} models=${chosen.models} listed=${chosen.listed} value=${name} choose=${(model) => amend({ model })}/><span class="grow"></span>
      ${turns.length > 0 && html`<${Button} bare disabled=${busy} onClick=${() => setTurns([])}>Clear<//>`}<//>
    <div class=${`asking fill ${over ? "over-drop" : ""}`}><section class="mid" aria-label="Picture">${coming && html`<div class="running"><i></i></div>`}
        ${picture ? html`<div class="stage">${picture.unseen ? html`<${Unseen} name=${picture.name}/>` : html`<img class="whole" src=${picture.url} alt=${picture.name}/>`}</div>` : html`<${Empty} task="vlm" take=${take} pick=${pick} onError=${setError}/>`}
        ${picture && html`<section class="sect pictures"><${Examples} task="vlm" chosen=${picture.name} pick=${pick}/><${Ways} take=${take} onError=${setError}/></section>`}${wrongPicture && html`<p class="pad err" role="alert">${wrongPicture.message}</p>`}</section>
      <section class="talk" aria-label="Talk"><div class="scroll" tabindex="-1">
          ${chosen.none && !name && html`<div class="pad"><${NoModel} which="of the task vlm"/></div>`}
          ${name && !turns.length && html`<div class="pad stack-12"><h2>Ask about the picture</h2><p class="help">${picture ? "The answer is written as it comes. For example:" : "Take a picture first. Then, for example:"}</p>
            <div class="row wrap">${QUESTIONS.map((each) => html`<${Button} small key=${each} disabled=${!ready} onClick=${() => put(each)}>${each}<//>`)}</div></div>`}
          <div role="log" aria-busy=${String(busy)}><ol class="turns">${turns.map((turn, at) => html`<${Turn} key=${at} turn=${turn} before=${turns[at - 1]} gone=${Boolean(turn.text) && gone.has(turn.asked)} again=${mayRepeat(turn) ? () => again(turn) : undefined} alone=${mayRepeat(turn) && said.length ? () => alone(turn) : undefined}/>`)}</ol></div>
          ${busy && !last.text && seconds > 0.4 && html`<p class="pad quiet"><${Status} text=${load || `Looking at the picture, ${Math.floor(seconds)} s`}/></p>`}<div ref=${end}></div></div>
        <form class="sect end" onSubmit=${(event) => { event.preventDefault(); putWords(); }}><label class="sr" for="question">Question</label>
          <textarea id="question" class="field" rows="2" placeholder=${picture ? "What do you want to know about the picture?" : "Take a picture first"} value=${words} onInput=${(event) => setWords(event.target.value)} onKeyDown=${press}></textarea>
          <div class="row between"><span class="row wrap grow">${schema || !may("models:read") ? html`<${With} most=${most} said=${said.length} changed=${Boolean(last?.mark && last.mark !== picture?.mark)} isFirst=${isFirst} setFirst=${setFirst}/>` : ""}</span>
            ${busy ? html`<${Button} icon="stop" onClick=${() => control.current.abort()}>Stop<//>` : html`<${Button} primary type="submit" disabled=${!ready || !words.trim()}>Ask<//>`}</div></form>
        ${schema && Object.keys(schema.properties).length > 0 && html`<details class="more-params"><summary>Parameters</summary><${Parameters} key=${name} schema=${schema} given=${given} setGiven=${setGiven} wrong=${wrongOf(last?.error, schema)}/></details>`}
        <details class="more-params"><summary>Code</summary><${Code} made=${WRITTEN} request=${{ model: name, params: { ...given, ...(told.length && { history: historyOf(told) }), prompt: words || last?.question || QUESTIONS[0] }, file: picture?.name ?? "picture.jpg" }}/></details></section></div>`;
}
