// Buttons, switches, tabs, menus, notes: what every page is made of.
import { send } from "./api.mjs";
import { html, useEffect, useId, useRef, useState } from "./html.mjs";
import { Icon } from "./icons.mjs";

export function Button({ icon, label, small, bare, primary, danger, pressed, class: more = "", children, ...rest }) {
  const alone = icon && !children;
  const kinds = { small, bare, primary, danger, icon: alone };
  const names = ["btn", ...Object.keys(kinds).filter((name) => kinds[name]), more].join(" ");
  return html`<button type="button" class=${names} aria-label=${label} title=${alone ? label : undefined}
    aria-pressed=${pressed === undefined ? undefined : String(pressed)} ...${rest}>
    ${icon && html`<${Icon} name=${icon}/>`}${children}</button>`;
}

export const Switch = ({ on, label, onChange }) => html`
  <button type="button" class="switch" role="switch" aria-checked=${String(on)} aria-label=${label} onClick=${() => onChange(!on)}></button>`;

/** A choice of few, as buttons beside each other. */
export const Segments = ({ label, options, value, onChange }) => html`
  <div class="seg" role="group" aria-label=${label}>
    ${options.map(([key, text]) => html`<button type="button" key=${key} aria-pressed=${String(key === value)} onClick=${() => onChange(key)}>${text}</button>`)}
  </div>`;

/** Tabs of which arrows choose, as the ARIA practices have it. */
export function Tabs({ label, tabs, value, onChange }) {
  const move = (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    const at = tabs.findIndex(([key]) => key === value);
    const next = tabs[(at + step + tabs.length) % tabs.length][0];
    onChange(next);
    event.currentTarget.querySelector(`[data-tab="${next}"]`)?.focus();
    event.preventDefault();
  };
  return html`<div class="row tl" role="tablist" aria-label=${label} onKeyDown=${move}>
    ${tabs.map(([key, text]) => html`<button type="button" role="tab" key=${key} data-tab=${key}
      aria-selected=${String(key === value)} tabindex=${key === value ? 0 : -1} onClick=${() => onChange(key)}>${text}</button>`)}
  </div>`;
}

const READ = 5000;  // milliseconds: what changes more often is not read out each time

/** A text that changes every five seconds at most: for what is read out. */
export function useSlow(/** @type {string} */ text) {
  const [said, setSaid] = useState(text);
  const newest = useRef(text), at = useRef(text ? performance.now() : -READ);
  newest.current = text;
  useEffect(() => {
    if (text === said) return undefined;
    const timer = setTimeout(() => { at.current = performance.now(); setSaid(newest.current); }, Math.max(0, at.current + READ - performance.now()));
    return () => clearTimeout(timer);
  }, [text, said]);
  return said;
}

/** What goes on, as it changes; it is read out now and then. */
export const Status = ({ text, class: kind = "" }) => html`<span class=${kind}><span aria-hidden="true">${text}</span><span class="sr" role="status">${useSlow(text)}</span></span>`;

export const State = ({ kind, children }) => html`<span class=${`state ${kind}`}>${children}</span>`;
export const KINDS = { ready: "ok", active: "ok", idle: "ok", loading: "busy", pulling: "busy", unloaded: "off", evicted: "off" };

/** A slider with its field: both hold one number. */
export function Slider({ value, min, max, step, label, onInput }) {
  const at = max > min ? ((value - min) / (max - min)) * 100 : 0;
  return html`<input type="range" min=${min} max=${max} step=${step} value=${value} aria-label=${label}
    style=${{ "--at": `${Math.max(0, Math.min(100, at))}%` }} onInput=${(event) => onInput(Number(event.target.value))}/>`;
}

export function Note({ kind = "", children }) {
  return html`<div class=${`note ${kind}`} role=${kind === "bad" ? "alert" : undefined}>
    ${kind && html`<${Icon} name="warn"/>`}<div class="grow stack-4">${children}</div></div>`;
}

/** What the server refused: its sentence, what to do, the request's id. */
/** A picture of the server's: one that did not come because the session was over comes after the next sign-in. */
export function Shown({ src, ...rest }) {
  const tried = useRef("");
  useEffect(() => { tried.current = ""; }, [src]);  // another picture since
  const fail = (event) => {
    const image = event.currentTarget;
    if (tried.current === src) return;
    tried.current = src;
    send(src).then(() => { if (tried.current === src) image.src = src; }, () => {});
  };
  return html`<img ...${rest} src=${src} onError=${fail}/>`;
}

