// What is dropped on the page, or pasted: files for the page that takes them, and nothing that puts the console away.
import { useLayoutEffect, useRef, useState } from "./html.mjs";

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
      const files = [...event.dataTransfer.files];
      if (files.length) last.current.take(files[0], undefined, files); else last.current.onError(new Error("What was dropped is a link and no file. Save what it leads to, then drop that file."));
    };
    const paste = (event) => { const file = imageOf(event.clipboardData?.items); if (file && last.current.ready) last.current.take(file, "pasted.png", [file]); };
    const all = /** @type {[string, (event: any) => void][]} */ ([["dragover", stop], ["dragleave", leave], ["drop", drop], ["paste", paste]]);
    for (const [name, act] of all) addEventListener(name, act);
    return () => { for (const [name, act] of all) removeEventListener(name, act); };
  }, []);
  return over;
}
