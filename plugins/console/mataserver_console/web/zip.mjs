// A ZIP of files as they are, made in the browser: photographs are compressed already.
import { Unreadable } from "./api.mjs";

const TABLE = Uint32Array.from({ length: 256 }, (_, n) => { let c = n; for (let k = 0; k < 8; k += 1) c = c & 1 ? 0xedb88320 ^ (c >>> 1) : c >>> 1; return c; });
const UTF8 = 0x0800, DATE = 0x21;  // the first of 1980: the same files make the same archive
const MOST = 2 ** 32 - 2 ** 20, ENTRIES = 65_000;

/** The CRC-32 of a file, read in parts: it may be larger than a page's memory. */
async function checksum(file) {
  let sum = -1;
  const reader = file.stream().getReader();
  try {
    for (let part = await reader.read(); !part.done; part = await reader.read()) for (const byte of part.value) sum = TABLE[(sum ^ byte) & 0xff] ^ (sum >>> 8);
  } catch { throw new Unreadable(file.name); }
  return (sum ^ -1) >>> 0;
}

/** A record of little-endian numbers: `[bytes, value]` each. */
function record(...fields) {
  const view = new DataView(new ArrayBuffer(fields.reduce((size, [bytes]) => size + bytes, 0)));
  let at = 0;
  for (const [bytes, value] of fields) { if (bytes === 4) view.setUint32(at, value, true); else view.setUint16(at, value, true); at += bytes; }
  return view.buffer;
}

/**
 * Pack files; the archive refers to them and holds no copy. Throws where a plain ZIP is too small, and `Unreadable`.
 * @param {File[]} files
 * @param {string} name
 * @param {{tell?: (done: number) => void, signal?: AbortSignal}} [options] `tell` gets how many files are in it
 */
export async function zipped(files, name, { tell = () => {}, signal } = {}) {
  if (files.length > ENTRIES || files.reduce((size, file) => size + file.size, 0) > MOST) throw new Error("These are over 4 GB together: pack them into a ZIP yourself.");
  const body = [], directory = [];
  let offset = 0, size = 0;
  for (const [done, file] of files.entries()) {
    signal?.throwIfAborted();
    tell(done);
    const title = new TextEncoder().encode(file.name);
    const told = [[2, 20], [2, UTF8], [2, 0], [2, 0], [2, DATE], [4, await checksum(file)], [4, file.size], [4, file.size], [2, title.length], [2, 0]];
    body.push(record([4, 0x04034b50], ...told), title, file);
    directory.push(record([4, 0x02014b50], [2, 20], ...told, [2, 0], [2, 0], [2, 0], [4, 0], [4, offset]), title);
    offset += 30 + title.length + file.size;
    size += 46 + title.length;
  }
  const end = record([4, 0x06054b50], [2, 0], [2, 0], [2, files.length], [2, files.length], [4, size], [4, offset], [2, 0]);
  return new File([...body, ...directory, end], name, { type: "application/zip", lastModified: Math.max(...files.map((file) => file.lastModified)) });
}
