// The code that does the same: curl, Python, JavaScript, with `$KEY` in place of the key.
import { Copy, Tabs } from "./controls.mjs";
import { html, useState } from "./html.mjs";
import { EXAMPLES } from "./picture.mjs";

const STREAM = '-N -H "Accept: text/event-stream" ';

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
/** A word of a shell. */
export const quote = (text) => (/^[\w./:@=-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`);
const WORDS = { true: "True", false: "False", null: "None" };
/** A value as Python writes it: its words stand outside of texts only. */
export const python = (value) => JSON.stringify(value).replace(/"(?:[^"\\]|\\.)*"|\b(?:true|false|null)\b/g, (found) => WORDS[found] ?? found);
const fields = (given) => Object.entries(given).map(([name, value]) => `${name}: ${JSON.stringify(value)}`).join(", ");

/**
 * The code that posts JSON with a picture in it, as base64.
 * @type {Record<string, (request: {path: string, given: Record<string, any>, file: string, flags?: string}) => string>}
 */
export const POSTED = {
  curl: ({ path, given, file, flags = "" }) => {
    // printf reads % and \ itself, and the shell the quotes
    const text = JSON.stringify(given).replaceAll("\\", "\\\\").replaceAll("%", "%%").replaceAll("'", "'\\''");
    return `printf '${text.slice(0, -1)},"image":"%s"}' "$(base64 < ${quote(file)} | tr -d '\\n')" |\n  curl ${flags}-H "Authorization: Bearer $KEY" -H "Content-Type: application/json" \\\n  -d @- ${base()}/${path}`;
  },
  python: ({ path, given, file }) => `import base64, json, os
from urllib.request import Request, urlopen

image = base64.b64encode(open(${JSON.stringify(file)}, "rb").read()).decode()
asked = {${Object.entries(given).map(([name, value]) => `"${name}": ${python(value)}`).join(", ")}, "image": image}
headers = {"Authorization": "Bearer " + os.environ["KEY"], "Content-Type": "application/json"}
request = Request("${base()}/${path}", json.dumps(asked).encode(), headers)
print(json.load(urlopen(request)))`,
  javascript: ({ path, given, file }) => `const { readFile } = await import("node:fs/promises");

const image = (await readFile(${JSON.stringify(file)})).toString("base64");
const answer = await fetch("${base()}/${path}", {
  method: "POST",
  headers: { Authorization: \`Bearer \${process.env.KEY}\`, "Content-Type": "application/json" },
  body: JSON.stringify({ ${fields(given)}, image }),
});
console.log(await answer.json());`,
};

/** A field of a form: curl reads a file for what begins with @ or <, and options behind a semicolon. */
const field = (name, value) => `${/^\w[^;"]*$/.test(value) ? "-F" : "--form-string"} ${quote(`${name}=${value}`)}`;
/** A file's name as curl takes it in a form, where commas part several of them. */
export const ofForm = (file) => (/[,;"\\]/.test(file) ? `"${file.replace(/[\\"]/g, "\\$&")}"` : file);

function curl({ model, params, file, flags = "" }) {
  if (!fitsForm(params)) return POSTED.curl({ path: "v1/infer", given: { model, params }, file, flags });
  const parts = Object.entries(params).map(([name, value]) => `  ${field(name, fieldOf(value))} \\\n`).join("");
  return `curl ${flags}-H "Authorization: Bearer $KEY" \\\n  ${field("model", model)} \\\n${parts}  -F ${quote(`file=@${ofForm(file)}`)} \\\n  ${base()}/v1/infer/upload`;
}

const client = (call, { model, params, file }) => `import os
from mataserver_client import Client

with Client(${JSON.stringify(base())}, api_key=os.environ["KEY"]) as client:
    ${call(`(${JSON.stringify(model)}, ${JSON.stringify(file)}${Object.entries(params).map(([name, value]) => `, ${name}=${python(value)}`).join("")})`)}`;

const inPython = (request) => `${client((given) => `result = client.infer${given}`, request)}

print(result)`;

const inJavaScript = ({ model, params, file }) => POSTED.javascript({ path: "v1/infer", given: { model, params }, file });

const LANGUAGES = { curl, python: inPython, javascript: inJavaScript };

/** The code that prints an answer as it is written, and at the end all that is told of it. */
export const WRITTEN = {
  curl: (request) => curl({ ...request, flags: STREAM }),
  python: (request) => client((given) => `for piece in client.generate${given}:
        print(piece if isinstance(piece, str) else f"\\n{piece}", end="", flush=True)`, request),
  javascript: ({ model, params, file }) => `const { readFile } = await import("node:fs/promises");

const image = (await readFile(${JSON.stringify(file)})).toString("base64");
const answer = await fetch("${base()}/v1/infer", {
  method: "POST",
  headers: {
    Authorization: \`Bearer \${process.env.KEY}\`,
    "Content-Type": "application/json",
    Accept: "text/event-stream",
  },
  body: JSON.stringify({ ${fields({ model, params })}, image }),
});
if (!answer.ok) throw new Error(await answer.text());
let rest = "";
for await (const part of answer.body.pipeThrough(new TextDecoderStream())) {
  const events = (rest + part).split("\\n\\n");
  rest = events.pop();
  for (const event of events) {
    const [name, data] = event.split("\\n").map((line) => line.replace(/^\\w+: /, ""));
    if (name === "token") process.stdout.write(JSON.parse(data).text);
    else console.log("\\n", JSON.parse(data));
  }
}`,
};
const TABS = [["curl", "curl"], ["python", "Python"], ["javascript", "JavaScript"]];
const TOKEN = /("(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*'|`(?:[^`\\]|\\.)*`)|(?<![\w./@-])(\w+)(?![\w./-])/g;
const KEYWORDS = {
  curl: "curl printf", python: "import from with as def return try finally print for in if else",
  javascript: "const let await async for of if else try finally throw new",
};

/** Text with its strings and words of the language marked. */
function marked(text, language) {
  const words = new Set(KEYWORDS[language].split(" "));
  const parts = [];
  let at = 0;
  for (const found of text.matchAll(TOKEN)) {
    if (found[2] && !words.has(found[2])) continue;
    parts.push(text.slice(at, found.index), html`<span class=${found[1] ? "s" : "k"}>${found[0]}</span>`);
    at = found.index + found[0].length;
  }
  return [...parts, text.slice(at)];
}

const LOCAL = new Set(["localhost", "127.0.0.1", "[::1]"]);

/** What the code needs to run as it stands: the key, the client for Python, the picture if it is an example's. */
function Needs({ text, file }) {
  return html`<p class="help needs">Set <code>KEY</code> to your key${LOCAL.has(location.hostname) ? html`, by default <code>export KEY=$(cat ~/.mataserver/api_key)</code>` : ""}.
    ${text.includes("mataserver_client") ? html` Install the client: <code>pip install mataserver-client</code>.` : ""}
    ${EXAMPLES.some((each) => each.name === file) ? html` Save the picture: <a href=${`console/pictures/${file}`} download=${file}>${file}</a>.` : ""}</p>`;
}

export function Code({ made, request, label = "Code" }) {
  const languages = made ?? LANGUAGES;
  const [language, setLanguage] = useState("curl");
  const text = languages[language](request);
  return html`<section class="codebox" aria-label=${label}><div class="tabs"><${Tabs} label="Language" tabs=${TABS.filter(([key]) => languages[key])} value=${language} onChange=${setLanguage}/>
    <span class="grow"></span><span class="row"><${Copy} text=${text}>Copy<//></span></div><pre class="code" tabindex="0">${marked(text, language)}</pre><${Needs} text=${text} file=${request.file}/></section>`;
}
