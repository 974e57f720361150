// The shapes of a reconstruction: what its cameras see, how large it is, which squares its ground has.
import * as three from "./vendor/three.mjs";

const SAMPLED = 2000;  // points that are looked at to find out whether all are in sight
const STRAY = 0.01;  // part of the points at each end of an axis that does not tell how large the model is

/** @typedef {{image: string, width: number, height: number, focal: number, centre: number[], rotation: number[][], translation: number[]}} View */

/** A turn of the world, [3][3], applied to a vector; `back` applies its inverse. */
const turned = (rows, v) => rows.map((row) => row[0] * v[0] + row[1] * v[1] + row[2] * v[2]);
const back = (rows, v) => [0, 1, 2].map((i) => rows[0][i] * v[0] + rows[1][i] * v[1] + rows[2][i] * v[2]);

/** Where a camera of `cameras.json` stands, and a place before it, from pixels and a depth. */
export function poseOf(view) {
  const { rotation, translation, focal, centre } = view;
  const world = (x, y, depth) => back(rotation, [((x - centre[0]) / focal) * depth, ((y - centre[1]) / focal) * depth, depth].map((value, i) => value - translation[i]));
  const place = back(rotation, translation.map((value) => -value));
  return { place, world, depth: (point) => turned(rotation, point)[2] + translation[2] };
}

/** The five corners of what a camera sees, as far away as `depth`: itself, then its picture's. */
export function frustum(view, depth) {
  const { place, world } = poseOf(view);
  const { width, height } = view;
  return [place, ...[[0, 0], [width, 0], [width, height], [0, height]].map(([x, y]) => world(x, y, depth))].map((point) => new three.Vector3(...point));
}

const part = (sorted, share) => sorted[Math.max(0, Math.min(sorted.length - 1, Math.round(share * (sorted.length - 1))))];

/** Least and greatest of each axis of points, a buffer's attribute, without the strays. */
function extent(points) {
  const axes = [0, 1, 2].map((axis) => Float32Array.from({ length: points.count }, (_, at) => points.getComponent(at, axis)).sort());
  return new three.Box3(...[STRAY, 1 - STRAY].map((share) => new three.Vector3(...axes.map((axis) => part(axis, share)))));
}

/** 1, 2 or 5 times a power of ten that is not greater. */
export function plain(length) {
  const power = 10 ** Math.floor(Math.log10(length));
  return power * ([5, 2, 1].find((step) => step * power <= length) ?? 1);
}

/** How far apart places stand from the next one, in the middle. */
export function spacing(places) {
  const next = places.map((one, i) => Math.min(...places.map((other, j) => (i === j ? Infinity : Math.hypot(...one.map((value, k) => value - other[k]))))));
  return part(next.filter(Number.isFinite).sort((a, b) => a - b), 0.5) ?? Infinity;
}

/**
 * How large a model is: `box` is around its points, `all` around its cameras too, `sample` must be in sight with all of it.
 * @param {any} points a buffer's attribute
 * @param {number[][]} stand where the cameras are
 */
export function wholeOf(points, stand) {
  const box = extent(points);
  const all = box.clone();
  for (const place of stand) all.expandByPoint(new three.Vector3(...place));
  const every = Math.max(1, Math.ceil(points.count / SAMPLED));
  const sample = [
    ...Array.from({ length: Math.ceil(points.count / every) }, (_, at) => new three.Vector3().fromBufferAttribute(points, at * every)),
    ...stand.map((place) => new three.Vector3(...place)),
  ];
  return { box, all, stand, sample, radius: Math.max(1e-6, all.getSize(new three.Vector3()).length() / 2) };
}
