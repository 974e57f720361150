// What the server reads of a file and a browser does not: how a WebP is to be turned, how large a HEIC, a TIFF or a PPM is. What was found lies right on the picture only so.
const ORIENTATION = 0x112;
const [SUBFILE, WIDTH, HEIGHT] = [254, 256, 257];  // of a TIFF's tags
const PAGES = 16;  // of a TIFF, as many as the server looks at
const BEGIN = 2 ** 18;  // bytes: a HEIC tells its sizes before its pictures
/** By EXIF's orientation: how x and y of a picture as it is stored become those of it as it is seen. @type {Record<number, [number, number, number, number]>} */
const TURNS = { 2: [-1, 0, 0, 1], 3: [-1, 0, 0, -1], 4: [1, 0, 0, -1], 5: [0, 1, 1, 0], 6: [0, 1, -1, 0], 7: [0, -1, -1, 0], 8: [0, -1, 1, 0] };

const named = (/** @type {DataView} */ view, at) => (at + 4 <= view.byteLength ? String.fromCharCode(...new Uint8Array(view.buffer, view.byteOffset + at, 4)) : "");

/** The orientation that EXIF tells, from where its header stands; 1 where it tells none. */
function oriented(/** @type {DataView} */ view, start) {
  const at = named(view, start) === "Exif" ? start + 6 : start;
  const little = view.getUint16(at) === 0x4949;
  const list = at + view.getUint32(at + 4, little);
  for (let entry = 0; entry < view.getUint16(list, little); entry += 1) {
    const here = list + 2 + 12 * entry;
    if (view.getUint16(here, little) === ORIENTATION) return view.getUint16(here + 8, little);
  }
  return 1;
}

/** How a WebP is to be turned, by EXIF's numbers; 1 for all other files, which browsers turn themselves. */
function turnOf(/** @type {DataView} */ view) {
  if (named(view, 0) !== "RIFF" || named(view, 8) !== "WEBP") return 1;
  try {
    for (let at = 12; at + 8 < view.byteLength;) {
      const length = view.getUint32(at + 4, true);
      if (named(view, at) === "EXIF") return oriented(view, at + 8);
      at += 8 + length + (length % 2);
    }
  } catch (error) { if (!(error instanceof RangeError)) throw error; }  // it is cut off: the server says so
  return 1;
}

/** Whether a browser plays a file as an animation, of which the server reads the first frame: a GIF may be one. */
function moves(/** @type {DataView} */ view) {
  if (named(view, 0) === "GIF8") return true;
  if (named(view, 4) === "ftyp") return named(view, 8) === "avis";
  if (named(view, 8) === "WEBP") return named(view, 12) === "VP8X" && view.byteLength > 20 && (view.getUint8(20) & 2) > 0;
  if (named(view, 12) !== "IHDR") return false;
  let at = 8;  // a PNG's chunks
  while (at + 8 < view.byteLength && !["acTL", "IDAT"].includes(named(view, at + 4))) at += 12 + view.getUint32(at);
  return named(view, at + 4) === "acTL";
}

/** A file's pixels as they are seen, and whether the browser shows the file itself so; null where it cannot read it. */
export async function decoded(/** @type {Blob} */ blob) {
  const view = new DataView(await blob.arrayBuffer()), turn = TURNS[turnOf(view)];
  const bitmap = await createImageBitmap(blob, { imageOrientation: turn ? "none" : "from-image" }).catch(() => null);
  if (!bitmap || !turn) return bitmap && { bitmap, plain: !moves(view) };
  const { width, height } = bitmap, [a, b, c, d] = turn;
  const canvas = new OffscreenCanvas(a ? width : height, a ? height : width);
  const pen = canvas.getContext("2d");
  pen?.setTransform(a, b, c, d, Math.min(a, c) < 0 ? canvas.width : 0, Math.min(b, d) < 0 ? canvas.height : 0);
  pen?.drawImage(bitmap, 0, 0);
  bitmap.close();
  return { bitmap: canvas.transferToImageBitmap(), plain: false };
}

/** Width and height of a TIFF or BigTIFF as it is seen: of its first page that is no reduced copy of another. @returns {[number, number] | null} */
function tiffSize(/** @type {DataView} */ view) {
  const little = view.getUint16(0) === 0x4949, big = view.getUint16(2, little) === 43;
  const offset = (/** @type {number} */ at) => (big ? Number(view.getBigUint64(at, little)) : view.getUint32(at, little));
  const [head, step, value] = big ? [8, 20, 12] : [2, 12, 8];
  let list = offset(big ? 8 : 4), first = /** @type {[number, number] | null} */ (null);
  for (let page = 0; list && page < PAGES; page += 1) {
    const tags = new Map(), count = big ? offset(list) : view.getUint16(list, little);
    for (let at = list + head; at < list + head + step * count; at += step) {
      tags.set(view.getUint16(at, little), view.getUint16(at + 2, little) === 3 ? view.getUint16(at + value, little) : view.getUint32(at + value, little));
    }
    const sides = [tags.get(WIDTH), tags.get(HEIGHT)];
    const size = /** @type {[number, number]} */ (tags.get(ORIENTATION) > 4 ? sides.reverse() : sides);
    if (!((tags.get(SUBFILE) ?? 0) & 1)) return size;
    first ??= size;
    list = offset(list + head + step * count);
  }
  return first;
}

/** Width and height of a picture that the browser cannot show, as it is seen, or null. @returns {Promise<[number, number] | null>} */
export async function sizeOf(/** @type {Blob} */ blob) {
  const start = new Uint8Array(await blob.slice(0, BEGIN).arrayBuffer());
  const text = String.fromCharCode(...start.subarray(0, 4096)), number = text.replace(/#[^\r\n]*/g, " ").match(/^P[1-6]\s+(\d+)\s+(\d+)\s/);
  if (number) return [Number(number[1]), Number(number[2])];
  try {
    const size = /^(II[*+]\0|MM\0[*+])/.test(text) ? tiffSize(new DataView(await blob.arrayBuffer())) : heicSize(new DataView(start.buffer));
    return size && size[0] > 0 && size[1] > 0 ? size : null;
  } catch (error) { if (!(error instanceof RangeError)) throw error; }  // it is cut off: the server says so
  return null;
}

/** Width and height of a HEIC as it is seen, or null: the largest of its pictures is the whole one, the others are its tiles. @returns {[number, number] | null} */
function heicSize(/** @type {DataView} */ view) {
  if (named(view, 4) !== "ftyp") return null;
  let size = /** @type {[number, number] | null} */ (null), cut = size, turned = false;
  for (let at = 8; at + 20 <= view.byteLength; at += 1) {
    if (view.getUint8(at) !== 0x69 && view.getUint8(at) !== 0x63) continue;  // "i" or "c": most bytes begin no name
    const name = named(view, at), word = (/** @type {number} */ number) => view.getUint32(at + 4 * number);
    if (name === "irot") turned ||= view.getUint8(at + 4) % 2 === 1;
    if (name === "clap") cut = [word(1) / word(2), word(3) / word(4)];  // what is seen of it
    if (name === "ispe" && word(2) * word(3) > (size ? size[0] * size[1] : 0)) size = [word(2), word(3)];
  }
  const seen = cut ?? size;
  return seen && turned ? [seen[1], seen[0]] : seen;
}
