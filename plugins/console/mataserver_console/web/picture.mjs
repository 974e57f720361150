// The picture that is asked about: a file, what was dropped or pasted, a camera's frame, an example.
import { send } from "./api.mjs";
import { Button, Dialog, Note } from "./controls.mjs";
import { decoded, sizeOf } from "./decoding.mjs";
import { named } from "./direction.mjs";
import { html, useEffect, useRef, useState } from "./html.mjs";
import { keep } from "./kept.mjs";
import { address } from "./route.mjs";

const LARGE = 16e6;
const HELD = 2 ** 28;  // bytes: no server takes more for a picture
const SHOWN = 4096;
const UNSEEN = { width: 640, height: 360 };
export const EXAMPLES = [
  { name: "receipt.jpg", alt: "A receipt", tasks: ["ocr", "vlm"] },
  { name: "astronaut.jpg", alt: "Portrait of an astronaut", tasks: ["detect", "track", "segment", "pose", "depth", "classify", "embed"] },
  { name: "codes.jpg", alt: "Three codes", tasks: ["detect", "track"] },
];

/** Examples with those of the task first. */
export const examplesOf = (task) => [...EXAMPLES].sort((a, b) => Number(b.tasks.includes(task)) - Number(a.tasks.includes(task)));

/** A file as it is now: one that changes or goes later could not be sent any more. */
async function held(file, name) {
  if (file.type.startsWith("video/")) throw new Error(`${named(name)} is a video. Jobs runs a model over its frames; Segment tracks objects in it.`);
  if (file.size > HELD) return file;
  let bytes;
  try { bytes = await file.arrayBuffer(); } catch { throw new Error(`${named(name)} cannot be read. A folder is no picture.`); }
  if (!bytes.byteLength) throw new Error(`${named(name)} is empty: it has 0 bytes.`);
  return new Blob([bytes], { type: file.type });
}

/** A name that no other picture has: what was marked on this one is kept by it. */
const marked = () => `${Date.now()} ${Math.random()}`;

/** What is shown of a file: the server reads formats that a browser does not, such as a phone's HEIC. */
export async function pictureOf(file, name = file.name || "picture", mark = marked()) {
  const blob = await held(file, name);
  const found = await decoded(blob);
  if (!found) {
    const size = await sizeOf(blob);
    return { blob, name, mark, url: "", width: size?.[0] ?? UNSEEN.width, height: size?.[1] ?? UNSEEN.height, unseen: true, known: Boolean(size) };
  }
  const { bitmap, plain } = found;
  const { width, height } = bitmap;
  const url = URL.createObjectURL(plain && width * height <= LARGE ? blob : await smaller(bitmap));
  bitmap.close();
  return { blob, name, mark, url, width, height };
}

/** A picture of many megapixels is shown smaller, one that no browser turns is shown turned, of one that moves the first frame; it is sent as it is. */
async function smaller(bitmap) {
  const scale = Math.min(1, SHOWN / Math.max(bitmap.width, bitmap.height));
  const canvas = new OffscreenCanvas(Math.round(bitmap.width * scale), Math.round(bitmap.height * scale));
  canvas.getContext("2d")?.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  return canvas.convertToBlob({ type: "image/webp", quality: 0.9 });
}

export async function exampleOf(name) {
  const answer = await send(`console/pictures/${name}`);
  return pictureOf(await answer.blob(), name);
}

/** Take a picture: show it, and keep it for a reload. */
export function remember(picture) {
  keep("picture", { blob: picture.blob, name: picture.name, mark: picture.mark });
  return picture;
}

async function fromClipboard() {
  if (!navigator.clipboard?.read) throw new Error("This browser gives a page no clipboard here: press Ctrl+V.");
  const refused = ({ name }) => { throw new Error(name === "NotAllowedError" ? "The browser did not let the page read the clipboard: press Ctrl+V." : "There is no picture on the clipboard."); };
  for (const item of await navigator.clipboard.read().catch(refused)) {
    const kind = item.types.find((type) => type.startsWith("image/"));
    if (kind) return new File([await item.getType(kind)], `pasted.${kind.slice(6)}`);
  }
  throw new Error("There is no picture on the clipboard.");
}

