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
  let x1 = w, y1 = h, x2 = 0, y2 = 0, count = 0;
  for (let at = 0; at < inside.length; at += 1) {
    if (rgba[at * 4] <= 127) continue;
    const x = at % w, y = (at - x) / w;
    inside[at] = 1;
    count += 1;
    x1 = Math.min(x1, x); x2 = Math.max(x2, x + 1);
    y1 = Math.min(y1, y); y2 = y + 1;
  }
  const found = { inside, w, h, width: image.width, height: image.height, about: [x1, y1, x2, y2], share: count / inside.length };
  image.close();
  return found;
}

const RIGHT = 1, DOWN = 2, LEFT = 4, UP = 8;

/**
 * Closed lines around what is inside, of their corners; each step goes with the inside at its right hand.
 * `about` is a box, `[x1, y1, x2, y2]`, outside of which nothing is inside.
 */
export function rings(inside, w, h, [x1, y1, x2, y2] = [0, 0, w, h]) {
  const wide = w + 1;
  const ways = new Uint8Array(wide * (h + 1));  // of each corner of a pixel: where lines go on from there
  for (let y = y1; y < y2; y += 1) {
    for (let x = x1; x < x2; x += 1) {
      const at = y * w + x;
      if (!inside[at]) continue;
      const corner = y * wide + x;
      if (y === 0 || !inside[at - w]) ways[corner] |= RIGHT;
      if (x === w - 1 || !inside[at + 1]) ways[corner + 1] |= DOWN;
      if (y === h - 1 || !inside[at + w]) ways[corner + wide + 1] |= LEFT;
      if (x === 0 || !inside[at - 1]) ways[corner + wide] |= UP;
    }
  }
  const made = [];
  for (let corner = y1 * wide; corner < (y2 + 1) * wide; corner += 1) {
    while (ways[corner]) made.push(follow(ways, corner, wide));
  }
  return made;
}

function follow(ways, begin, wide) {
  const ring = [];
  let at = begin, before = 0;
  do {
    const way = ways[at] & -ways[at];  // one of them, where two pixels touch at a corner
    ways[at] ^= way;
    if (way !== before) ring.push([at % wide, Math.floor(at / wide)]);
    before = way;
    at += way === RIGHT ? 1 : way === DOWN ? wide : way === LEFT ? -1 : -wide;
  } while (at !== begin);
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

const rounded = (value) => Math.round(value * 10) / 10;

/** The path around what is inside of `w` by `h` places, in pixels of a picture, and its share. */
function shape({ inside, w, h, width, height, about, share }) {
  const across = width / w, down = height / h;
  const path = rings(inside, w, h, about)
    .map((ring) => thin([...ring, ring[0]], 0.8))
    .filter((ring) => ring.length > 3)
    .map((ring) => `M${ring.map(([x, y]) => `${rounded(x * across)} ${rounded(y * down)}`).join("L")}Z`)
    .join("");
  return { path, share };
}
