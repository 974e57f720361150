// A video on the server: sent, looked at, prompted, tracked. Whatever the order of clicks, what was begun is ended.
import { ask, isAbort, send, sendFile } from "./api.mjs";
import { endSession, opened } from "./open_sessions.mjs";

const HERE = "api/v1/video";
const PAUSE = 150;  // milliseconds until a busy session is asked for again

/** A name that nobody else has, nor a server gives: who gave it can end the session without the answer to its start. */
const named = () => `console.${[...crypto.getRandomValues(new Uint8Array(12))].map((byte) => byte.toString(16).padStart(2, "0")).join("")}`;
const rest = (time) => new Promise((done) => { setTimeout(done, time); });

/** Whether the session is over, by an error that was judged: it expired, or the server was started anew. */
export const isOver = (error) => Boolean(error?.over);

/** One session. It is made, opened once, ended once. */
export class Film {
  /**
   * @param {File} file
   * @param {(change: object) => void} tell what changes: `sent` bytes, `phase`, `info`, `error`
   */
  constructor(file, tell) {
    this.file = file;
    this.tell = tell;
    this.id = named();
    this.ended = false;
    /** @type {{stopped: boolean, socket: WebSocket | null} | null} */
    this.run = null;
    /** @type {Promise<any>} */
    this.waits = Promise.resolve();
    this.control = new AbortController();
    this.here = `${HERE}/session/${this.id}`;
  }

  /** Send the file. Returns what the video is, or null when it was given up or refused. */
  async open() {
    opened(this.here);
    try {
      const options = { tell: (sent) => this.tell({ sent }), signal: this.control.signal };
      const { video_info: info } = await (await sendFile(`${HERE}/session/upload?session_id=${this.id}`, this.file, options)).json();
      if (this.ended) return null;
      this.tell({ phase: "open", info });
      return info;
    } catch (error) {
      if (this.ended) return null;
      this.end();
      this.tell({ phase: "off", error: isAbort(error) ? null : error });
      return null;
    }
  }

  /** What changes a session goes one after the other: the server refuses the second at once. */
  next(work) {
    const done = this.waits.then(async () => {
      for (;;) {
        try { return await work(); } catch (error) { if (error.status !== 409 || !(await this.wasBusy())) throw error; }
        await rest(PAUSE);
      }
    });
    this.waits = done.catch(() => {});
    return done;
  }

  /** Whether a refusal passes: a frame is still being computed. */
  async wasBusy() {
    return !this.ended && (await this.ask("/status")).status !== "error";
  }

  ask(route, options = {}) { return ask(`${this.here}${route}`, { signal: this.control.signal, ...options }); }

  /** Show new objects on a frame, or correct one. */
  prompt(frame, prompts, id = null) {
    return this.next(() => this.ask("/prompt", { json: { frame_index: frame, prompts, obj_id: id, mask_format: "rle" } }));
  }

  remove(id) { return this.next(() => this.ask(`/object/${id}`, { method: "DELETE" })); }

  reset() { return this.next(() => this.ask("/reset", { method: "POST" })); }

  /** A frame as the server counts and turns it: a mask of that frame lies on it exactly. */
  async picture(frame, signal) {
    return (await send(`${this.here}/frame/${frame}`, { signal })).blob();
  }

  /** Make a video with what was tracked drawn in. */
  async drawn(asked) {
    return (await this.next(() => send(`${this.here}/video`, { json: asked, signal: this.control.signal }))).blob();
  }

  /** Track from a frame on; `take` gets each frame. Returns how many there were, and whether all. */
  track({ direction, from }, take) {
    /** @type {{stopped: boolean, socket: WebSocket | null}} */
    const run = { stopped: false, socket: null };
    this.run = run;
    return this.next(async () => {
      if (run.stopped) return { frames: 0, whole: false };
      if ((await this.ask("/status")).status === "processing") throw Object.assign(new Error("busy"), { status: 409 });
      return this.stream(run, { direction, start_frame_index: from, mask_format: "rle" }, take);
    });
  }

  stream(run, asked, take) {
    return new Promise((resolve, reject) => {
      if (run.stopped) { resolve({ frames: 0, whole: false }); return; }
      const url = new URL(`${HERE}/ws/propagate/${this.id}`, location.href);
      url.protocol = url.protocol === "https:" ? "wss:" : "ws:";
      url.hash = "";
      const socket = run.socket = new WebSocket(url);
      let frames = 0;
      socket.onopen = () => socket.send(JSON.stringify(asked));
      socket.onmessage = ({ data }) => {
        const said = JSON.parse(data);
        if (said.type === "frame") { frames += 1; take(said); }
        if (said.type === "complete") resolve({ frames, whole: true });
        if (said.type === "error") reject(Object.assign(new Error(said.error), { status: 0 }));
      };
      // an end without a word: ours, or the server has gone
      socket.onclose = () => {
        if (run.stopped) resolve({ frames, whole: false });
        else reject(Object.assign(new Error("The server ended the tracking"), { status: 0 }));
      };
    });
  }

  /** Say of an error whether the session is over: it may also be an object that is not there, or a socket's. */
  async judged(error) {
    if (this.ended || (error.status && error.status !== 404)) return error;
    const status = await this.ask("/status").then((told) => told.status, (failure) => (failure.status === 404 ? "closed" : "silent"));
    return Object.assign(error, { over: status === "closed" || (status === "error" && error.status === 404) });
  }

  /** Stop to track; what has come stays. The server ends with the frame under way. */
  stop() {
    if (!this.run) return;
    this.run.stopped = true;
    this.run.socket?.close();
  }

  /** End all that was begun. */
  end() {
    if (this.ended) return;
    this.ended = true;
    this.stop();
    this.control.abort();
    endSession(this.here);
  }
}
