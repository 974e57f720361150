// The one place that names the libraries: components are functions that return html`…`.
import { Component, Fragment, createContext, h, render } from "./vendor/preact.mjs";
import htm from "./vendor/htm.mjs";
import { isTurned, visible } from "./direction.mjs";

const BARE = new Set(["option", "style", "text", "textarea", "title", "tspan"]);  // which hold no elements of HTML
const READ = ["alt", "aria-label", "placeholder", "title"];

/** What is put into a page; a text that would turn the words around it, as a name with U+202E does, is a part for itself. */
function apart(child) {
  if (Array.isArray(child)) return child.map(apart);
  return typeof child === "string" && isTurned(child) ? h("bdi", null, visible(child)) : child;
}

/** The same where a part of its own cannot stand. */
const bare = (child) => (Array.isArray(child) ? child.map(bare) : typeof child === "string" && isTurned(child) ? visible(child) : child);

/** An element's properties, of which some are read by people. */
function readable(properties) {
  const turned = READ.filter((name) => typeof properties?.[name] === "string" && isTurned(properties[name]));
  return turned.length ? { ...properties, ...Object.fromEntries(turned.map((name) => [name, visible(properties[name])])) } : properties;
}

export const html = htm.bind((type, properties, ...children) => (typeof type === "string"
  ? h(type, readable(properties), ...children.map(BARE.has(type) ? bare : apart)) : h(type, properties, ...children)));
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
