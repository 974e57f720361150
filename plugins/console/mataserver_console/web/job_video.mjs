// The video that a job made, played in the page; the server sends the part of it that is looked at.
import { send } from "./api.mjs";
import { Note, Trouble } from "./controls.mjs";
import { html, useRef, useState } from "./html.mjs";
import { Icon } from "./icons.mjs";
import { fileOf } from "./job_files.mjs";
import { PAUSES } from "./source.mjs";

const DECODING = 3;  // MediaError.MEDIA_ERR_DECODE
const MOST = 3;  // times that it is loaded anew without having come further
const FURTHER = 1;  // second

/** Whether a browser may play a file, by its name. @param {{name: string}} file */
export const isVideo = ({ name }) => /\.(mp4|webm)$/i.test(name);

/** A video with its controls; one that did not come because the session was over, or the server away, comes after that. */
export function JobVideo({ job, name }) {
  const src = fileOf(job, name);
  const [error, setError] = useState(/** @type {any} */ (null));
  const tries = useRef(0), broke = useRef(0), loaded = useRef(true);
  /** @param {{currentTarget: HTMLVideoElement}} event */
  const fail = async ({ currentTarget: video }) => {
    if (video.error?.code === DECODING || (tries.current && !loaded.current)) { setError({}); return; }
    if (tries.current === MOST) { setError(new Error("The connection broke again and again.")); return; }
    const at = broke.current = video.currentTime;
    if (tries.current) await new Promise((done) => { setTimeout(done, PAUSES[tries.current - 1] * 1000); });
    tries.current += 1;
    loaded.current = false;
    try { await send(src, { headers: { Range: "bytes=0-0" } }); } catch (failure) { setError(failure); return; }
    if (!video.isConnected) return;
    video.load();
    video.currentTime = at;
  };
  /** @param {{currentTarget: HTMLVideoElement}} event */
  const play = ({ currentTarget: video }) => { if (video.currentTime > broke.current + FURTHER) tries.current = 0; };
  const again = () => { tries.current = 0; setError(null); };
  return html`<section class="card" aria-label="Video"><header><h2>Video</h2><span class="grow"></span><a class="btn small" href=${src} download><${Icon} name="download"/>${name}</a></header>
    ${error ? html`<div class="pad">${error.message ? html`<${Trouble} error=${error} again=${again}/>` : html`<${Note} kind="warn">This browser cannot play it. Download it to see it in another program.<//>`}</div>`
      : html`<video class="played" controls playsinline preload="metadata" src=${src} aria-label=${name} onError=${fail} onLoadedData=${() => { loaded.current = true; }} onTimeUpdate=${play}></video>`}</section>`;
}
