// A form of a model's parameters, made from their schema (`?include=params`).
import { Button, Segments, Slider, Switch } from "./controls.mjs";
import { named } from "./direction.mjs";
import { html, useEffect, useId, useRef, useState } from "./html.mjs";
import { Icon } from "./icons.mjs";

const FEW = 4;
const LETTERS = 24;  // of all options: more do not fit beside each other
const MOST_OF_A_SLIDER = 100;

/** The part of a schema that says what a value is: references followed, `null` left out. */
export function meant(schema, defs = {}) {
  let found = schema;
  while (found.$ref) found = { ...defs[found.$ref.split("/").pop()], ...found, $ref: undefined };
  const options = (found.anyOf ?? found.oneOf)?.map((each) => meant(each, defs)).filter((each) => each.type !== "null");
  if (!options) return found;
  const best = options.find((each) => each.type === "array") ?? options[0];
  return { ...best, ...found, anyOf: undefined };
}

/** Which control a parameter has. */
export function kindOf(schema) {
  const { type, enum: options, items, prefixItems, minimum, maximum } = schema;
  const types = Array.isArray(type) ? type.filter((each) => each !== "null") : [type];
  if (options) {
    const texts = options.filter((each) => each !== null).map(String);
    return texts.length <= FEW && texts.join("").length <= LETTERS ? "choice" : "menu";
  }
  if (types.includes("boolean")) return "switch";
  if (types.includes("array")) return items?.type === "string" || (!Object.keys(items ?? {}).length && !prefixItems) ? "words" : "json";
  if (types.includes("number") || types.includes("integer")) {
    const near = minimum !== undefined && maximum !== undefined && maximum - minimum <= MOST_OF_A_SLIDER;
    return near ? "slider" : "number";
  }
  return types.includes("string") ? "text" : "json";
}

/** What the address says of the parameters. */
export function givenOf(query, properties) {
  const given = {};
  for (const name of Object.keys(properties ?? {})) {
    const text = query.get(name);
    if (text === null) continue;
    try { given[name] = JSON.parse(text); } catch { given[name] = text; }
  }
  return given;
}

const step = (schema) => (schema.type === "integer" ? 1 : schema.maximum - schema.minimum <= 2 ? 0.01 : 0.1);

/**
 * The text of a field while somebody writes in it: what it means so far, or its default, does not take its place.
 * `read` makes a value of the field, or null of one that is not done.
 */
function useWriting(value, set, read) {
  const [text, setText] = useState(/** @type {string | null} */ (null));
  const own = useRef(value);  // what this field made of its text
  useEffect(() => {
    if (value === own.current) return;
    own.current = value;
    setText(null);
  }, [value]);
  const onInput = ({ target }) => {
    setText(target.value);
    const next = read(target);
    if (next !== null) { own.current = next; set(next); }
  };
  return { text: value === own.current ? text : null, onInput, onBlur: () => setText(null) };
}

const numberOf = (field) => (field.validity.badInput ? null : field.value === "" ? undefined : Number(field.value));

function Number_({ id, name, schema, value, kind, set, wrong, told }) {
  const shown = value ?? schema.default ?? "";
  const { text, ...writes } = useWriting(value, set, numberOf);
  return html`<span class="label"><label for=${id}>${name}</label>
    <input id=${id} class=${`field short ${wrong ? "bad" : ""}`} type="number" inputmode="decimal" step="any" min=${schema.minimum} max=${schema.maximum}
      placeholder="–" value=${text ?? String(shown)} ...${writes} ...${told}/></span>
    ${kind === "slider" && html`<${Slider} label=${`${name}, slider`} min=${schema.minimum} max=${schema.maximum} step=${step(schema)}
      value=${shown === "" ? schema.minimum : shown} onInput=${set}/>`}`;
}

function Words({ id, name, value = [], set, wrong, told }) {
  const [text, setText] = useState("");
  const add = () => { const word = text.trim(); if (word) set([...value, word]); setText(""); };
  const press = (event) => {
    if (event.key === "Enter" && !event.ctrlKey && text.trim()) { event.preventDefault(); add(); }
    if (event.key === "Backspace" && !text && value.length) set(value.length > 1 ? value.slice(0, -1) : undefined);
  };
  const drop = (at) => { const left = value.filter((_, i) => i !== at); set(left.length ? left : undefined); };
  return html`<label class="label" for=${id}>${name}</label><div class=${`chips ${wrong ? "bad" : ""}`}>
    ${value.map((word, at) => html`<span class="chip" key=${word + at}>${word}<button type="button" aria-label=${`Remove ${named(word)}`} onClick=${() => drop(at)}><${Icon} name="close"/></button></span>`)}
    <input id=${id} class="bareinput add" placeholder="Add a word" value=${text} onInput=${(event) => setText(event.target.value)} onKeyDown=${press} onBlur=${add} ...${told}/></div>`;
}

