// Icons of 16 px, drawn with one stroke; they say nothing to a screen reader.
import { html } from "./html.mjs";

const PATHS = {
  compare: '<rect x="2" y="3" width="12" height="10" rx="1.500"/><path d="M8 1.500v13"/>',
  try: '<rect x="2" y="3" width="12" height="10" rx="2"/><path d="M2 11l3.5-3.5L9 11M8.500 10.500L11 8l3 3"/>',
  ask: '<path d="M2.500 4a1.500 1.500 0 011.500-1.500h8A1.500 1.500 0 0113.500 4v5.500A1.500 1.500 0 0112 11H7l-3 2.500V11a1.500 1.500 0 01-1.500-1.500z"/>',
  segment: '<path d="M4 2.500h1.500M8 2.500h1M11.500 2.500H13.500V4.500M13.500 7v1M2.500 4.500v-2M2.500 7.500v1M2.500 11.500v2h2"/><path d="M7 7l6.500 2.500-2.800 1.200L9.500 13.500z"/>',
  live: '<rect x="1.500" y="4" width="9" height="8" rx="1.500"/><path d="M10.500 7l4-2v6l-4-2"/>',
  jobs: '<path d="M2.500 4h1M2.500 8h1M2.500 12h1M6 4h7.500M6 8h7.500M6 12h5"/>',
  models: '<path d="M8 1.800l5.500 3v6.400L8 14.200l-5.500-3V4.800z"/><path d="M2.700 4.900L8 7.800l5.300-2.900M8 7.800v6.200"/>',
  server: '<rect x="2" y="2.500" width="12" height="4.500" rx="1"/><rect x="2" y="9" width="12" height="4.500" rx="1"/><path d="M4.500 4.750h.01M4.500 11.250h.01"/>',
  fleet: '<rect x="5.500" y="2" width="5" height="4" rx="1"/><rect x="1.500" y="10" width="5" height="4" rx="1"/><rect x="9.500" y="10" width="5" height="4" rx="1"/><path d="M8 6v2M4 10V8h8v2"/>',
  page: '<rect x="2.500" y="2.500" width="11" height="11" rx="1.500"/><path d="M2.500 6h11"/>',
  more: '<path d="M3 8h.01M8 8h.01M13 8h.01" stroke-width="2.500"/>',
  file: '<path d="M8 10.500v-8M4.800 5.500L8 2.500l3.200 3M2.500 10.500v2a1 1 0 001 1h9a1 1 0 001-1v-2"/>',
  download: '<path d="M8 2.500v8M4.800 7.500L8 10.500l3.200-3M2.500 10.500v2a1 1 0 001 1h9a1 1 0 001-1v-2"/>',
  paste: '<rect x="3" y="3" width="10" height="11" rx="1.500"/><rect x="5.500" y="1.500" width="5" height="3" rx="1"/>',
  camera: '<path d="M2 5.500A1.500 1.500 0 013.500 4H5l1-1.500h4L11 4h1.500A1.500 1.500 0 0114 5.500v6a1.500 1.500 0 01-1.500 1.500h-9A1.500 1.500 0 012 11.500z"/><circle cx="8" cy="8.300" r="2.500"/>',
  copy: '<rect x="5.500" y="5.500" width="8" height="8" rx="1.500"/><path d="M10.500 5.500v-2A1 1 0 009.500 2.500h-6a1 1 0 00-1 1v6a1 1 0 001 1h2"/>',
  down: '<path d="M4.500 6.500L8 10l3.500-3.500"/>',
  leave: '<path d="M6.500 2.500h-3a1 1 0 00-1 1v9a1 1 0 001 1h3M10.500 11L13.500 8l-3-3M13.500 8h-7"/>',
  left: '<path d="M9.500 4.500L6 8l3.500 3.500"/>',
  close: '<path d="M4 4l8 8M12 4l-8 8"/>',
  plus: '<path d="M8 3v10M3 8h10"/>',
  minus: '<path d="M3 8h10"/>',
  full: '<path d="M9.500 2.500h4v4M6.500 13.500h-4v-4M13.500 2.500L9 7M2.500 13.500L7 9"/>',
  warn: '<path d="M8 2.500l6 10.500H2z"/><path d="M8 6.500v3M8 11.300h.01"/>',
  key: '<circle cx="5" cy="11" r="2.500"/><path d="M6.800 9.200l6-6M10.500 5.500l2 2"/>',
  pin: '<path d="M5.500 2h5l-.7 4.500L12 9H4l2.200-2.500zM8 9v5"/>',
  search: '<circle cx="7" cy="7" r="4.500"/><path d="M10.500 10.500L14 14"/>',
  stop: '<rect x="4" y="4" width="8" height="8" rx="1"/>',
  again: '<path d="M13 5.500A5.500 5.500 0 003 6.500M3 3v3.500h3.500M3 10.500a5.500 5.500 0 0010-1M13 13V9.500H9.500"/>',
  play: '<path d="M5 3.500v9l7-4.500z"/>',
  before: '<path d="M10.500 4L6.500 8l4 4M4 4v8"/>',
  after: '<path d="M5.500 4l4 4-4 4M12 4v8"/>',
  undo: '<path d="M5.500 3L2.500 6l3 3M2.500 6h7a4 4 0 010 8H6"/>',
  box: '<rect x="2.500" y="3.500" width="11" height="9" rx="1" stroke-dasharray="2.500 2"/>',
  system: '<circle cx="8" cy="8" r="5.500"/><path d="M8 2.500v11M8 4h3.500M8 6.500h5M8 9h5.200M8 11.500h3.500"/>',
  light: '<circle cx="8" cy="8" r="3"/><path d="M8 1.500v1M8 13.500v1M1.500 8h1M13.500 8h1M3.400 3.400l.7.7M11.900 11.900l.7.7M12.600 3.400l-.7.7M4.100 11.900l-.7.7"/>',
  dark: '<path d="M13 9.500A5.500 5.500 0 016.500 3a5.500 5.500 0 106.500 6.500z"/>',
  eye: '<path d="M1.500 8S4 3.500 8 3.500 14.500 8 14.500 8 12 12.500 8 12.500 1.500 8 1.500 8z"/><circle cx="8" cy="8" r="2"/>',
};

/** @param {{name: keyof typeof PATHS, class?: string}} props */
export const Icon = ({ name, class: more = "" }) => html`
  <svg class=${`i ${more}`} viewBox="0 0 16 16" aria-hidden="true" dangerouslySetInnerHTML=${{ __html: PATHS[name] }}></svg>`;

export const Mark = () => html`
  <svg viewBox="0 0 24 24" aria-hidden="true" fill="none" stroke="currentColor" stroke-width="2" stroke-linecap="round" stroke-linejoin="round">
    <path d="M3 8V5a2 2 0 012-2h3M16 3h3a2 2 0 012 2v3M21 16v3a2 2 0 01-2 2h-3M8 21H5a2 2 0 01-2-2v-3"/><circle cx="12" cy="12" r="4.2"/>
    <circle cx="12" cy="12" r="1.2" fill="currentColor" stroke="none"/></svg>`;
