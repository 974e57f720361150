// A picture that SAM is asked about again and again: it is sent once, then it has a name.
import { send, timings } from "./api.mjs";
import { outlineOfRuns } from "./outline.mjs";
import { base64Of } from "./runner.mjs";
import { cornersOf, promptOf } from "./tracks.mjs";

/** Where the server is asked, from the page. */
export const HERE = "api/v1/image/segment";
const SURE = 0.5;

/** @typedef {{counts: string, width: number, height: number, score: number, box: number[]}} Proposal */
/** @typedef {Proposal & {path: string, share: number}} Mask */

/** @type {(mask: Proposal) => Mask} with its outline, in pixels of the picture */
export const outlined = (mask) => ({ ...mask, ...outlineOfRuns(mask.counts, mask.width, mask.height) });

export class Asked {
  /** @param {Blob} blob */
  constructor(blob) {
    this.data = base64Of(blob);
    this.data.catch(() => {});  // whoever asks is told
    /** @type {string | null} */
    this.name = null;
  }

  /** Every object that words mean. */
  words(text, signal) {
    return this.#masks({ prompts: [{ type: "text", text }], confidence_threshold: SURE }, signal);
  }

  /**
   * The object that was pointed at, with all masks that the network proposes for it, the best first. A box alone means
   * one object too, but for a model that takes words: that finds all that looks like what is in it.
   * @param {{points: [number, number, number][], box: number[] | null}} thing
   * @param {boolean} one whether a box means one object
   * @param {AbortSignal} signal
   */
  async pointed(thing, one, signal) {
    const prompt = promptOf(thing);
    if (prompt.type === "box" && !one) return this.#masks({ prompts: [prompt], confidence_threshold: SURE }, signal);
    const { masks: proposed, took } = await this.#masks({ prompts: [prompt], confidence_threshold: 0, all_masks: true }, signal);
    return { masks: proposed.slice(0, 1), proposed, took };
  }

  /** @returns {Promise<{masks: Proposal[], proposed?: Proposal[], took: number}>} */
  async #masks(given, signal) {
    const response = await this.#send({ ...given, mask_format: "rle" }, signal);
    const { masks, boxes, scores, image_size: { width, height }, image_id: name, inference_time_ms: spent } = await response.json();
    this.name = name ?? this.name;
    const made = masks.map((counts, at) => ({ counts, width, height, score: scores[at], box: cornersOf(boxes[at], width, height) }));
    return { masks: made, took: timings(response.headers.get("Server-Timing")).total ?? spent };
  }

  async #send(given, signal) {
    const { name } = this;
    if (name) {
      try {
        return await send(HERE, { json: { image_id: name, ...given }, signal });
      } catch (error) {
        if (error.status !== 404) throw error;
        if (this.name === name) this.name = null;  // forgotten: it made room for others, or the server was started anew
      }
    }
    return send(HERE, { json: { image: await this.data, keep_image: true, ...given }, signal });
  }
}
