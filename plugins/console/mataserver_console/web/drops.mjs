// What is dropped on the page, or pasted: files for the page that takes them, and nothing that puts the console away.
import { named } from "./direction.mjs";
import { useLayoutEffect, useRef, useState } from "./html.mjs";

/** Whether a file is a picture by its name or kind; a GIF counts as a video. */
export const isPicture = (file) => (file.type.startsWith("image/") && file.type !== "image/gif") || /\.hei[cf]$/i.test(file.name);

/** All files in a folder and below it, but those that a system hides there. @returns {Promise<{file: File, path: string}[]>} */
async function within(folder) {
  const reader = folder.createReader(), found = [];
  for (;;) {
    const some = await new Promise((resolve, reject) => { reader.readEntries(resolve, reject); });  // a hundred at a time
    if (!some.length) return found;
    for (const entry of some) {
      if (entry.name.startsWith(".")) continue;
      if (entry.isDirectory) found.push(...await within(entry));
      else found.push({ file: await new Promise((resolve, reject) => { entry.file(resolve, reject); }), path: entry.fullPath });
    }
  }
}

/** The pictures in folders; each is named by its way from the folder, which tells two of one name apart. */
async function picturesIn(folders) {
  const found = [];
  for (const folder of folders) {
    const all = await within(folder).catch(() => { throw new Error(`${named(folder.name)} cannot be read.`); });
    const start = folders.length > 1 ? 1 : folder.fullPath.length + 1;
    for (const { file, path } of all) if (isPicture(file)) found.push(new File([file], path.slice(start), { type: file.type, lastModified: file.lastModified }));
  }
  const of = folders.length > 1 ? "these folders" : named(folders[0].name);
  if (!found.length) throw new Error(`There is no picture in ${of}. Of a folder the pictures are taken, no videos and no ZIPs.`);
  return found.sort((a, b) => a.name.localeCompare(b.name, "en", { numeric: true }));
}

const imageOf = (items) => [...(items ?? [])].find((each) => each.kind === "file")?.getAsFile() ?? null;

/** Whether files are dragged, or something with an address: text goes into fields as ever. */
const carries = ({ dataTransfer: dragged }) => Boolean(dragged?.types.includes("Files") || dragged?.types.includes("text/uri-list"));

/** Whether a field takes them itself; a browser opens links that are dropped there, and files too if the field is disabled. */
const isOfField = ({ dataTransfer: dragged, target }) => dragged.types.includes("Files") && Boolean(target.closest?.("input[type=file]:enabled"));

/** A browser opens what is dropped where no page takes it: the console would be gone. */
function guard(event) {
  if (!carries(event) || isOfField(event)) return;
  event.preventDefault();
  event.dataTransfer.dropEffect = "none";
}

/** Begin before the pages do: what they take they take after it. */
export function guardDrops() {
  addEventListener("dragover", guard);
  addEventListener("drop", guard);
}

/**
 * Files that are dropped or pasted anywhere on the page; `onError` is told of what is no file.
 * @param {(file: File, name: string | undefined, all: File[]) => void} take gets the first one, and all of them
 * @param {(error: Error) => void} onError
 * @param {boolean} [ready] else nothing is taken, and the pointer says so
 */
export function useDropped(take, onError, ready = true) {
  const [over, setOver] = useState(false);
  const last = useRef({ take, onError, ready });
  last.current = { take, onError, ready };
  useLayoutEffect(() => {
    const isOurs = (event) => last.current.ready && carries(event) && !isOfField(event);
    const stop = (event) => {
      if (isOurs(event)) { event.preventDefault(); event.dataTransfer.dropEffect = "copy"; }
      setOver(isOurs(event));
    };
    const leave = (event) => { if (!event.relatedTarget) setOver(false); };
    const drop = (event) => {
      setOver(false);
      if (!isOurs(event)) return;
      event.preventDefault();
      const entries = [...event.dataTransfer.items].filter((each) => each.kind === "file").map((each) => each.webkitGetAsEntry());
      const folders = entries.filter((each) => each?.isDirectory);
      const files = [...event.dataTransfer.files].filter((_, at) => !entries[at]?.isDirectory);
      const give = (all) => { if (last.current.ready) last.current.take(all[0], undefined, all); };
      const fail = (error) => { last.current.onError(error); };
      if (folders.length) picturesIn(folders).then((found) => give([...files, ...found])).catch(fail);
      else if (files.length) give(files); else fail(new Error("What was dropped is a link and no file. Save what it leads to, then drop that file."));
    };
    const paste = (event) => { const file = imageOf(event.clipboardData?.items); if (file && last.current.ready) last.current.take(file, "pasted.png", [file]); };
    const all = /** @type {[string, (event: any) => void][]} */ ([["dragover", stop], ["dragleave", leave], ["drop", drop], ["paste", paste]]);
    for (const [name, act] of all) addEventListener(name, act);
    return () => { for (const [name, act] of all) removeEventListener(name, act); };
  }, []);
  return over;
}
