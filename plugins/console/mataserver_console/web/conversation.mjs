// What a model is told of what was said before: the turns about the same picture since a conversation began.
import { named } from "./direction.mjs";
import { meant } from "./params.mjs";
import { infer } from "./runner.mjs";

/** @typedef {{question: string, text: string, asked: number, mark?: string, isFirst?: boolean, instead?: number}} Turn `mark` is the picture's, `instead` when the turn that this one takes the place of was asked */

/** Models that have the parameter `history` and no place for one in their own template: this visit has seen it. */
const single = new Set();

/** The parameters that the page gives a model itself. */
export const GIVEN = ["prompt", "history", "image_turn", "image_places"];

/** How many earlier questions a model may be told of; 0 of one that answers single questions. */
export function mostTold(model, schema) {
  const history = schema?.properties?.history;
  if (!history || single.has(model)) return 0;
  const list = meant(history, schema.$defs), turn = meant(list.items ?? {}, schema.$defs).properties ?? {};
  return turn.prompt && turn.answer ? list.maxItems ?? Infinity : 0;
}

/** The turns of the conversation about a picture that goes on, the oldest first; those without an answer are left out. @param {Turn[]} turns */
export function conversationOf(turns, mark) {
  /** @type {Turn[]} */
  let said = [];
  for (const turn of turns) {
    if (turn.mark !== mark || turn.isFirst) said = [];
    if (turn.mark === mark && turn.text) said = [...said.filter(({ asked }) => asked !== turn.instead), turn];
  }
  return said;
}

/** Of which turns a later answer took the place. @param {Turn[]} turns @returns {Set<number>} */
export const replaced = (turns) => new Set(turns.flatMap(({ instead, text }) => (instead && text ? [instead] : [])));

/** What began with a turn that is not the first of all. @param {any} turn @param {any} before */
export function beginning(turn, before) {
  if (!before || !turn.mark) return "";
  if (turn.mark !== before.mark) return `New picture: ${named(turn.of)}`;
  return turn.isFirst ? "New conversation" : "";
}

/** A conversation as the parameter `history`. @param {Turn[]} said */
export const historyOf = (said) => said.map(({ question, text }) => ({ prompt: question, answer: text }));

/** Whether a refusal may be one of too much that was said before. */
export const mayBeLong = (error) => error.status === 413 || (error.status === 422 && /^params\.(prompt|history)/.test(error.message));

/** Whether a model has no place for what was said before. */
const isSingle = (error) => error.status === 422 && /^params\.history: (?!at most)/.test(error.message);

/** Ask with what was said before; a model that has no place for it is asked the question alone. @param {any} asking @returns {Promise<[Response, number]>} the answer, and how many turns the model was told of */
export async function answerTo({ model, params, history, ...rest }) {
  if (history.length) {
    try {
      return [await infer({ model, params: { ...params, history }, ...rest }), history.length];
    } catch (error) {
      if (!isSingle(error)) throw error;
      single.add(model);
    }
  }
  return [await infer({ model, params, ...rest }), 0];
}
