// Where labels stand: beside a box, inside only where it has room, a number where nothing fits;
// never over another label, never over what another label names.
const HEIGHT = 20;
const PADDING = 10;
const GAP = 5;
const LONGEST = 22;
const MOST_NAMED = 60;
const area = (a) => Math.max(0, a[2] - a[0]) * Math.max(0, a[3] - a[1]);
const shared = (a, b) => area([Math.max(a[0], b[0]), Math.max(a[1], b[1]), Math.min(a[2], b[2]), Math.min(a[3], b[3])]);

let pen = /** @type {CanvasRenderingContext2D | null} */ (null);
const measured = /** @type {Map<string, number>} */ (new Map());
const MOST_MEASURED = 2000;
/** The width of a text in pixels, in the labels' type. To ask the page for its type makes it work out all styles: once a text. */
export function wide(text, weight = 600, size = 12) {
  const key = `${weight} ${size} ${text}`;
  let width = measured.get(key);
  if (width === undefined) {
    pen ??= /** @type {CanvasRenderingContext2D} */ (document.createElement("canvas").getContext("2d"));
    pen.font = `${weight} ${size}px ${getComputedStyle(document.documentElement).getPropertyValue("--font")}`;
    width = pen.measureText(text).width;
    if (measured.size >= MOST_MEASURED) measured.clear();
    measured.set(key, width);
  }
  return width;
}

let segmenter = /** @type {Intl.Segmenter | null} */ (null);
/** The letters of a text as people count them; without `Intl.Segmenter`, as of Firefox before 125, its code points. */
function letters(text) {
  if (!("Segmenter" in Intl)) return Array.from(text);
  segmenter ??= new Intl.Segmenter();
  return Array.from(segmenter.segment(text), ({ segment }) => segment);
}

/** A text of at most `LONGEST` letters, as people count them: half an emoji is none. */
export function cut(text) {
  if (text.length <= LONGEST) return text;
  const all = letters(text.slice(0, 12 * LONGEST));
  return all.length > LONGEST || text.length > 12 * LONGEST ? `${all.slice(0, LONGEST - 1).join("")}…` : all.join("");
}

/** The places that a label may have, the best first. */
function spots([x1, y1, x2, y2], w, roomy) {
  const beside = [[x1 - 1, y1 - HEIGHT - 1], [x2 - w + 1, y1 - HEIGHT - 1], [x1 - 1, y2 + 1], [x2 - w + 1, y2 + 1], [x2 + 1, y1], [x1 - w - 1, y1]];
  if (!roomy) return beside;
  return [...beside, [x1 + 3, y1 + 3], [x2 - w - 3, y1 + 3], [x1 + 3, y2 - HEIGHT - 3], [x2 - w - 3, y2 - HEIGHT - 3]];
}

/** The best free place of a label of width `w`, or null. */
function place(at, boxes, taken, room, w) {
  let best = /** @type {{spot: number[], cost: number} | null} */ (null);
  const roomy = area(boxes[at]) > 9 * w * HEIGHT;
  spots(boxes[at], w, roomy).forEach(([x, y], order) => {
    const spot = [x, y, x + w, y + HEIGHT];
    if (shared(spot, room) < w * HEIGHT - 1) return;
    if (taken.some((each) => shared([each[0] - 2, each[1] - 2, each[2] + 2, each[3] + 2], spot) > 0)) return;
    let hidden = 0;
    boxes.forEach((box, other) => {
      if (other !== at && area(box) < 40 * w * HEIGHT) hidden += shared(box, spot) / Math.max(1, Math.min(area(box), 4 * w * HEIGHT));
    });
    if (hidden > 0.2) return;
    const cost = order / 10 + 4 * hidden;
    if (!best || cost < best.cost) best = { spot, cost };
  });
  return best?.spot ?? null;
}

/**
 * Place the labels of items whose `at` is their box on the screen.
 * @param {{n: number, label: string, score: string, at: number[]}[]} items
 * @param {number[]} room what the picture covers
 * @param {number[][]} taken what no label may touch
 * @returns {Map<number, {x: number, y: number, short: boolean}>} by number; one without a place is missing
 */
export function placed(items, room, taken = [], size = 1) {
  const boxes = items.map((each) => each.at.map((value) => value / size));
  const limits = room.map((value) => value / size);
  const full = [...taken];
  const found = new Map();
  const order = items.map((_, at) => at).sort((a, b) => area(boxes[a]) - area(boxes[b]));
  for (const at of order) {
    const each = items[at];
    const long = wide(cut(each.label)) + (each.score ? GAP + wide(each.score, 500) : 0) + PADDING;
    const short = wide(String(each.n)) + 12;
    for (const w of items.length > MOST_NAMED ? [short] : [long, short]) {
      const spot = place(at, boxes, full, limits, Math.ceil(w));
      if (!spot) continue;
      full.push(spot);
      found.set(each.n, { x: Math.round(spot[0] * size), y: Math.round(spot[1] * size), short: w === short });
      break;
    }
  }
  return found;
}
