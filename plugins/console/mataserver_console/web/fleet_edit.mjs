// Changes of what several people may change: a form shows it as it is, and is refused once it is not so any more.
import { ask, send } from "./api.mjs";
import { Dialog, Trouble } from "./controls.mjs";
import { Form } from "./form.mjs";
import { html, useEffect, useState } from "./html.mjs";
import { refresh } from "./source.mjs";

const STALE = 412;

/** What is said of a change that was meant for something older. @param {any} error */
export const told = (error) => (error.status === STALE ? new Error("Somebody else changed it meanwhile: this is how it is now.", { cause: error }) : error);
/** That a change is meant for what was shown. @param {string} tag */
export const ifStill = (tag) => ({ "If-Match": tag || "*" });  // a proxy may keep the tag

/** What `path` answers, with its tag. */
async function tagged(path) {
  const answer = await send(path);
  return { data: await answer.json(), tag: answer.headers.get("ETag") ?? "", error: null };
}

/**
 * A form that changes what `path` is, at `where` below it. It shows anew what somebody else has changed meanwhile.
 * @param {{path: string, where?: string, title: string, text: string, close: () => void, lists: string[], change: (given: FormData) => unknown, fields: (data: any) => unknown}} asked
 */
export function Change({ path, where = "", title, text, close, lists, change, fields }) {
  const [found, setFound] = useState(/** @type {{data: any, tag: string, error: Error | null} | null} */ (null));
  useEffect(() => { tagged(path).then(setFound, (error) => setFound({ data: null, tag: "", error })); }, [path]);
  if (!found) return null;
  if (found.error) return html`<${Dialog} title=${title} onClose=${close}><${Trouble} error=${found.error}/><//>`;
  const send = async (given) => {
    try {
      await ask(path + where, { method: "PATCH", json: change(given), headers: ifStill(found.tag) });
    } catch (error) {
      if (error.status === STALE) setFound(await tagged(path));
      throw told(error);
    }
    refresh(...lists);
  };
  return html`<${Form} title=${title} text=${text} close=${close} send=${send}><div class="stack-12" key=${found.tag}>${fields(found.data)}</div><//>`;
}
