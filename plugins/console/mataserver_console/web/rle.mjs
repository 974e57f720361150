// COCO's run lengths: how many pixels are out of a mask, then in, then out, column by column.
const LOW = 31, MORE = 32, NEGATIVE = 16, FIRST = 48;

/** The runs of a compressed code. From the fourth on each is told as the difference to the one two before it. */
export function runsOf(counts) {
  const runs = [];
  for (let at = 0; at < counts.length;) {
    let value = 0, shift = 0, bits;
    do {
      bits = counts.charCodeAt(at) - FIRST;
      value |= (bits & LOW) << shift;
      shift += 5;
      at += 1;
    } while (bits & MORE && at < counts.length);
    if (bits & NEGATIVE && shift < 32) value |= -1 << shift;
    runs.push(runs.length > 2 ? value + runs[runs.length - 2] : value);
  }
  return runs;
}

/** Call `fill(column, from, to)` for each piece of a column that is in the mask. */
function pieces(counts, height, fill) {
  let at = 0, inside = false;
  for (const run of runsOf(counts)) {
    for (let begin = at; inside && begin < at + run;) {
      const column = Math.floor(begin / height);
      const end = Math.min(at + run, (column + 1) * height);
      fill(column, begin - column * height, end - column * height);
      begin = end;
    }
    at += run;
    inside = !inside;
  }
}

/**
 * Which places of a mask are in it, of at most `side` a side: the pixel in the middle of each decides. `about` is the box
 * around them, `share` how much of the picture the mask is.
 */
export function reduced(counts, width, height, side) {
  const scale = Math.min(1, side / Math.max(width, height));
  const w = Math.max(1, Math.round(width * scale)), h = Math.max(1, Math.round(height * scale));
  const inside = new Uint8Array(w * h);
  const first = (value, to, from) => Math.max(0, Math.ceil((value * to) / from - 0.5));  // the first place whose middle is there
  let x1 = w, y1 = h, x2 = 0, y2 = 0, count = 0;
  pieces(counts, height, (column, from, to) => {
    count += to - from;
    const top = first(from, h, height), bottom = Math.min(h, first(to, h, height));
    if (top >= bottom) return;
    for (let x = first(column, w, width); x < Math.min(w, first(column + 1, w, width)); x += 1) {
      for (let y = top; y < bottom; y += 1) inside[y * w + x] = 1;
      x1 = Math.min(x1, x); x2 = Math.max(x2, x + 1);
      y1 = Math.min(y1, top); y2 = Math.max(y2, bottom);
    }
  });
  return { inside, w, h, width, height, about: [x1, y1, x2, y2], share: count / (width * height) };
}

/** A PNG of the picture's size: white is in the mask, black is not. */
export function pngOf(counts, width, height) {
  const canvas = new OffscreenCanvas(width, height);
  const pen = /** @type {OffscreenCanvasRenderingContext2D} */ (canvas.getContext("2d"));
  const image = new ImageData(width, height);
  const places = new Uint32Array(image.data.buffer).fill(0xff000000);
  pieces(counts, height, (column, from, to) => { for (let y = from; y < to; y += 1) places[y * width + column] = 0xffffffff; });
  pen.putImageData(image, 0, 0);
  return canvas.convertToBlob({ type: "image/png" });
}
