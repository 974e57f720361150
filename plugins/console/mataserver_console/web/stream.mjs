// A camera's frames to a model over a WebSocket. Whatever the order of clicks, what was begun is ended.
import { ask } from "./api.mjs";
import { endSession, opened } from "./open_sessions.mjs";
import { ofCamera } from "./picture.mjs";

const QUALITY = 0.85;
const WIDEST = 1280;
/** With two frames on their way the model need not wait for the network; more would be dropped. */
const ON_THE_WAY = 2;
const WINDOW = 60;
/** Why a stream ends whose server gives no reason. */
const ENDS = { 1000: "The server closed the stream", 1001: "The server ended the stream: it stops, or is started anew", 1006: "The connection to the server broke off" };

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
    this.seconds.delete(second - WINDOW);
  }

  figures(now) {
    const recent = 3000;
    this.frames = this.frames.filter((each) => each > now - recent);
    this.results = this.results.filter((each) => each.now > now - 10_000);
    const sorted = this.results.map((each) => each.latency).sort((a, b) => a - b);
    const rate = (times) => (times.length > 1 ? ((times.length - 1) * 1000) / (times.at(-1) - times[0]) : 0);
    return {
      camera: rate(this.frames), results: rate(this.results.filter((each) => each.now > now - recent).map((each) => each.now)),
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
    this.socket = /** @type {WebSocket | null} */ (null);
    this.session = "";
    this.flying = 0;
    /** When each frame that is on its way was captured, and its size. */
    this.captured = new Map();
    this.meter = new Meter();
    this.encoder = new Worker(new URL("./encoder.mjs", import.meta.url), { type: "module" });
    this.encoder.onerror = () => this.stop(new Error("The browser cannot encode the camera's frames: reload the page"));
  }

  async start({ model, task, params, device }) {
    try {
      const media = await navigator.mediaDevices.getUserMedia({ video: { width: { ideal: 640 }, height: { ideal: 480 }, ...(device ? { deviceId: { exact: device } } : {}) } });
      if (this.ended) { for (const track of media.getTracks()) track.stop(); return; }
      this.media = media;
      media.getVideoTracks()[0].onended = () => this.stop(new Error("The camera was disconnected"));
      this.video.srcObject = media;
      await this.video.play();
      this.tell({ phase: "loading" });
      const made = await ask("v1/sessions", { json: { model, ...(task ? { task } : {}), ...(Object.keys(params).length ? { params } : {}) } });
      if (this.ended) { endSession(pathOf(made.session_id)); return; }
      this.session = made.session_id;
      opened(pathOf(this.session));
      this.connect();
    } catch (error) {
      if (!this.ended) this.stop(ofCamera(error));
    }
  }

  connect() {
    const url = new URL(`v1/stream/${this.session}`, location.href);
    url.protocol = url.protocol === "https:" ? "wss:" : "ws:";
    url.hash = "";
    this.socket = new WebSocket(url);
    this.socket.onopen = () => { this.tell({ phase: "live", session: this.session }); this.watch(); };
    this.socket.onmessage = (event) => this.read(JSON.parse(event.data));
    this.socket.onclose = ({ code, reason }) => this.stop(new Error(reason || ENDS[code] || `The stream was closed with ${code}`));
  }

  watch() {
    if (this.ended) return;
    this.video.requestVideoFrameCallback((now, frame) => {
      this.meter.frame(now);
      this.send(frame.captureTime ?? now);
      this.watch();
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

  async send(captured) {
    if (this.encoding || this.flying >= ON_THE_WAY || this.socket?.readyState !== WebSocket.OPEN) return;
    this.encoding = true;
    try {
      const frame = await this.shown();
      const size = [frame.width, frame.height];
      const blob = await this.encoded(frame);
      if (!blob || this.ended || this.socket.readyState !== WebSocket.OPEN) return;
      this.captured.set(this.meter.sent, { captured, size });
      this.meter.sent += 1;
      this.flying += 1;
      this.socket.send(blob);
    } finally { this.encoding = false; }
  }

  read(said) {
    if (said.type === "pong" || said.type === "token") return;
    if (said.frame_id !== undefined) this.flying = Math.max(0, this.flying - 1);
    if (said.type === "error") { this.tell({ problem: said.detail }); return; }
    const now = performance.now();
    const of = this.captured.get(said.frame_id);
    for (const id of this.captured.keys()) {
      if (id > said.frame_id) break;
      if (id < said.frame_id) this.flying = Math.max(0, this.flying - 1);
      this.captured.delete(id);
    }
    this.meter.dropped = said.dropped;
    this.flying = Math.min(this.flying, this.captured.size);
    if (!of) return;
    this.meter.result(now, now - of.captured);
    this.tell({ answer: said, captured: of.captured, size: of.size, problem: "" });
  }

  /** End all that was begun; what is still under way ends itself when it comes. */
  stop(error = /** @type {Error | null} */ (null)) {
    if (this.ended) return;
    this.ended = true;
    for (const track of this.media?.getTracks() ?? []) { track.onended = null; track.stop(); }
    this.video.srcObject = null;
    this.encoder.terminate();
    if (this.socket) { this.socket.onclose = null; this.socket.close(); }
    if (this.session) endSession(pathOf(this.session));
    this.tell({ phase: "off", error });
  }
}
