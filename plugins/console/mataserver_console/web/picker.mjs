// The choice of a model: task, state, memory, and what loading one will cost.
import { KINDS, Note, State, steer } from "./controls.mjs";
import { parted, size } from "./format.mjs";
import { html, useEffect, useRef, useState } from "./html.mjs";
import { Icon } from "./icons.mjs";
import { address } from "./route.mjs";

export const Name = ({ name }) => { const [owner, own] = parted(name); return html`<span class="cut name"><span class="quiet wide">${owner}</span><b>${own}</b></span>`; };

function Option({ model, chosen, choose }) {
  const cost = model.memory_mb ? size(model.memory_mb) : model.size_mb ? `loads ${size(model.size_mb)}` : "";
  return html`<button type="button" role="option" aria-selected=${String(chosen)} tabindex="-1" onClick=${() => choose(model.model)}>
    <${Name} name=${model.model}/>${model.task ? html`<span class="tag">${model.task}</span>` : html`<span></span>`}<${State} kind=${model.error ? "bad" : KINDS[model.state] ?? "off"}>${model.state}<//>
    <span class="quiet num">${cost}</span></button>`;
}

/** A field for the name, for keys that may not list the models. */
function Typed({ value, choose, label, needed }) {
  return html`<label class="row grow"><span class="sr">${label}</span><input class="field typed" placeholder="Name of a model" value=${value} required=${needed}
    onChange=${(event) => choose(event.target.value.trim())}/></label>`;
}

/** What a page says that needs a model, before there is one. */
export const NoModel = ({ which = "" }) => html`<${Note}><span>No model${which && ` ${which}`} is registered yet. <a href=${address("models")}>Models</a> pulls one from the hub, and registers those that come with a package.</span><//>`;

const FEW = 8;  // models that need no filter
const MOST = 100;  // of the list: more are found by their letters

export function Picker({ models, listed = true, value, choose, label = "Model", needed = false }) {
  const [open, setOpen] = useState(false);
  const [words, setWords] = useState("");
  const box = useRef(null);
  useEffect(() => {
    if (!open) return undefined;
    box.current.querySelector("input, [aria-selected=true]")?.focus();
    const away = (event) => { if (!box.current?.contains(event.target)) setOpen(false); };
    addEventListener("pointerdown", away);
    return () => removeEventListener("pointerdown", away);
  }, [open, models.length > FEW]);  // the filter may come with the models
  if (!listed) return html`<${Typed} value=${value} choose=${choose} label=${label} needed=${needed}/>`;
  const model = models.find((each) => each.model === value);
  const shown = models.filter((each) => `${each.model} ${each.task} ${each.state}`.toLowerCase().includes(words.toLowerCase()));
  const press = (event) => {
    const writing = event.target.matches("input");
    if (event.key === "Enter" && writing && !event.isComposing) {
      event.preventDefault();  // nor does it send the form that the picker may stand in
      if (shown[0]) { close(); choose(shown[0].model); }
    }
    else if (!writing || !["Home", "End"].includes(event.key)) steer(event, box.current, close);
  };
  const close = () => { setOpen(false); setWords(""); box.current.querySelector("button").focus(); };
  return html`<div class="pickbox" ref=${box} onKeyDown=${(event) => open && press(event)}>
    <button type="button" class="picker" aria-haspopup="listbox" aria-expanded=${String(open)} onClick=${() => setOpen(!open)}>
      <span class="sr">${label}: </span>${value ? html`<${Name} name=${value}/>` : html`<span>Choose a model</span>`}
      ${model && html`<span class="tag wide">${model.task}</span><span class="wide"><${State} kind=${model.error ? "bad" : KINDS[model.state]}>${model.state}<//></span>
        ${model.memory_mb && html`<span class="quiet wide">${size(model.memory_mb)}</span>`}`}<${Icon} name="down"/></button>
    ${open && html`<div class="menu models">
      ${models.length > FEW && html`<input class="field" placeholder="Name, task or state" aria-label="Filter" value=${words} onInput=${(event) => setWords(event.target.value)}/>`}
      <div role="listbox" aria-label="Models">${shown.slice(0, MOST).map((each) => html`<${Option} key=${each.model} model=${each} chosen=${each.model === value} choose=${(name) => { close(); choose(name); }}/>`)}</div>
      ${shown.length > MOST && html`<p class="help pad">The first ${MOST} of ${shown.length.toLocaleString("en")}: letters of the name find the others.</p>`}
      ${!shown.length && html`<p class="help pad">${models.length ? "No such model here." : "None is registered yet: pull one on the page Models."}</p>`}</div>`}</div>`;
}

/** The choice in a form, which has it by `name`; the first of the models is chosen until another one is. */
export function ModelField({ models, listed = true, name = "model" }) {
  const [chosen, choose] = useState("");
  const value = listed ? (models.find((each) => each.model === chosen) ?? models[0])?.model ?? "" : chosen;
  return html`<div class="stack-4"><span class="label" aria-hidden="true">Model</span><${Picker} models=${models} listed=${listed} value=${value} choose=${choose} needed/>
    <input type="hidden" name=${name} value=${value}/></div>`;
}
