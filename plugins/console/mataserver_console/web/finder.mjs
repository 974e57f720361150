// Ctrl+K: finds models, pages and actions by name. `?`: the keys, and whether single letters are some.
import { may, who } from "./api.mjs";
import { useCell } from "./cell.mjs";
import { Dialog, State, Switch, KINDS } from "./controls.mjs";
import { html, useEffect, useId, useRef, useState } from "./html.mjs";
import { choice, letters } from "./kept.mjs";
import { signOut } from "./login.mjs";
import { go } from "./route.mjs";
import { useSource } from "./source.mjs";
import { THEMES, setTheme } from "./theme.mjs";

const MOST = 50;
const KEYS = [
  ["Ctrl+K", "Find a model, a page or an action"], ["?", "These keys"], ["g then t a s l j f m", "Try, Ask, Segment, Live, Jobs, Fleet, Models"],
  ["Ctrl+Enter Esc", "Run, stop"], ["b l o", "Boxes, labels, fill"], ["[ ]", "Previous result, next result"], ["+ - 0", "Zoom"], ["d", "Held: the picture below a depth map"],
  ["1 2 3 n z", "On Segment: the tools, a new object, undo"], [", .", "On Segment's video: previous frame, next frame"], ["Space", "On Live: stop"],
];

/** All that can be found: what it is called, what kind it is, and what choosing it does. */
function useThings(pages, keys) {
  const models = useSource(may("models:read") ? "v1/models" : null, 15).data ?? [];
  const me = useCell(who);
  return [
    ...pages.filter((page) => !page.needs || may(page.needs)).map((page) => ({ name: page.title, kind: "page", act: () => go(page.key) })),
    ...models.map((model) => ({ name: model.model, kind: model.task, model, act: () => go(model.task === "vlm" ? "ask" : "try", { model: model.model }) })),
    ...THEMES.map((theme) => ({ name: `Theme: ${theme}`, kind: "action", act: () => setTheme(theme) })),
    { name: "Keys", kind: "action", act: keys },
    ...(me?.csrf ? [{ name: "Sign out", kind: "action", act: signOut }] : []),
  ];
}

export function Finder({ pages, close, keys }) {
  const [words, setWords] = useState("");
  const [at, setAt] = useState(0);
  const list = useRef(null), id = useId();
  const sought = words.toLowerCase().split(/\s+/).filter(Boolean);
  const found = useThings(pages, keys).filter((each) => sought.every((word) => `${each.name} ${each.kind}`.toLowerCase().includes(word)));
  const shown = found.slice(0, MOST), now = Math.min(at, shown.length - 1);
  useEffect(() => { list.current.children[now]?.scrollIntoView({ block: "nearest" }); }, [now]);
  const choose = (each) => { close(); each.act(); };
  const press = (event) => {
    const by = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (by && shown.length) setAt((now + by + shown.length) % shown.length);
    else if (event.key === "Enter" && shown[now] && !event.isComposing) choose(shown[now]);
    else return;
    event.preventDefault();
  };
  return html`<${Dialog} title="Find" onClose=${close}><div><input class="field" role="combobox" aria-label="A model, a page or an action" aria-expanded="true" aria-controls=${id}
      aria-activedescendant=${shown.length ? `${id}-${now}` : undefined} placeholder="A model, a page or an action" value=${words} onInput=${(event) => { setWords(event.target.value); setAt(0); }} onKeyDown=${press}/></div>
    <div class="menulist listed" ref=${list} id=${id} role="listbox" aria-label="Found">${shown.map((each, i) => html`<div key=${`${each.kind} ${each.name}`} id=${`${id}-${i}`} role="option" aria-selected=${String(i === now)} onClick=${() => choose(each)}>
      <span class="cut grow">${each.name}</span>${each.model && html`<${State} kind=${each.model.error ? "bad" : KINDS[each.model.state]}>${each.model.state}<//>`}<span class="tag">${each.kind}</span></div>`)}</div>
    <p class="help" role="status">${!shown.length ? "Nothing here is called so." : found.length > MOST ? `The first ${MOST} of ${found.length.toLocaleString("en")}: more letters find fewer.` : ""}</p><//>`;
}

export function Keys({ close }) {
  const [on, setOn] = useState(letters());
  const change = (next) => { choice.set("letters", next ? null : "no"); setOn(next); };
  return html`<${Dialog} title="Keys" onClose=${close}><dl class="facts keys">${KEYS.map(([key, what]) => [html`<dt key=${key}>${key.split(" ").map((each) => (each === "then" ? " then " : html`<kbd>${each}</kbd> `))}</dt>`, html`<dd>${what}</dd>`])}</dl>
    <div class="row between"><span>Single letters, digits and signs</span><${Switch} label="Single letters, digits and signs" on=${on} onChange=${change}/></div>
    <p class="help">They do nothing while a field has the focus. Where they are off, Ctrl+K finds this list.</p><//>`;
}
