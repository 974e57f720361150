// What is known of a video: its objects, what was pointed at on which frame, and their masks frame by frame.
const COLOURS = 8;

/**
 * @typedef {{frame: number, points: [number, number, number][], box: number[] | null, before?: any}} Pointed one prompt of an object; `before` is what was known on its frame
 * @typedef {{key: number, id: number | null, name: string, word: string, pointed: Pointed[], version: number, stale?: boolean}} Thing `stale`: in the session there is more of it
 * @typedef {{mask: string, box: number[], score: number, version: number}} Seen
 */

export const kOf = (thing) => `k${((thing.key - 1) % COLOURS) + 1}`;

/** The prompt of one object as the API takes it: points, refined within a box if there is one, or the box alone. */
export function promptOf({ points, box }) {
  const given = box && [(box[0] + box[2]) / 2, (box[1] + box[3]) / 2, box[2] - box[0], box[3] - box[1]];
  if (!points.length) return { type: "box", box: given, label: true };
  return { type: "point", points: points.map(([x, y]) => [x, y]), point_labels: points.map((point) => point[2]), ...(given ? { box: given } : {}) };
}

export class Tracks {
  constructor() {
    /** @type {Thing[]} */
    this.things = [];
    /** @type {Map<number, Map<number, Seen>>} by frame, then by the key of the object */
    this.frames = new Map();
    /** @type {{words: string, frame: number, keys: number[]}[]} with what was found, in the order of the answer */
    this.asked = [];
    this.last = 0;
  }

  add(id, name = "", word = "") {
    this.last += 1;
    const thing = { key: this.last, id, name: name || `object ${this.last}`, word, pointed: [], version: 0 };
    this.things.push(thing);
    return thing;
  }

  get(key) { return this.things.find((each) => each.key === key); }

  of(id, word = "") {
    const found = this.things.find((each) => each.id === id) ?? this.things.find((each) => word && each.word === word && each.id === null);  // of the session before
    if (found) found.id = id;
    return found ?? this.add(id, word && `${word} ${1 + this.things.filter((each) => each.word === word).length}`, word);
  }

  /** What a prompt made of an object on a frame; what was tracked before it is older than the object now. */
  prompted(thing, frame, seen) {
    thing.version += 1;
    this.put(frame, thing, seen);
  }

  put(frame, thing, { mask, box, score }) {
    if (!box[2]) { this.frames.get(frame)?.delete(thing.key); return; }  // not a pixel of it is there
    const found = this.frames.get(frame) ?? new Map();
    this.frames.set(frame, found);
    found.set(thing.key, { mask, box, score, version: thing.version });
  }

  /** A frame of a propagation: all that is visible there. What words find later is an object, too. */
  take({ frame_index: frame, objects }) {
    this.frames.set(frame, new Map());
    const words = this.things.filter((each) => each.word).at(-1)?.word ?? "";
    for (const each of objects) this.put(frame, this.of(each.id, words), each);
  }

  /** What is known of an object on a frame, and which version of it that is. */
  known(thing, frame) { return { seen: this.frames.get(frame)?.get(thing.key) ?? null, version: thing.version }; }

  /** Take a prompt back: the frame is as it was. What was tracked with it since is old; what was tracked before it is not any more. */
  restore(thing, frame, { seen, version }) {
    const since = [...this.frames].some(([at, found]) => at !== frame && found.get(thing.key)?.version === thing.version);
    thing.version = since ? thing.version + 1 : version;
    if (seen) this.frames.get(frame)?.set(thing.key, seen); else this.frames.get(frame)?.delete(thing.key);
  }

  drop(key) {
    this.things = this.things.filter((each) => each.key !== key);
    for (const found of this.frames.values()) found.delete(key);
  }

  /** Where an object is seen: spans of frames, and whether they are older than its last correction. */
  spans(thing) {
    const made = [];
    for (const [frame, found] of [...this.frames].sort((a, b) => a[0] - b[0])) {
      const seen = found.get(thing.key);
      if (!seen) continue;
      const old = seen.version < thing.version;
      const last = made.at(-1);
      if (last && last.to === frame && last.old === old) last.to = frame + 1;
      else made.push({ from: frame, to: frame + 1, old });
    }
    return made;
  }

  /** How many frames an object is seen on, and on how many of them it is old. */
  count(thing) {
    let all = 0, old = 0;
    for (const { from, to, old: stale } of this.spans(thing)) { all += to - from; if (stale) old += to - from; }
    return { all, old };
  }
}

/** A box `[cx, cy, w, h]` in shares as corners in pixels. */
export const cornersOf = ([cx, cy, w, h], width, height) => [(cx - w / 2) * width, (cy - h / 2) * height, (cx + w / 2) * width, (cy + h / 2) * height];
