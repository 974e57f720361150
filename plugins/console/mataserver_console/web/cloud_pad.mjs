// Where a hand is on the picture of a scene that is drawn elsewhere: the page tells, the scene's controls hear.

/** What is told of an event; places are pixels from the upper left corner of the canvas. */
const FIELDS = ["pointerId", "pointerType", "button", "deltaY", "deltaMode", "ctrlKey", "metaKey", "shiftKey", "key"];

/** The element of the controls, without a page: they hear on it what `listen` tells. The page itself holds the pointer. */
export class Pad extends EventTarget {
  constructor() {
    super();
    this.clientWidth = this.clientHeight = 1;
    this.style = {};
    this.setPointerCapture = this.releasePointerCapture = () => {};
  }

  get ownerDocument() { return this; }

  getRootNode() { return this; }

  getBoundingClientRect() { return { left: 0, top: 0, width: this.clientWidth, height: this.clientHeight }; }

  /** Something was done there. */
  hear({ type, ...fields }) { this.dispatchEvent(Object.assign(new Event(type), fields)); }
}

/** Where an event is on a canvas, in pixels from its upper left corner. */
export function placeOf(canvas, event) {
  const { left, top } = canvas.getBoundingClientRect();
  return [event.clientX - left, event.clientY - top];
}

/**
 * Tell what a hand does on a canvas, until the signal ends it.
 * @param {HTMLCanvasElement} canvas
 * @param {(event: any) => void} tell
 * @param {AbortSignal} signal
 */
export function listen(canvas, tell, signal) {
  const down = new Set();
  const pass = (event) => {
    const [x, y] = placeOf(canvas, event);
    const fields = Object.fromEntries(FIELDS.filter((name) => name in event).map((name) => [name, event[name]]));
    tell({ type: event.type, clientX: x, clientY: y, pageX: x, pageY: y, ...fields });
  };
  const on = (name, act, target = /** @type {EventTarget} */ (canvas)) => target.addEventListener(name, act, { signal, passive: false });
  on("pointerdown", (event) => { canvas.setPointerCapture(event.pointerId); down.add(event.pointerId); pass(event); });
  on("pointermove", (event) => { if (down.has(event.pointerId)) pass(event); });
  for (const name of ["pointerup", "pointercancel"]) on(name, (event) => { if (down.delete(event.pointerId)) pass(event); });
  on("wheel", (event) => { event.preventDefault(); pass(event); });
  on("contextmenu", (event) => event.preventDefault());
  // a wheel with Ctrl is a pinch, unless the key is down
  for (const name of ["keydown", "keyup"]) on(name, (event) => { if (event.key === "Control") tell({ type: name, key: event.key }); }, document);
}
