// A map of depths in cividis, which grey print and colour-blind eyes read alike.
const STOPS = [[0, 34, 78], [53, 69, 108], [102, 105, 112], [149, 143, 120], [203, 186, 105], [254, 232, 56]];
export const RAMP = STOPS.map((stop) => `rgb(${stop.join(" ")})`);

/** The colour of a share of the range, 0 to 255 each. */
export function tint(share) {
  const at = Math.max(0, Math.min(1, share)) * (STOPS.length - 1);
  const low = Math.min(STOPS.length - 2, Math.floor(at));
  return STOPS[low].map((value, i) => value + (STOPS[low + 1][i] - value) * (at - low));
}

/** The values of an answer's map, with its least and greatest finite one. */
export function depthOf(answer) {
  const data = Uint8Array.from(atob(answer.depth_map), (letter) => letter.charCodeAt(0));
  const values = new Float32Array(data.buffer);
  const [height, width] = answer.depth_shape;
  let least = Infinity, most = -Infinity;
  for (const value of values) {
    if (value < least) least = value;
    if (value > most) most = value;
  }
  return { values, width, height, least, most };
}

/** Paint a map onto a canvas of its own size. */
export function paint(canvas, { values, width, height, least, most }) {
  canvas.width = width;
  canvas.height = height;
  const pen = canvas.getContext("2d");
  const image = pen.createImageData(width, height);
  const table = Array.from({ length: 256 }, (_, at) => tint(at / 255));
  const span = most - least || 1;
  values.forEach((value, at) => {
    const [r, g, b] = table[Math.round(((value - least) / span) * 255)] ?? table[0];
    image.data.set([r, g, b, 255], at * 4);
  });
  pen.putImageData(image, 0, 0);
}

/** The value at a point of the picture, given as shares of its width and height. */
export function valueAt({ values, width, height }, x, y) {
  const column = Math.max(0, Math.min(width - 1, Math.floor(x * width)));
  const row = Math.max(0, Math.min(height - 1, Math.floor(y * height)));
  return values[row * width + column];
}
