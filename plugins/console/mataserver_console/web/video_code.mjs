// The same by curl: a session from its begin to its end.
import { base } from "./code.mjs";
import { promptOf } from "./tracks.mjs";

const short = (_, value) => (typeof value === "number" ? Number(value.toFixed(4)) : value);

function curl({ film, frame, direction }) {
  const thing = film.tracks.get(film.now) ?? film.tracks.things.at(-1);
  const pointed = thing?.pointed.at(-1);
  const prompt = pointed ? promptOf(pointed) : thing?.word ? { type: "text", text: film.tracks.asked.at(-1)?.words ?? thing.word } : { type: "point", points: [[0.5, 0.5]], point_labels: [1] };
  const given = JSON.stringify({ frame_index: pointed?.frame ?? frame, prompts: [prompt] }, short).replaceAll("'", "'\\''");
  const file = (film.file?.name ?? "video.mp4").replaceAll("'", "'\\''");
  const json = `-H "Authorization: Bearer $KEY" -H "Content-Type: application/json"`;
  const session = `${base()}/api/v1/video/session`;
  return [
    `curl -H "Authorization: Bearer $KEY" -F 'file=@${file}' '${session}/upload?session_id=mine'`,
    `curl ${json} -d '${given}' ${session}/mine/prompt`,
    `curl ${json} -d '${JSON.stringify({ direction, start_frame_index: frame })}' ${session}/mine/propagate`,
    `curl -X DELETE -H "Authorization: Bearer $KEY" ${session}/mine`,
  ].join("\n");
}

export const CODE = { curl };
