// A picture that takes clicks and drags, and arrows with Enter, and the tools that say what they mean.
import { Button, Slider } from "./controls.mjs";
import { html, useLayoutEffect, useRef, useState } from "./html.mjs";
import { Icon } from "./icons.mjs";
import { letters } from "./kept.mjs";
import { Unseen } from "./picture.mjs";
import { useFit } from "./stage.mjs";

const STEP = 0.01;
const DRAG = 5;
const LEAST = 0.005;
/** @type {[number, number]} */
const MIDDLE = [0.5, 0.5];
const TOOLS = [["add", "Add", "plus", "1"], ["remove", "Remove", "minus", "2"], ["box", "Box", "box", "3"]];
const within = (value) => Math.max(0, Math.min(1, value));

/** The path of a box in shares of a picture. */
export const around = ([x1, y1, x2, y2], width, height) => `M${x1 * width} ${y1 * height}H${x2 * width}V${y2 * height}H${x1 * width}Z`;

/** The tool that is chosen, by keys too; `more` are other keys of the page. */
export function useTool(more) {
  const [tool, setTool] = useState("add");
  useLayoutEffect(() => {
    const press = (event) => {
      if (!letters() || event.target.closest("input, textarea, select, dialog") || event.ctrlKey || event.metaKey || event.altKey) return;
      const [chosen] = TOOLS.find((each) => each[3] === event.key) ?? [];
      if (chosen) setTool(chosen); else more[event.key]?.();
    };
    addEventListener("keydown", press);
    return () => removeEventListener("keydown", press);
  });
  return [tool, setTool];
}

export function Tools({ tool, setTool, undo, opacity, setOpacity }) {
  return html`<div class="toolbar" role="group" aria-label="Tools">
    ${TOOLS.map(([key, text, icon, letter]) => html`<${Button} small key=${key} icon=${icon} pressed=${tool === key} onClick=${() => setTool(key)}>${text}<kbd>${letter}</kbd><//>`)}
    <span class="rule"></span><${Button} small bare icon="undo" label="Take back" disabled=${!undo} onClick=${undo}/><span class="grow"></span>
    <label class="row wide opacity"><span class="soft">Opacity</span><${Slider} label="Opacity" min=${0} max=${1} step=${0.02} value=${opacity} onInput=${setOpacity}/></label></div>`;
}

/** Where somebody pointed: at the object, or beside it. */
export function Marks({ points, width, height }) {
  return points.map(([x, y, inside], at) => html`<span key=${at} class=${`point ${inside ? "" : "out"}`} style=${{ transform: `translate(${x * width}px, ${y * height}px)` }}><${Icon} name=${inside ? "plus" : "minus"}/></span>`);
}

/** What pointing does: a phone has no right button. */
export const Pointing = () => html`<span class="wide">A click adds, a right click removes, a drag makes a box.</span><span class="narrow">A tap adds, or removes with Remove; a drag makes a box.</span>`;

/** Find by words; nothing where `find` is not to be had. */
export function Words({ find }) {
  const submit = (event) => { event.preventDefault(); const words = String(new FormData(event.target).get("words")).trim(); if (words) find(words); };
  if (!find) return null;
  return html`<form class="sect" onSubmit=${submit}><label class="label" for="words">Find by words</label><div class="row"><input id="words" class="field" name="words" placeholder="window"/><${Button} type="submit">Find<//></div><span class="help">Marks every such object.</span></form>`;
}

/**
 * @param {{shot: {url: string, width: number, height: number, name: string}, tool: string, idle?: boolean, beside?: object,
 *   onPoint: (x: number, y: number, inside: 0 | 1) => void, onBox: (box: number[]) => void, children: (scale: number) => object}} props
 *   places are shares of the picture; while it is `idle` nothing is taken
 */
export function Clicks({ shot, tool, idle = false, beside, onPoint, onBox, children }) {
  const box = useRef(null);
  const { width, height } = shot;
  const scale = useFit(box, width, height, 1);
  const [rect, setRect] = useState(null);
  const [cross, setCross] = useState(/** @type {[number, number] | null} */ (null));
  /** @type {(event: MouseEvent) => [number, number]} */
  const at = (event) => { const seen = box.current.querySelector(".shot").getBoundingClientRect(); return [within((event.clientX - seen.left) / seen.width), within((event.clientY - seen.top) / seen.height)]; };
  const down = (event) => {
    if (idle || !event.isPrimary || (event.button !== 0 && event.button !== 2)) return;
    event.preventDefault();
    box.current.focus({ preventScroll: true, focusVisible: false });
    const from = at(event), start = [event.clientX, event.clientY];
    const dragged = (to) => tool === "box" || Math.hypot(to.clientX - start[0], to.clientY - start[1]) > DRAG;
    const frame = (to) => { const [x, y] = at(to); return [Math.min(from[0], x), Math.min(from[1], y), Math.max(from[0], x), Math.max(from[1], y)]; };
    const move = (to) => dragged(to) && setRect(frame(to));
    const up = (to) => {
      removeEventListener("pointermove", move);
      setRect(null);
      const made = frame(to);
      if (dragged(to) && made[2] - made[0] > LEAST && made[3] - made[1] > LEAST) onBox(made);
      else if (tool !== "box") onPoint(...from, event.button === 2 || tool === "remove" ? 0 : 1);
    };
    addEventListener("pointermove", move);
    addEventListener("pointerup", up, { once: true });
  };
  const press = (event) => {
    const step = { ArrowLeft: [-STEP, 0], ArrowRight: [STEP, 0], ArrowUp: [0, -STEP], ArrowDown: [0, STEP] }[event.key];
    const far = event.shiftKey ? 5 : 1;
    if (step) { const [x, y] = cross ?? MIDDLE; setCross([within(x + step[0] * far), within(y + step[1] * far)]); }
    else if (event.key === "Enter" && !cross) setCross(MIDDLE);
    else if (event.key === "Enter" && !idle) onPoint(cross[0], cross[1], tool === "remove" ? 0 : 1);
    else return;
    event.preventDefault();
  };
  const focus = (event) => { if (event.currentTarget.matches(":focus-visible")) setCross((now) => now ?? MIDDLE); };  // who comes by the keyboard sees where Enter points
  return html`<div class="stage" ref=${box} tabindex="0" role="application" aria-label="Picture: arrows move a cross, Enter sets a point" onFocus=${focus} onKeyDown=${press} onContextMenu=${(event) => event.preventDefault()}>
    <div class=${`shot ${idle ? "" : "clicks"}`} style=${{ width: `${width * scale}px`, height: `${height * scale}px` }} onPointerDown=${down}>
      ${shot.url ? html`<img src=${shot.url} alt=${shot.name} width=${width} height=${height} draggable="false"/>` : html`<${Unseen} name=${shot.name}/>`}
      ${children(scale)}
      ${rect && html`<svg class="over" viewBox=${`0 0 ${width} ${height}`} preserveAspectRatio="none" aria-hidden="true"><path class="line kw" stroke-dasharray="7 4" d=${around(rect, width, height)}/></svg>`}
      ${cross && html`<span class="cross" style=${{ left: `${cross[0] * 100}%`, top: `${cross[1] * 100}%` }}><b aria-live="polite">${Math.round(cross[0] * width)}, ${Math.round(cross[1] * height)}</b></span>`}</div>
    ${beside}</div>`;
}
