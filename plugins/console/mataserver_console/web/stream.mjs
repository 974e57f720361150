// A camera's frames to a model over a WebSocket. Whatever the order of clicks, what was begun is ended; what breaks off goes on by itself.
import { ask, silence } from "./api.mjs";
import { sentence } from "./direction.mjs";
import { closed, endSession, opened } from "./open_sessions.mjs";
import { ofCamera } from "./picture.mjs";
import { PAUSES, passes } from "./source.mjs";

const QUALITY = 0.85;
const WIDEST = 1280;
/** With two frames on their way the model need not wait for the network; more would be dropped. */
const ON_THE_WAY = 2;
const WINDOW = 60;
const SLOW = 1000, QUICK = 700;  // milliseconds: from when on an answer is shown on its own picture, and until when
const LEAST = 4;  // results whose times make a rate, however far apart they are
const QUIET = 5000;  // milliseconds without a word from the server, which is then asked for one
const LATE = 20_000;  // milliseconds: a connection that broke without a word never answers; over a slow one frames are before the question
const VAIN = 5;  // connections in a row over which nothing was heard, or sessions that failed: then no further one would do
const BARRED = "The server answers, but over no WebSocket: a proxy on the way may not let WebSockets through";
/** Why a stream ends whose server gives no reason. */
const ENDS = { 1000: "The server closed the stream", 1001: "The server ended the stream: it stops, or is started anew", 1006: "The connection to the server broke off", 4001: "The session of this browser is over" };
const AGAIN = "It goes on by itself", SIGNED = "It goes on once you have signed in again";
const IDLE = "no frame for too long";  // of a page that nobody looked at
/** Whether the same may be begun again after such an end. */
const goesOn = ({ code, reason }) => [1001, 1006, 1012, 1013, 4001].includes(code) || reason === IDLE;

/** Wait until the server answers, where it does not. */
const answered = () => new Promise((done) => {
  if (!silence.get()) { done(undefined); return; }
  const leave = silence.watch((now) => { if (!now) { leave(); done(undefined); } });
});

const pathOf = (id) => `v1/sessions/${encodeURIComponent(id)}`;

const percentile = (sorted, share) => sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))];

/** What is told of a stream: rates of the last seconds, latencies of each second of the last minute. */
export class Meter {
  constructor() { this.frames = []; this.results = []; this.seconds = new Map(); this.dropped = 0; this.sent = 0; }

  frame(now) { this.frames.push(now); }

  result(now, latency) {
    this.results.push({ now, latency });
    const second = Math.floor(now / 1000);
    if (!this.seconds.has(second)) this.seconds.set(second, []);
    this.seconds.get(second).push(latency);
    for (const old of this.seconds.keys()) { if (old > second - WINDOW) break; this.seconds.delete(old); }
  }

  figures(now) {
    const recent = 3000;
    this.frames = this.frames.filter((each) => each > now - recent);
    this.results = this.results.filter((each, at) => each.now > now - 10_000 || (at >= this.results.length - LEAST && each.now > now - WINDOW * 1000));
    const sorted = this.results.map((each) => each.latency).sort((a, b) => a - b);
    // Behind the last one as much time counts as is between two: a rate falls where nothing more comes.
    const rate = (times) => (times.length > 1 ? ((times.length - 1) * 1000) / Math.max(times.at(-1) - times[0], ((now - times[0]) * (times.length - 1)) / times.length) : 0);
    return {
      camera: rate(this.frames), results: rate(this.results.filter((each, at) => each.now > now - recent || at >= this.results.length - LEAST).map((each) => each.now)),
      p50: sorted.length ? percentile(sorted, 0.5) : null, p95: sorted.length ? percentile(sorted, 0.95) : null,
      dropped: this.dropped, sent: this.sent,
    };
  }

  /** p50 and p95 of each of the last 60 seconds; null where nothing came. */
  curve(now) {
    const last = Math.floor(now / 1000);
    const at = (share) => Array.from({ length: WINDOW }, (_, i) => {
      const found = this.seconds.get(last - WINDOW + 1 + i);
      return found ? percentile([...found].sort((a, b) => a - b), share) : null;
    });
    return { p50: at(0.5), p95: at(0.95) };
  }
}

