// The same by code: a session from its begin to its end.
import { base, ofForm, python as literal, quote } from "./code.mjs";
import { promptOf } from "./tracks.mjs";

const short = (_, value) => (typeof value === "number" ? Number(value.toFixed(4)) : value);
const here = () => `${base()}/api/v1/video/session`;

/** What the session is asked: the file, a prompt, and from where on it tracks. */
function asked({ film, frame, direction }) {
  const thing = film.tracks.get(film.now) ?? film.tracks.things.at(-1);
  const pointed = thing?.pointed.at(-1);
  const prompt = pointed ? promptOf(pointed) : thing?.word ? { type: "text", text: film.tracks.asked.at(-1)?.words ?? thing.word } : { type: "point", points: [[0.5, 0.5]], point_labels: [1] };
  return {
    file: film.file?.name ?? "video.mp4",
    prompt: JSON.parse(JSON.stringify({ frame_index: pointed?.frame ?? frame, prompts: [prompt] }, short)),
    track: { direction, start_frame_index: frame },
  };
}

function curl(request) {
  const { file, prompt, track } = asked(request);
  const json = `-H "Authorization: Bearer $KEY" -H "Content-Type: application/json"`;
  return [
    `curl -H "Authorization: Bearer $KEY" -F ${quote(`file=@${ofForm(file)}`)} '${here()}/upload?session_id=mine'`,
    `curl ${json} -d ${quote(JSON.stringify(prompt))} ${here()}/mine/prompt`,
    `curl ${json} -d ${quote(JSON.stringify(track))} ${here()}/mine/propagate`,
    `curl -X DELETE -H "Authorization: Bearer $KEY" ${here()}/mine`,
  ].join("\n");
}

function python(request) {
  const { file, prompt, track } = asked(request);
  return `import json, os
from urllib.request import Request, urlopen

def ask(path, body=None, kind="application/json", method="POST"):
    headers = {"Authorization": "Bearer " + os.environ["KEY"], "Content-Type": kind}
    request = Request("${here()}/" + path, body, headers, method=method)
    return json.load(urlopen(request))

prompt = ${literal(prompt)}
track = ${literal(track)}
video = open(${JSON.stringify(file)}, "rb").read()
print(ask("upload?session_id=mine", video, "application/octet-stream"))
try:
    print(ask("mine/prompt", json.dumps(prompt).encode()))
    print(ask("mine/propagate", json.dumps(track).encode()))
finally:
    ask("mine", method="DELETE")`;
}

function javascript(request) {
  const { file, prompt, track } = asked(request);
  return `const { openAsBlob } = await import("node:fs");

const ask = async (path, body, method = "POST") => {
  const headers = { Authorization: \`Bearer \${process.env.KEY}\` };
  const answer = await fetch(\`${here()}/\${path}\`, { method, headers, body });
  if (!answer.ok) throw new Error(await answer.text());
  return JSON.stringify(await answer.json());
};
const json = (given) => new Blob([JSON.stringify(given)], { type: "application/json" });

const prompt = ${JSON.stringify(prompt)};
const track = ${JSON.stringify(track)};
const video = await openAsBlob(${JSON.stringify(file)}, { type: "application/octet-stream" });
console.log(await ask("upload?session_id=mine", video));
try {
  console.log(await ask("mine/prompt", json(prompt)));
  console.log(await ask("mine/propagate", json(track)));
} finally {
  await ask("mine", undefined, "DELETE");
}`;
}

export const CODE = { curl, python, javascript };
