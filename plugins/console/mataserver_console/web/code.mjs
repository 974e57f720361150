// The code that does the same: curl, Python, JavaScript, with `$KEY` in place of the key.
import { Copy, Tabs } from "./controls.mjs";
import { html, useState } from "./html.mjs";

/** Parameters of the API that a form cannot carry; nor can one carry lists, but for `prompts` without full stops. */
const NO_FORM = new Set([
  "system_prompt", "top_p", "use_softmax", "normalize", "target_size", "point_prompts", "box_prompts",
  "detection_confidence", "segmentation_confidence",
]);

/** Whether a list of words is the same after a form: a full stop is between two, and "[" begins a list in JSON. */
const asWords = (value) => Array.isArray(value) && !value.some((word) => String(word).includes("."))
  && !String(value[0] ?? "").trimStart().startsWith("[");

export const fitsForm = (params) => Object.entries(params)
  .every(([name, value]) => !NO_FORM.has(name) && (typeof value !== "object" || (name === "prompts" && asWords(value))));

/** A parameter as the text of a form's field. */
export const fieldOf = (value) => (Array.isArray(value) ? value.join(" . ") : String(value));

export const base = () => new URL(".", location.href).href.replace(/\/$/, "");
const quote = (text) => (/^[\w./:@=-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`);
const python = (value) => JSON.stringify(value).replace(/\btrue\b/g, "True").replace(/\bfalse\b/g, "False").replace(/\bnull\b/g, "None");

function curl({ model, params, file }) {
  const fields = Object.entries(params).map(([name, value]) => `  -F ${quote(`${name}=${fieldOf(value)}`)} \\\n`).join("");
  if (fitsForm(params)) {
    return `curl -H "Authorization: Bearer $KEY" \\\n  -F ${quote(`model=${model}`)} \\\n${fields}  -F ${quote(`file=@${file}`)} \\\n  ${base()}/v1/infer/upload`;
  }
  // printf reads % and \\ itself, and the shell the quotes
  const given = JSON.stringify({ model, params }).replaceAll("\\", "\\\\").replaceAll("%", "%%").replaceAll("'", "'\\''");
  const body = `${given.slice(0, -1)},"image":"%s"}`;
  return `printf '${body}' "$(base64 -w0 ${quote(file)})" |\n  curl -H "Authorization: Bearer $KEY" -H "Content-Type: application/json" \\\n  -d @- ${base()}/v1/infer`;
}

const inPython = ({ model, params, file }) => `import os
from mataserver_client import Client

with Client(${JSON.stringify(base())}, api_key=os.environ["KEY"]) as client:
    result = client.infer(${JSON.stringify(model)}, ${JSON.stringify(file)}${Object.entries(params).map(([name, value]) => `, ${name}=${python(value)}`).join("")})
print(result)`;

const inJavaScript = ({ model, params, file }) => `import { readFile } from "node:fs/promises";

const image = (await readFile(${JSON.stringify(file)})).toString("base64");
const answer = await fetch("${base()}/v1/infer", {
  method: "POST",
  headers: { Authorization: \`Bearer \${process.env.KEY}\`, "Content-Type": "application/json" },
  body: JSON.stringify({ model: ${JSON.stringify(model)}, image, params: ${JSON.stringify(params)} }),
});
console.log(await answer.json());`;

const LANGUAGES = { curl, python: inPython, javascript: inJavaScript };
const TABS = [["curl", "curl"], ["python", "Python"], ["javascript", "JavaScript"]];
const TOKEN = /("(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*'|`(?:[^`\\]|\\.)*`)|\b(curl|printf|import|from|with|as|print|const|await)\b/g;

/** Text with its strings and words of the language marked. */
function marked(text) {
  const parts = [];
  let at = 0;
  for (const found of text.matchAll(TOKEN)) {
    parts.push(text.slice(at, found.index), html`<span class=${found[1] ? "s" : "k"}>${found[0]}</span>`);
    at = found.index + found[0].length;
  }
  return [...parts, text.slice(at)];
}

export function Code({ made, request }) {
  const languages = made ?? LANGUAGES;
  const [language, setLanguage] = useState("curl");
  const text = languages[language](request);
  return html`<section class="codebox" aria-label="Code"><div class="tabs"><${Tabs} label="Language" tabs=${TABS.filter(([key]) => languages[key])} value=${language} onChange=${setLanguage}/>
    <span class="grow"></span><span class="row"><${Copy} text=${text}>Copy<//></span></div><pre class="code" tabindex="0">${marked(text)}</pre></section>`;
}