/** One run of one camera with one model. `tell` gets what changes; it is made, started once, stopped once. */
export class Stream {
  /**
   * @param {HTMLVideoElement} video
   * @param {(change: any) => void} tell
   */
  constructor(video, tell) {
    this.video = video;
    this.tell = tell;
    this.ended = this.encoding = false;
    this.media = /** @type {MediaStream | null} */ (null);
    this.wanted = {};
    this.socket = /** @type {WebSocket | null} */ (null);
    this.session = "";
    this.frames = 0;  // of this session: each has its number there
    /** When each frame that is on its way was captured, and its size. */
    this.captured = new Map();
    this.slow = false;
    this.missed = 0;  // frames of the sessions before this one that had no answer
    this.tries = 0;  // sessions that were begun since the last answer
    this.vain = 0;  // of them in a row of which nothing was heard: the server itself answers in each, or says why it ends
    this.still = /** @type {ImageBitmap | null} */ (null);
    this.told = 0;  // when the frame was captured whose answer was told last
    this.heard = this.asked = 0;  // when the server said something, and was asked whether it is there
    this.beat = 0;
    this.meter = new Meter();
    this.encoder = new Worker(new URL("./encoder.mjs", import.meta.url), { type: "module" });
    this.encoder.onerror = () => this.stop(new Error("The browser cannot encode the camera's frames: reload the page"));
  }

  async start({ model, task, params, device }) {
    this.wanted = { model, ...(task ? { task } : {}), ...(Object.keys(params).length ? { params } : {}) };
    try {
      const media = await navigator.mediaDevices.getUserMedia({ video: { width: { ideal: 640 }, height: { ideal: 480 }, ...(device ? { deviceId: { exact: device } } : {}) } });
      if (this.ended) { for (const track of media.getTracks()) track.stop(); return; }
      this.media = media;
      const [track] = media.getVideoTracks();
      track.onended = () => this.stop(new Error("The camera was disconnected"));
      track.onmute = () => this.tell({ problem: "The camera sends no picture: another program, the system or a switch on it holds it back" });
      this.video.srcObject = media;
      this.video.onpause = () => { this.video.play().catch(() => {}); };  // a browser that freezes a page pauses it for good
      await this.video.play();
      await this.open();
    } catch (error) {
      if (!this.ended) this.stop(ofCamera(error));
    }
  }

  async open() {
    this.tell({ phase: "loading" });
    const made = await ask("v1/sessions", { json: this.wanted });
    if (this.ended) { endSession(pathOf(made.session_id)); return; }
    this.session = made.session_id;
    opened(pathOf(this.session));
    this.connect();
  }

  connect() {
    const url = new URL(`v1/stream/${this.session}`, location.href);
    url.protocol = url.protocol === "https:" ? "wss:" : "ws:";
    url.hash = "";
    const socket = this.socket = new WebSocket(url);
    socket.onopen = () => {
      this.heard = performance.now();
      this.beat = setInterval(() => this.check(socket), 1000);
      this.tell({ phase: "live", session: this.session, problem: "" });
      this.watch(socket);
    };
    let heard = false;
    socket.onmessage = (event) => {
      heard = true;
      this.vain = 0;
      this.read(JSON.parse(event.data));
    };
    socket.onclose = (end) => {
      if (!heard && !end.reason) this.vain += 1;
      if (this.vain >= VAIN) { this.stop(new Error(BARRED)); return; }
      const said = end.reason || ENDS[end.code] || `The stream was closed with ${end.code}`;
      const error = new Error(said[0].toUpperCase() + said.slice(1));
      if (goesOn(end)) this.again(error, end.code === 4001 ? SIGNED : AGAIN); else this.stop(error);
    };
  }

  /** Notice a connection that broke without a word. */
  check(socket) {
    const now = performance.now();
    if (this.asked && now - this.asked > LATE) this.again(new Error("The server has not answered for a while"));
    else if (!this.asked && now - this.heard > QUIET) { this.asked = now; socket.send('{"type": "ping"}'); }
  }

  /** Let the connection go. */
  leave() {
    clearInterval(this.beat);
    this.beat = this.asked = 0;
    if (this.socket) { this.socket.onopen = this.socket.onmessage = this.socket.onclose = null; this.socket.close(); }
    this.socket = null;
  }

