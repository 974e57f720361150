// Masks of a video to take along: a ZIP with a PNG for each object on each frame, and all of them as COCO's run lengths.
import { pngOf } from "./rle.mjs";
import { cornersOf, kOf } from "./tracks.mjs";
import { zipped } from "./zip.mjs";

const plain = (name) => name.replace(/[^\p{L}\p{N}]+/gu, "-").replace(/^-|-$/g, "") || "object";

/** What was tracked, as JSON: sizes and boxes in pixels, `[x, y, width, height]` as COCO has them. */
function told({ file, info, tracks }) {
  const { width, height } = info.resolution;
  const annotations = [...tracks.frames.keys()].sort((a, b) => a - b).flatMap((frame) => [...tracks.frames.get(frame)].map(([key, { mask, box, score }]) => {
    const [x1, y1, x2, y2] = cornersOf(box, width, height);
    return { frame_index: frame, object: key, segmentation: { size: [height, width], counts: mask }, bbox: [x1, y1, x2 - x1, y2 - y1], score };
  }));
  return { video: { file: file.name, width, height, fps: info.fps, frames: info.total_frames }, objects: tracks.things.map(({ key, name }) => ({ id: key, name })), annotations };
}

/** Pack all masks; `tell` gets how far it is. */
export async function packed(film, tell) {
  const { width, height } = film.info.resolution;
  const all = told(film);
  const names = new Map(all.objects.map(({ id, name }) => [id, `${id}-${plain(name)}`]));
  const options = { lastModified: film.file.lastModified };
  const files = [new File([JSON.stringify(all)], "masks.json", options)];
  for (const [at, { frame_index: frame, object, segmentation }] of all.annotations.entries()) {
    if (at % 20 === 0) tell(`: ${at} of ${all.annotations.length}`);
    files.push(new File([await pngOf(segmentation.counts, width, height)], `${names.get(object)}/${String(frame).padStart(6, "0")}.png`, options));
  }
  return zipped(files, "masks.zip");
}

/** What the server draws into the video: the masks, with the names and colours of this page. */
export function shownOf({ tracks }) {
  const style = getComputedStyle(document.documentElement);
  return {
    frames: Object.fromEntries([...tracks.frames].map(([frame, found]) => [frame, [...found].map(([id, { mask }]) => ({ id, mask }))])),
    objects: Object.fromEntries(tracks.things.map((thing) => [thing.key, { name: thing.name.slice(0, 100), colour: style.getPropertyValue(`--${kOf(thing)}`).trim() }])),
  };
}
