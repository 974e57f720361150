// A dialog with a form: it sends what is filled in, and says in it what the server refused.
import { Button, Copy, Dialog, Note, Trouble } from "./controls.mjs";
import { named } from "./direction.mjs";
import { html, useState } from "./html.mjs";

/** Sends a form; its error stands in it. */
export function useForm(send) {
  const [error, setError] = useState(null);
  const [busy, setBusy] = useState(false);
  const submit = async (event) => {
    event.preventDefault();
    setBusy(true);
    setError(null);
    try { await send(new FormData(event.target)); } catch (failure) { setError(failure); }
    setBusy(false);
  };
  return { error, busy, submit };
}

/** Closes when its form was sent, unless `send` returns false: there is more to show. Its fields have `defaultValue` and `defaultChecked`: `value` and `checked` are set anew at each drawing, over what was filled in. */
export function Form({ title, text, send, close, children }) {
  const { error, busy, submit } = useForm(async (given) => { if ((await send(given)) !== false) close(); });
  return html`<${Dialog} title=${title} onClose=${close}><form class="stack-12" onSubmit=${submit}>${error && html`<${Trouble} error=${error}/>`}
    ${children}<div><${Button} primary type="submit" disabled=${busy}>${text}<//></div></form><//>`;
}

/** A key that the server does not keep. */
export const ShownOnce = ({ name, secret, close }) => html`<${Dialog} title=${`The key of ${named(name)}`} onClose=${close}>
  <${Note} kind="warn">It is shown this once: the server keeps its digest only.<//>
  <div class="row"><code class="field grow secret">${secret}</code><${Copy} text=${secret}>Copy<//></div><div><${Button} primary onClick=${close}>Done<//></div><//>`;
