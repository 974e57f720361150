// The one place that names the libraries: components are functions that return html`…`.
import { Component, Fragment, createContext, h, render } from "./vendor/preact.mjs";
import htm from "./vendor/htm.mjs";

const TURNED = /[\u0590-\u08ff\u200f\u202a-\u202e\u2066-\u2069\ufb1d-\ufdff\ufe70-\ufefc]/;  // read to the left, or controls of direction
const BARE = new Set(["option", "style", "text", "textarea", "title", "tspan"]);  // which hold no elements of HTML

/** What is put into a page; a text that would turn the words around it, as a name with U+202E does, is a part for itself. */
function apart(child) {
  if (Array.isArray(child)) return child.map(apart);
  return typeof child === "string" && TURNED.test(child) ? h("bdi", null, child) : child;
}

export const html = htm.bind((type, properties, ...children) => (
  h(type, properties, ...(typeof type === "string" && !BARE.has(type) ? children.map(apart) : children))));
export { Fragment, createContext, render };

/** A component that is drawn anew only if one of its properties is another one: of a thousand in a list, those that change. */
export function memo(View) {
  return class extends Component {
    shouldComponentUpdate(next) { return Object.keys({ ...this.props, ...next }).some((name) => next[name] !== this.props[name]); }

    render() { return h(View, this.props); }
  };
}

export {
  useCallback, useContext, useEffect, useErrorBoundary, useId, useLayoutEffect, useMemo, useReducer, useRef, useState,
} from "./vendor/hooks.mjs";