export function Trouble({ error, again, children }) {
  const [left, setLeft] = useState(error.wait ?? 0);
  useEffect(() => {
    setLeft(error.wait ?? 0);
    if (!error.wait) return undefined;
    const timer = setInterval(() => setLeft((seconds) => Math.max(0, seconds - 1)), 1000);
    return () => clearInterval(timer);
  }, [error]);
  return html`<${Note} kind="bad">
    <span>${error.message}</span>
    ${(again || children) && html`<div class="row wrap">${children}${again && html`<${Button} small onClick=${again}>
      ${left ? `Try again, better in ${left} s` : "Try again"}<//>`}</div>`}
    ${error.id && html`<span class="row help"><span class="nowrap">Request <code>${error.id.slice(0, 12)}</code></span><${Copy} text=${error.id} label="Copy the request's id"/></span>`}
  <//>`;
}

export function Copy({ text, label = "Copy", children, small = true }) {
  const [done, setDone] = useState(false);
  const copy = async () => {
    await put(typeof text === "function" ? text() : text);
    setDone(true);
    setTimeout(() => setDone(false), 1500);
  };
  return html`<${Button} small=${small} bare icon="copy" label=${children ? undefined : label} onClick=${copy}>
    ${children && (done ? "Copied" : children)}<//>${!children && done && html`<span role="status">Copied</span>`}`;
}

/** Write to the clipboard, over plain HTTP from elsewhere too, where a page has none. */
export async function put(text) {
  if (navigator.clipboard) return navigator.clipboard.writeText(text);
  const field = Object.assign(document.createElement("textarea"), { value: text, className: "sr" });
  const dialogs = document.querySelectorAll("dialog:modal");
  (dialogs[dialogs.length - 1] ?? document.body).append(field);  // all beside an open dialog is inert
  field.select();
  document.execCommand("copy");
  field.remove();
  return undefined;
}

/** A button that opens a list of actions: `[text, action, danger]`. */
export function Menu({ label, actions, icon = "more" }) {
  const [open, setOpen] = useState(false);
  const box = useRef(null);
  useEffect(() => {
    if (!open) return undefined;
    box.current.querySelector("[role=menuitem]")?.focus();
    const away = (event) => { if (!box.current?.contains(event.target)) setOpen(false); };
    addEventListener("pointerdown", away);
    return () => removeEventListener("pointerdown", away);
  }, [open]);
  const close = () => { setOpen(false); box.current.querySelector("button").focus(); };
  return html`<div class="menubox" ref=${box} onKeyDown=${(event) => open && steer(event, box.current, close)}>
    <${Button} small bare icon=${icon} label=${label} aria-haspopup="menu" aria-expanded=${String(open)} onClick=${() => setOpen(!open)}/>
    ${open && html`<div class="menu" role="menu" aria-label=${label}>
      ${actions.map(([text, action, danger]) => html`<button type="button" role="menuitem" key=${text} tabindex="-1"
        class=${danger ? "danger" : ""} onClick=${() => { close(); action(); }}>${text}</button>`)}</div>`}
  </div>`;
}

/** Arrows, Home, End and Escape in a list that is open. */
export function steer(event, box, close) {
  const items = [...box.querySelectorAll("[role=menuitem], [role=option]")];
  const at = items.indexOf(document.activeElement);
  const to = { ArrowDown: at + 1, ArrowUp: at < 0 ? items.length - 1 : at - 1, Home: 0, End: items.length - 1 }[event.key];
  if (event.key === "Escape" || event.key === "Tab") close();
  else if (to !== undefined) items[(to + items.length) % items.length]?.focus();
  else return;
  if (event.key !== "Tab") event.preventDefault();
  event.stopPropagation();
}

/** A dialog that keeps the focus and gives it back. */
export function Dialog({ title, onClose, children }) {
  const box = useRef(null);
  useEffect(() => {
    box.current.showModal();
    box.current.querySelector(":scope > :not(header) :is(input:not([type=hidden]), select, textarea, .picker):not([tabindex='-1'])")?.focus();  // the browser takes the button that closes it
    return () => box.current?.close();
  }, []);
  return html`<dialog ref=${box} class="dialog" aria-label=${title} onCancel=${(event) => { event.preventDefault(); onClose?.(); }}>
    <header class="row between"><h2>${title}</h2>${onClose && html`<${Button} small bare icon="close" label="Close" onClick=${onClose}/>`}</header>
    ${children}</dialog>`;
}

/** A dangerous action asks once, in place, and names its effect. The focus is on what keeps all as it is, and comes back. */
export function Sure({ text, effect, action, ...rest }) {
  const [asked, setAsked] = useState(false);
  const box = useRef(null), before = useRef(false), id = useId();
  useEffect(() => {
    if (asked !== before.current) [...box.current.querySelectorAll("button")].at(-1)?.focus();
    before.current = asked;
  }, [asked]);
  return html`<span class="asks" ref=${box}>${asked ? html`<span class="help" id=${id}>${effect}</span>
    <${Button} small danger aria-describedby=${id} onClick=${() => { setAsked(false); action(); }}>${text}<//>
    <${Button} small bare aria-describedby=${id} onClick=${() => setAsked(false)}>Keep<//>` : html`<${Button} ...${rest} onClick=${() => setAsked(true)}>${text}<//>`}</span>`;
}
