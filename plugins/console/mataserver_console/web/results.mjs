// An answer of any task as one list of things that were found, each with its number and colour.
const COLOURS = 8;
const seen = new Map();

/** The colour of a class for the whole visit, by its first appearance; the ninth is dashed. */
export function colour(name) {
  if (!seen.has(name)) seen.set(name, seen.size);
  const at = seen.get(name);
  return { k: `k${(at % COLOURS) + 1}`, dash: at >= COLOURS && Math.floor(at / COLOURS) % 2 === 1 };
}

/**
 * @typedef {{n: number, name: string, score: number | null, box: number[] | null, corners?: number[][],
 *   mask?: string, points?: number[][], id?: number, text?: boolean, bar?: boolean, k: string, dash: boolean}} Item
 */

/** The things of an answer, the surest first; of text in the order of reading. @returns {Item[]} */
export function itemsOf(answer) {
  if (!answer) return [];
  const found = [
    ...(answer.detections ?? []).map(detection),
    ...(answer.segments ?? []).map((each) => ({ ...plain(each), mask: each.mask })),
    ...(answer.keypoints ?? []).map((each) => ({ ...plain(each), points: each.keypoints, k: "kw", dash: false })),
    ...(answer.regions ?? []).map((each) => ({ name: each.text, score: each.confidence, box: each.bbox, k: "k1", dash: false, text: true })),
    ...(answer.classifications ?? []).map((each) => ({ name: each.label, score: each.confidence, box: null, bar: true, ...colour(each.label) })),
    ...(answer.entities ?? []).map((each) => ({ name: each.label, score: each.confidence ?? null, box: null, ...colour(each.label) })),
  ];
  if (answer.task !== "ocr") found.sort((a, b) => (b.score ?? 0) - (a.score ?? 0));
  return found.map((each, at) => ({ ...each, n: at + 1 }));
}

const plain = (each) => ({ name: each.label, score: each.confidence, box: each.bbox ?? null, ...colour(each.label) });

function detection(each) {
  const id = each.track_id ?? undefined;
  const made = { ...plain(each), corners: each.extra?.corners, id };
  return id === undefined ? made : { ...made, ...colour(`track ${id}`) };
}

/** "3 cars, 2 people": what was found, for who does not see the picture. */
export function told(items) {
  const counts = new Map();
  for (const each of items) counts.set(each.name, (counts.get(each.name) ?? 0) + 1);
  const names = [...counts].slice(0, 8).map(([name, count]) => `${count} ${name}`);
  return names.join(", ") + (counts.size > 8 ? `, and ${counts.size - 8} more` : "");
}

/** Which side of the body each of COCO's 17 points is on, and the limbs between them. */
export const LIMBS = [
  [15, 13], [13, 11], [16, 14], [14, 12], [11, 12], [5, 11], [6, 12], [5, 6], [5, 7], [7, 9], [6, 8], [8, 10],
  [1, 2], [0, 1], [0, 2], [1, 3], [2, 4], [3, 5], [4, 6],
];
export const JOINTS = 17;

/** Blue for the person's left, orange for the right, white for what is between. */
export function side(a, b = a) {
  const of = (at) => (at === 0 ? 0 : at % 2 ? 1 : 2);
  if (of(a) !== of(b)) return "kw";
  return ["kw", "k1", "k2"][of(a)];
}