function Json({ id, name, value, set: give, wrong, told }) {
  const [text, setText] = useState(value === undefined ? "" : JSON.stringify(value));
  const [bad, setBad] = useState(false);
  const own = useRef(value);  // what this field made of its text
  useEffect(() => {
    if (JSON.stringify(value) === JSON.stringify(own.current)) return;
    own.current = value;
    setText(value === undefined ? "" : JSON.stringify(value));
    setBad(false);
  }, [value]);
  const set = (next) => { own.current = next; give(next); };
  const change = (event) => {
    setText(event.target.value);
    try { set(event.target.value.trim() ? JSON.parse(event.target.value) : undefined); setBad(false); } catch { setBad(true); }
  };
  return html`<label class="label" for=${id}>${name}</label><input id=${id} class=${`field mono ${bad || wrong ? "bad" : ""}`} placeholder="[ … ]" value=${text} onInput=${change} ...${told} aria-invalid=${bad || wrong ? "true" : undefined}/>
    ${bad && html`<span class="err">This is not JSON yet.</span>`}`;
}

function Text({ id, name, value, schema, set, wrong, told }) {
  const { text, ...writes } = useWriting(value, set, (field) => field.value || undefined);
  const kept = { id, class: `field ${wrong ? "bad" : ""}`, value: text ?? value ?? schema.default ?? "", ...writes, ...told };
  return html`<label class="label" for=${id}>${name}</label>${name.endsWith("prompt") ? html`<textarea rows="3" ...${kept}></textarea>` : html`<input ...${kept}/>`}`;
}

function Choice({ id, name, value, schema, kind, set, told }) {
  const options = schema.enum.filter((each) => each !== null);
  const now = value ?? schema.default ?? "";
  if (kind === "choice") {
    return html`<span class="label">${name}</span><${Segments} label=${name} value=${now} onChange=${set} options=${options.map((each) => [each, String(each)])}/>`;
  }
  return html`<label class="label" for=${id}>${name}</label><select id=${id} class="field" value=${now} ...${told} onChange=${(event) => set(options.find((each) => String(each) === event.target.value))}>
    ${schema.default === undefined && html`<option value="">–</option>`}${options.map((each) => html`<option key=${each} value=${each}>${String(each)}</option>`)}</select>`;
}

const Toggle = ({ name, value, schema, set }) => html`<span class="label middle"><span>${name}</span><${Switch} label=${name} on=${value ?? schema.default ?? false} onChange=${set}/></span>`;

const CONTROLS = { slider: Number_, number: Number_, words: Words, choice: Choice, menu: Choice, switch: Toggle, text: Text, json: Json };

function help(schema) {
  const shown = typeof schema.default === "number" && !Number.isInteger(schema.default) ? schema.default.toFixed(2) : JSON.stringify(schema.default);
  return [schema.description, schema.default === undefined ? "" : `Default ${shown}.`].filter(Boolean).join(" ");
}

/** Text with what stands in backticks as code. */
const coded = (text) => text.split("`").map((part, at) => (at % 2 ? html`<code>${part}</code>` : part));

function Parameter({ name, schema, value, set, wrong }) {
  const id = useId();
  const kind = kindOf(schema);
  const Control = CONTROLS[kind];
  const told = { "aria-describedby": `${wrong ? `${id}-wrong ` : ""}${id}-help`, "aria-invalid": wrong ? "true" : undefined };
  return html`<div class="stack-4" data-param=${name}><${Control} id=${id} name=${name} schema=${schema} kind=${kind} value=${value} set=${set} wrong=${wrong} told=${told}/>
    ${wrong && html`<span class="err" role="alert" id=${`${id}-wrong`}>${wrong}</span>`}<span class="help" id=${`${id}-help`}>${coded(help(schema))}</span></div>`;
}

/** The sentence of a refusal that is about one parameter: its name and the rest. */
export function wrongOf(error, schema) {
  const [, name, said] = /^(?:params\.)?(\w+)[^:]*: (.*)$/.exec(error?.status === 422 ? error.message : "") ?? [];
  return name && schema?.properties?.[name] ? { [name]: said } : {};
}

/** Whether it is a file, or files: nobody writes these, encoded as text, into a field. */
const isFile = (schema) => Boolean(schema.contentEncoding ?? schema.items?.contentEncoding);

export function Parameters({ schema, given, setGiven, wrong = {} }) {
  const first = schema?.required ?? [];
  const written = (name) => given[name] !== undefined || first.includes(name) || !isFile(meant(schema.properties[name], schema.$defs));
  const names = Object.keys(schema?.properties ?? {}).filter(written);
  names.sort((a, b) => Number(first.includes(b)) - Number(first.includes(a)) || Number(b === "prompt") - Number(a === "prompt"));
  const set = (name) => (value) => {
    const next = { ...given, [name]: value };
    if (value === undefined) delete next[name];
    setGiven(next);
  };
  return html`<section class="sect params"><div class="row between"><h2>Parameters</h2>
    ${Object.keys(given).length > 0 && html`<${Button} small bare onClick=${() => setGiven({})}>Reset<//>`}</div>
    ${!names.length && html`<p class="help">This model takes none.</p>`}
    ${names.map((name) => html`<${Parameter} key=${name} name=${name} schema=${meant(schema.properties[name], schema.$defs)}
      value=${given[name]} set=${set(name)} wrong=${wrong[name]}/>`)}</section>`;
}
