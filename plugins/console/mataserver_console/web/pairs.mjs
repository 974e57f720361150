// The same things in two answers: of one name and in one place; of text the place alone.
const SAME = 0.5;

/** How much of what two boxes cover both cover, 0 to 1. */
export function overlap([ax1, ay1, ax2, ay2], [bx1, by1, bx2, by2]) {
  const shared = Math.max(0, Math.min(ax2, bx2) - Math.max(ax1, bx1)) * Math.max(0, Math.min(ay2, by2) - Math.max(ay1, by1));
  const all = (ax2 - ax1) * (ay2 - ay1) + (bx2 - bx1) * (by2 - by1) - shared;
  return all > 0 ? shared / all : 0;
}

function alike(one, other) {
  const text = one.text && other.text;
  if (!text && one.name.toLowerCase() !== other.name.toLowerCase()) return 0;
  if (!one.box || !other.box) return one.box || other.box ? 0 : 1;
  return overlap(one.box, other.box);
}

/**
 * Pair what two answers have in common, the most alike first; what one alone has stands for itself.
 * @param {import("./results.mjs").Item[]} ours
 * @param {import("./results.mjs").Item[]} theirs
 * @returns {{n: number, a: import("./results.mjs").Item | null, b: import("./results.mjs").Item | null}[]}
 */
export function paired(ours, theirs) {
  const near = [];
  for (const one of ours) {
    for (const other of theirs) {
      const share = alike(one, other);
      if (share >= SAME) near.push({ one, other, share });
    }
  }
  near.sort((a, b) => b.share - a.share);
  const met = new Map(), taken = new Set();
  for (const { one, other } of near) {
    if (met.has(one) || taken.has(other)) continue;
    met.set(one, other);
    taken.add(other);
  }
  const pairs = [...ours.map((a) => ({ a, b: met.get(a) ?? null })), ...theirs.filter((b) => !taken.has(b)).map((b) => ({ a: null, b }))];
  return pairs.map((pair, at) => ({ ...pair, n: at + 1 }));
}