/** File, Paste, Camera. */
export function Ways({ take, onError }) {
  const file = useRef(null);
  const [camera, setCamera] = useState(false);
  const choose = (event) => { if (event.target.files[0]) take(event.target.files[0]); event.target.value = ""; };
  return html`<div class="three">
    <input ref=${file} class="sr" type="file" accept="image/*,.heic,.heif,.avif,.tif,.tiff" tabindex="-1" aria-hidden="true" data-picture onChange=${choose}/>
    <${Button} icon="file" onClick=${() => file.current.click()}>File<//>
    <${Button} icon="paste" onClick=${() => fromClipboard().then(take, onError)}>Paste<//>
    <${Button} icon="camera" onClick=${() => setCamera(true)}>Camera<//></div>
    ${camera && html`<${Camera} take=${(blob) => { setCamera(false); take(blob, "camera.jpg"); }} close=${() => setCamera(false)}/>`}`;
}

export const needsHttps = () => !navigator.mediaDevices;

export const NeedsHttps = () => html`<${Note} kind="warn"><b>The browser keeps its camera from this page</b>
  <span>It gives it to https:// and localhost only. Put a proxy with TLS in front, or open the page on the server itself.</span><//>`;

function Camera({ take, close }) {
  const video = useRef(null);
  const [error, setError] = useState(null);
  const [seen, setSeen] = useState(false);
  useEffect(() => {
    if (needsHttps()) return undefined;
    let media = /** @type {MediaStream | null} */ (null), here = true;
    navigator.mediaDevices.getUserMedia({ video: { width: { ideal: 1280 } } }).then((got) => {
      media = got;
      if (here) { video.current.srcObject = media; video.current.play(); } else stop(media);
    }, (failure) => setError(ofCamera(failure)));
    return () => { here = false; stop(media); };
  }, []);
  const shoot = async () => {
    const canvas = new OffscreenCanvas(video.current.videoWidth, video.current.videoHeight);
    canvas.getContext("2d")?.drawImage(video.current, 0, 0);
    take(await canvas.convertToBlob({ type: "image/jpeg", quality: 0.92 }));
  };
  return html`<${Dialog} title="Camera" onClose=${close}>
    ${needsHttps() ? html`<${NeedsHttps}/>` : error ? html`<${Note} kind="bad">${error.message}<//>`
      : html`<video ref=${video} class="finder" muted playsinline aria-label="What the camera sees" onLoadedData=${() => setSeen(true)}></video>
        <${Button} primary disabled=${!seen} onClick=${shoot}>${seen ? "Take the picture" : "Waiting for the camera"}<//>`}
    <p class="help">For moving pictures: <a href=${address("live")}>Live</a></p><//>`;
}

/** What went wrong with a camera, in a sentence. @param {Error} error */
export function ofCamera(error) {
  const said = {
    NotAllowedError: "The browser was not allowed to use the camera: allow it in the address bar.",
    NotFoundError: "This device has no camera that the browser can see.",
    NotReadableError: "The camera is used by another program.",
  }[error.name];
  return said ? new Error(said) : error;
}

const stop = (media) => media?.getTracks().forEach((track) => track.stop());

export function Examples({ task, chosen, pick }) {
  return html`<div class="examples">${examplesOf(task).map(({ name, alt }) => html`
    <button type="button" key=${name} aria-pressed=${String(chosen === name)} onClick=${() => pick(name)}><img src=${`console/pictures/small-${name}`} alt=${alt} width="56" height="56"/></button>`)}</div>`;
}

/** A picture's name, cut where it is long, and its size, which is not. */
export const Named = ({ picture: { name, width, height, unseen, known } }) => html`<span class="row quiet"><span class="cut" title=${name}>${name}</span>${unseen && !known ? null : html`<span class="nowrap">${width} × ${height}</span>`}</span>`;

/** In the place of a picture that a browser cannot show. */
export const Unseen = ({ name }) => html`<div class="unseen"><span>This browser cannot show ${name} itself.</span></div>`;

/** Nothing is chosen yet: the first thing on the page is something to click. */
export const Empty = ({ task, take, pick, onError }) => html`<div class="stage"><div class="drop">
  <h2><span class="wide">Drop a picture here</span><span class="narrow">Choose a picture</span></h2><${Ways} take=${take} onError=${onError}/>
  <span class="help">or take one of these</span><${Examples} task=${task} pick=${pick}/></div></div>`;
