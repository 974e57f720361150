// Words of others in sentences of ours: controls of direction are shown by their numbers, and names are isolated.
const TURNED = /[\u0590-\u08ff\u200f\u202a-\u202e\u2066-\u2069\ud802\ud803\ud83a\ud83b\ufb1d-\ufdff\ufe70-\ufefc]/;  // read to the left, some by the first half of a pair, or controls of direction

const numbered = (text, controls) => text.replace(controls, (each) => `\\u${each.charCodeAt(0).toString(16)}`);

/** Whether a text may turn the words around it. @param {string} text */
export const isTurned = (text) => TURNED.test(text);

/** A text in which nothing turns what stands behind it, but for what `named` isolated. @param {string} text */
export const visible = (text) => numbered(text, /[\u202a-\u202e\u2066\u2067]/g);

/** A text without any control of direction, as of an error of the server. @param {string} text */
export const escaped = (text) => numbered(text, /[\u202a-\u202e\u2066-\u2069]/g);

/** A sentence of the server, which is English also if it begins with a name that is read to the left. @param {string} text */
export const sentence = (text) => (TURNED.test(/[\p{L}\u200f]/u.exec(text)?.[0] ?? "") ? `\u200e${escaped(text)}` : escaped(text));

/** A name as it goes into a sentence, whose words stay where they are. @param {string} name */
export const named = (name) => (TURNED.test(name) ? `\u2068${escaped(name)}\u2069` : name);
