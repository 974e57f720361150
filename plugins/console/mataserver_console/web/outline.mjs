// The outline of a mask, PNG or run lengths: closed lines along the borders of its pixels, holes too, thinned out.
import { reduced } from "./rle.mjs";

const SIDE = 640;

/** Decode a mask, PNG in base64, at most `SIDE` pixels a side: which pixels are in it. */
async function pixels(base64) {
  const data = Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
  const image = await createImageBitmap(new Blob([data], { type: "image/png" }));
  const scale = Math.min(1, SIDE / Math.max(image.width, image.height));
  const w = Math.max(1, Math.round(image.width * scale));
  const h = Math.max(1, Math.round(image.height * scale));
  const pen = /** @type {OffscreenCanvasRenderingContext2D} */ (new OffscreenCanvas(w, h).getContext("2d", { willReadFrequently: true }));
  pen.drawImage(image, 0, 0, w, h);
  const rgba = pen.getImageData(0, 0, w, h).data;
  const inside = new Uint8Array(w * h);
  for (let at = 0; at < inside.length; at += 1) inside[at] = rgba[at * 4] > 127 ? 1 : 0;
  const found = { inside, w, h, width: image.width, height: image.height };
  image.close();
  return found;
}

/** Closed lines around what is inside; each step goes with the inside at its right hand. */
export function rings(inside, w, h) {
  const is = (x, y) => x >= 0 && y >= 0 && x < w && y < h && inside[y * w + x];
  const next = new Map();
  const add = (x1, y1, x2, y2) => {
    const key = y1 * (w + 1) + x1;
    const ends = next.get(key);
    if (ends) ends.push([x2, y2]); else next.set(key, [[x2, y2]]);
  };
  for (let y = 0; y < h; y += 1) {
    for (let x = 0; x < w; x += 1) {
      if (!is(x, y)) continue;
      if (!is(x, y - 1)) add(x, y, x + 1, y);
      if (!is(x + 1, y)) add(x + 1, y, x + 1, y + 1);
      if (!is(x, y + 1)) add(x + 1, y + 1, x, y + 1);
      if (!is(x - 1, y)) add(x, y + 1, x, y);
    }
  }
  const made = [];
  for (const [key, ends] of next) {
    while (ends.length) made.push(follow(next, key, w));
  }
  return made;
}

function follow(next, begin, w) {
  const ring = [];
  let key = begin;
  do {
    const [x, y] = next.get(key).pop();
    ring.push([x, y]);
    key = y * (w + 1) + x;
  } while (key !== begin);
  return ring;
}

/** Leave out points that are less than `far` from the line through the others (Douglas-Peucker). */
function thin(line, far) {
  const keep = new Uint8Array(line.length);
  const parts = [[0, line.length - 1]];
  keep[0] = keep[line.length - 1] = 1;
  for (let part = parts.pop(); part; part = parts.pop()) {
    const [a, b] = part;
    const [ax, ay] = line[a], [bx, by] = line[b];
    const length = Math.hypot(bx - ax, by - ay);
    let worst = far, at = -1;
    for (let i = a + 1; i < b; i += 1) {
      const [x, y] = line[i];
      const off = length ? Math.abs((bx - ax) * (ay - y) - (ax - x) * (by - ay)) / length : Math.hypot(x - ax, y - ay);
      if (off > worst) { worst = off; at = i; }
    }
    if (at > 0) { keep[at] = 1; parts.push([a, at], [at, b]); }
  }
  return line.filter((_, i) => keep[i]);
}

const known = new Map();
const MOST = 400;

/** The path of a mask in its pixels, for SVG and canvas alike, and its share of the picture. */
export function outlineOf(base64) {
  if (!known.has(base64)) {
    if (known.size >= MOST) known.delete(known.keys().next().value);
    known.set(base64, trace(base64));
  }
  return known.get(base64);
}

/** The same of COCO's run lengths, known at once. */
export function outlineOfRuns(counts, width, height) {
  const key = `${width} ${height} ${counts}`;
  if (!known.has(key)) {
    if (known.size >= MOST) known.delete(known.keys().next().value);
    known.set(key, shape(reduced(counts, width, height, SIDE)));
  }
  return known.get(key);
}

async function trace(base64) {
  return shape(await pixels(base64));
}

/** The path around what is inside of `w` by `h` places, in pixels of a picture, and its share. */
function shape({ inside, w, h, width, height }) {
  const path = rings(inside, w, h)
    .map((ring) => thin([...ring, ring[0]], 0.8))
    .filter((ring) => ring.length > 3)
    .map((ring) => `M${ring.map(([x, y]) => `${+((x * width) / w).toFixed(1)} ${+((y * height) / h).toFixed(1)}`).join("L")}Z`)
    .join("");
  return { path, share: inside.reduce((sum, each) => sum + each, 0) / inside.length };
}