  /** Go on in another session, as soon as a picture is seen and the server answers: how many frames the one before got is not known. */
  async again(why, then = AGAIN) {
    this.leave();
    this.missed = this.meter.dropped += this.captured.size;
    this.captured.clear();
    this.frames = 0;
    const pause = this.tries ? PAUSES[Math.min(this.tries, PAUSES.length) - 1] * 1000 : 0;
    this.tries += 1;
    this.tell({ phase: "lost", problem: `${why.message}. ${then}.` });
    try {
      await new Promise((done) => { setTimeout(done, pause); });
      await new Promise((seen) => { this.video.requestVideoFrameCallback(seen); });
      await answered();
      await this.free();
      if (!this.ended) await this.open();
    } catch (error) {
      if (this.ended) return;
      if (error.status === 500) this.vain += 1;
      if (passes(error) && error.status !== 507 && this.vain < VAIN) this.again(error); else this.stop(error);
    }
  }

  /** End the session before: it would take a place from others. */
  async free() {
    const path = pathOf(this.session);
    if (!this.session) return;
    try { await ask(path, { method: "DELETE" }); } catch (error) { if (error.status !== 404) throw error; }
    closed(path);
    this.session = "";
  }

  watch(socket) {
    if (this.socket !== socket) return;
    this.video.requestVideoFrameCallback((now, frame) => {
      this.meter.frame(now);
      this.send(socket, frame.captureTime ?? now);
      this.watch(socket);
    });
  }

  /** The frame that is shown, as it is sent: no wider than `WIDEST`. */
  shown() {
    const { videoWidth, videoHeight } = this.video;
    if (videoWidth <= WIDEST) return createImageBitmap(this.video);
    const resizeHeight = Math.round((videoHeight * WIDEST) / videoWidth);
    return createImageBitmap(this.video, { resizeWidth: WIDEST, resizeHeight });
  }

  /** A frame as JPEG, or null where the browser cannot make it; one at a time. @returns {Promise<Blob | null>} */
  encoded(frame) {
    return new Promise((done) => {
      this.encoder.onmessage = ({ data }) => done(data);
      this.encoder.postMessage({ frame, quality: QUALITY }, [frame]);
    });
  }

  async send(socket, captured) {
    if (this.encoding || this.captured.size >= ON_THE_WAY || socket.readyState !== WebSocket.OPEN) return;
    this.encoding = true;
    try {
      const frame = await this.shown();
      const size = [frame.width, frame.height];
      const blob = await this.encoded(frame);
      if (!blob || this.socket !== socket || socket.readyState !== WebSocket.OPEN) return;
      this.captured.set(this.frames, { captured, size, blob });
      this.frames += 1;
      this.meter.sent += 1;
      socket.send(blob);
    } finally { this.encoding = false; }
  }

  read(said) {
    const now = performance.now();
    this.heard = now;
    this.asked = 0;
    if (said.type === "pong" || said.type === "token") return;
    const of = this.captured.get(said.frame_id);
    this.captured.delete(said.frame_id);
    if (said.type === "error") { this.tell({ problem: sentence(said.detail) }); return; }
    for (const id of this.captured.keys()) if (id < said.frame_id) this.captured.delete(id);  // they were dropped
    this.meter.dropped = this.missed + said.dropped;
    this.tries = 0;
    if (!of) return;
    this.meter.result(now, now - of.captured);
    this.slow = now - of.captured > (this.slow ? QUICK : SLOW);
    this.show(said, of);
  }

  /** Show an answer: of a slow model on the picture that it is of, since in the moving one things are elsewhere by now. */
  async show(answer, { captured, size, blob }) {
    const still = this.slow ? await createImageBitmap(blob) : null;
    if (this.ended || captured < this.told) { still?.close(); return; }
    this.keep(still);
    this.told = captured;
    this.tell({ answer, captured, size, still, problem: "" });
  }

  /** Hold the picture that is shown now; the one before may not have been drawn. */
  keep(still) {
    this.still?.close();
    this.still = still;
  }

  /** End all that was begun; what is still under way ends itself when it comes. */
  stop(error = /** @type {Error | null} */ (null)) {
    if (this.ended) return;
    this.ended = true;
    for (const track of this.media?.getTracks() ?? []) { track.onended = track.onmute = null; track.stop(); }
    this.video.onpause = null;
    this.video.srcObject = null;
    this.encoder.terminate();
    this.leave();
    this.keep(null);
    if (this.session) endSession(pathOf(this.session));
    this.tell({ phase: "off", error, still: null, problem: "" });
  }
}
