// The one place that names the libraries: components are functions that return html`…`.
import { Component, Fragment, createContext, h, render } from "./vendor/preact.mjs";
import htm from "./vendor/htm.mjs";

export const html = htm.bind(h);
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
