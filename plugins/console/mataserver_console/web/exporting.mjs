// The picture at its own size with what was found drawn in, and the answer as a file.
import { decoded } from "./decoding.mjs";
import { labelsOf } from "./overlay.mjs";
import { cut, wide } from "./labels.mjs";
import { outlineOf } from "./outline.mjs";
import { JOINTS, LIMBS, side } from "./results.mjs";

export function save(blob, name) {
  const link = Object.assign(document.createElement("a"), { href: URL.createObjectURL(blob), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

const tint = (k) => getComputedStyle(document.documentElement).getPropertyValue(`--${k}`).trim();
const lines = (points) => new Path2D(`M${points.map((point) => point.join(" ")).join("L")}Z`);

function stroke(pen, path, k, unit, thick = 2.25) {
  pen.strokeStyle = "#0b0e12b3"; pen.lineWidth = thick * 2 * unit; pen.stroke(path);
  pen.strokeStyle = tint(k); pen.lineWidth = thick * unit; pen.stroke(path);
}

async function shape(pen, item, unit, show) {
  const [x1, y1, x2, y2] = item.box ?? [];
  const outline = item.mask && await outlineOf(item.mask);
  if (outline) {
    const path = new Path2D(outline.path);
    if (show.fill) { pen.fillStyle = `${tint(item.k)}6b`; pen.fill(path, "evenodd"); }
    stroke(pen, path, item.k, unit);
  } else if (item.corners) stroke(pen, lines(item.corners), item.k, unit);
  else if (item.box && show.boxes && !item.points?.length) stroke(pen, lines([[x1, y1], [x2, y1], [x2, y2], [x1, y2]]), item.k, unit, item.text ? 1 : 2.25);
  if (item.points?.length === JOINTS) {
    for (const [a, b] of LIMBS) stroke(pen, lines([item.points[a].slice(0, 2), item.points[b].slice(0, 2)]), side(a, b), unit, 4);
  }
}

function tag(pen, each, unit) {
  const text = each.short ? String(each.n) : cut(each.label);
  const width = (each.short ? wide(text) + 12 : wide(text) + (each.score ? 5 + wide(each.score, 500) : 0) + 10) * unit;
  pen.fillStyle = tint(each.item.k);
  pen.beginPath(); pen.roundRect(each.x, each.y, width, 20 * unit, 3 * unit); pen.fill();
  pen.fillStyle = "#0b0e12"; pen.textBaseline = "middle";
  pen.font = `600 ${12 * unit}px system-ui, sans-serif`;
  pen.fillText(text, each.x + (each.short ? 6 : 5) * unit, each.y + 10.5 * unit);
  if (each.short || !each.score) return;
  pen.font = `500 ${12 * unit}px system-ui, sans-serif`;
  pen.fillText(each.score, each.x + (10 + wide(text)) * unit, each.y + 10.5 * unit);
}

/** A PNG of the picture with its results; lines and labels are as large as on a screen of 1,000 px. */
export async function drawn(picture, items, show, depth) {
  const { bitmap: image } = /** @type {{bitmap: ImageBitmap}} */ (await decoded(picture.blob));
  const canvas = new OffscreenCanvas(image.width, image.height);
  const pen = /** @type {OffscreenCanvasRenderingContext2D} */ (canvas.getContext("2d"));
  const unit = Math.max(1, image.width / 1000);
  pen.drawImage(image, 0, 0);
  if (depth) pen.drawImage(depth, 0, 0, image.width, image.height);
  pen.lineJoin = pen.lineCap = "round";
  for (const item of items) await shape(pen, item, unit, show);  // in order: one over the other
  if (show.labels) for (const each of labelsOf(items, image.width, image.height, 1, show.scores, [], unit)) tag(pen, each, unit);
  image.close();
  return canvas.convertToBlob({ type: "image/png" });
}
