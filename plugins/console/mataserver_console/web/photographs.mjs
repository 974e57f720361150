// The photographs of a reconstruction: which have a place, why others have none, which match which.
import { Shown, Tabs } from "./controls.mjs";
import { sentence } from "./direction.mjs";
import { count } from "./format.mjs";
import { html, useState } from "./html.mjs";
import { fileOf, photoOf } from "./job_files.mjs";
import { useSource } from "./source.mjs";

const WHY = { unreadable: "not read", no_features: "no details", no_verified_pair: "no overlap", not_in_model: "not placed" };
const LISTED = 200;
const SIDE = 240, RING = 104;

const Placed = ({ figures }) => {
  const out = figures.n_images - figures.n_registered;
  return html`<section class="sect tight"><div class="row between"><span><b>${figures.n_registered}</b> placed</span>${out > 0 && html`<span class="state bad"><b>${out}</b> left out</span>`}</div>
    <div class="timing" role="img" aria-label=${`${figures.n_registered} of ${figures.n_images} placed`}><i class="in" style=${{ flex: figures.n_registered }}></i>${out > 0 && html`<i class="out" style=${{ flex: out }}></i>`}</div></section>`;
};

function Grid({ job, figures, chosen, choose }) {
  return html`<ul class="photos">${figures.images.map((image) => html`<li key=${image.name} class=${image.status === "registered" ? "" : "out"}>
    <button type="button" aria-pressed=${String(image.name === chosen)} title=${image.reason ? sentence(image.reason) : image.name} onClick=${() => choose(image.name)}>
      ${image.status === "unreadable" ? html`<span class="unseen" role="img" aria-label=${image.name}></span>` : html`<${Shown} src=${photoOf(job, figures.images, image.name)} alt=${image.name} loading="lazy"/>`}
      ${WHY[image.status] && html`<span class="why">${WHY[image.status]}</span>`}</button></li>`)}</ul>`;
}

/** What is said of those left out: a line for each reason. */
function Reasons({ figures }) {
  const reasons = new Map();
  for (const image of figures.images) if (image.reason) reasons.set(image.reason, [...(reasons.get(image.reason) ?? []), image.name]);
  const advice = (figures.advice ?? []).map((each) => html`<li key=${each}>${sentence(each)}</li>`);
  if (!advice.length && !reasons.size) return null;
  return html`<section class="sect"><ul class="note warn stack-4 reasons">${advice}${[...reasons].map(([why, names]) => html`<li key=${why}><b>${names.join(", ")}</b>: ${sentence(why)}</li>`)}</ul></section>`;
}

/** Photographs on a ring in their order, with a line for each pair, the thicker the more it has in common. */
function Ring({ images, pairs, chosen, choose }) {
  const at = (i) => { const angle = (i / images.length) * 2 * Math.PI - Math.PI / 2; return [SIDE / 2 + RING * Math.cos(angle), SIDE / 2 + RING * Math.sin(angle)].map((value) => Number(value.toFixed(1))); };
  const place = new Map(images.map((image, i) => [image.name, at(i)]));
  const most = Math.max(1, ...pairs.map((pair) => pair.inliers));
  const own = (pair) => pair.first === chosen || pair.second === chosen;
  const lines = [...pairs].sort((a, b) => Number(own(a)) - Number(own(b)));  // the chosen one's lie above
  return html`<svg class="ring" viewBox=${`0 0 ${SIDE} ${SIDE}`} role="img" aria-label=${`${count(images.length, "photograph")}, ${count(pairs.length, "pair")}`}>
    ${lines.map((pair) => html`<path key=${`${pair.first} ${pair.second}`} class=${own(pair) ? "on" : ""} d=${`M${place.get(pair.first)}L${place.get(pair.second)}`} stroke-width=${(0.5 + 3.5 * (pair.inliers / most)).toFixed(2)}/>`)}
    ${images.map((image) => { const [x, y] = place.get(image.name); return html`<circle key=${image.name} cx=${x} cy=${y} r=${image.name === chosen ? 6 : 4} class=${`${image.status === "registered" ? "" : "out"} ${image.name === chosen ? "on" : ""}`} onClick=${() => choose(image.name)}><title>${image.name}</title></circle>`; })}</svg>`;
}

function Pairs({ job, figures, chosen, choose }) {
  const { data, error } = useSource(figures.pairs ? fileOf(job, figures.pairs) : null);
  if (!figures.pairs || error) return html`<p class="pad help">${error?.message ?? "This job is of an older server and tells no pairs."}</p>`;
  if (!data) return null;
  const own = data.filter((pair) => !chosen || pair.first === chosen || pair.second === chosen);
  return html`<div class="pad stack-12"><${Ring} images=${figures.images} pairs=${data} chosen=${chosen} choose=${choose}/>
      <p class="help">${chosen ? `${chosen} matches ${count(own.length, "photograph")}.` : `${count(data.length, "pair")} of photographs show the same. The thicker a line, the more they have in common.`}</p></div>
    <table><thead><tr><th>Photographs</th><th class="num">In common</th></tr></thead><tbody>${own.slice(0, LISTED).map((pair) => html`<tr key=${`${pair.first} ${pair.second}`}><td><span class="row">
      ${[pair.first, pair.second].filter((name) => name !== chosen).map((name) => html`<button type="button" class="linkish" key=${name} onClick=${() => choose(name)}>${name}</button>`)}</span></td><td class="num">${pair.inliers.toLocaleString("en")}</td></tr>`)}</tbody></table>
    ${own.length > LISTED && html`<p class="pad help">The first ${LISTED} of ${own.length.toLocaleString("en")}.</p>`}`;
}

export function Photographs({ job, figures, chosen, choose, children }) {
  const [tab, setTab] = useState("photographs");
  return html`<div class="tabs"><${Tabs} label="What it is made of" value=${tab} onChange=${setTab} tabs=${[["photographs", "Photographs"], ["pairs", "Pairs"], ["files", "Files"]]}/></div>
    ${tab === "photographs" && html`<${Placed} figures=${figures}/><div class="scroll" tabindex="-1"><${Grid} job=${job} figures=${figures} chosen=${chosen} choose=${choose}/><${Reasons} figures=${figures}/></div>`}
    ${tab === "pairs" && html`<div class="scroll" tabindex="-1"><${Pairs} job=${job} figures=${figures} chosen=${chosen} choose=${choose}/></div>`}
    ${tab === "files" && children}`;
}
