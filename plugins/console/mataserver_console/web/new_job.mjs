// A new job: what it is of, and its file, sent so that a break costs little.
import { Unreadable, ask, isAbort, may } from "./api.mjs";
import { Button, Dialog, Segments, Status, Trouble } from "./controls.mjs";
import { isPicture, useDropped } from "./drops.mjs";
import { bytes, long } from "./format.mjs";
import { html, useEffect, useRef, useState } from "./html.mjs";
import { ModelField } from "./picker.mjs";
import { warns } from "./open_sessions.mjs";
import { useSource } from "./source.mjs";
import { alone, forgetUpload, sent } from "./upload.mjs";
import { zipped } from "./zip.mjs";

const isZip = (file) => /\.zip$/i.test(file.name);

const KINDS = {
  infer: {
    accept: "image/*,.heic,video/*,.zip",
    /** What is asked, apart from the file. */
    order: (given) => ({ model: given.get("model"), ...Object.fromEntries(["every", "limit"].filter((name) => given.get(name)).map((name) => [name, Number(given.get(name))])) }),
    check: (order) => ask("v1/jobs/infer/check", { json: order }),
    file: async (files, options) => {
      if (files.every(isPicture)) return zipped(files, "pictures.zip", options);
      if (files.length > 1) throw new Error("Choose pictures, or one video or ZIP: not both.");
      return files[0];
    },
    submit: async (order) => (await ask("v1/jobs/infer", { json: order })).id,
  },
  reconstruct: {
    accept: "image/*,.zip,.heic",
    order: (given) => { const name = given.get("name").trim(); return { density: given.get("density"), ...(name && { dataset_name: name }) }; },
    check: async () => {},
    file: async (files, options) => {
      if (files.length === 1 && isZip(files[0])) return files[0];
      if (files.some(isZip)) throw new Error("Choose one ZIP, or photographs: not both.");
      return zipped(files, "photographs.zip", options);
    },
    submit: async (order) => (await ask("upload", { json: order })).job_id,
  },
};

/** Say of what cannot be read which file it is: a part of a ZIP has no name. */
async function named(error, files) {
  if (!(error instanceof Unreadable)) return error;
  for (const file of files) try { await file.slice(0, 1).arrayBuffer(); } catch { return new Unreadable(file.name); }
  return error;
}

const SOON = 3;  // seconds: before, the rate says little

/** How long the rest of a file takes at the rate since its first part; nothing while it waits. */
function rest({ done, total, from, begun, waits }) {
  const seconds = (performance.now() - begun) / 1000;
  return begun && !waits && done > from && seconds > SOON ? `, ${long((seconds * (total - done)) / (done - from))} left` : "";
}

function Sending({ state, stop }) {
  const share = (100 * state.done) / Math.max(1, state.total);
  const said = state.total ? `${bytes(state.done)} of ${bytes(state.total)}${rest(state)}` : `packing${state.files > 1 ? `, ${state.packed} of ${state.files.toLocaleString("en")}` : ""}`;
  return html`<div class="stack-4"><div class="meter" role="progressbar" aria-label="Sent" aria-valuemin="0" aria-valuemax="100" aria-valuenow=${Math.round(share)}><i style=${{ width: `${share}%` }}></i></div>
    <div class="row between"><${Status} class="quiet" text=${`${said}${state.waits && ` · ${state.waits}`}`}/><${Button} small onClick=${stop}>Stop<//></div></div>`;
}

/** The files of a job: those that were chosen for one kind are there for another one, too. */
function useFiles(files) {
  const chosen = useRef(files), field = useRef(null);
  const put = (given) => {
    const held = new DataTransfer();
    for (const each of given) held.items.add(each);
    field.current.files = held.files;
    chosen.current = given;
  };
  return { chosen, field, put };
}

function Files({ files: { chosen, field, put }, label, accept, children }) {
  useEffect(() => put(chosen.current), []);
  return html`<label class="stack-4"><span class="label">${label}</span><input ref=${field} class="field" type="file" name="file" required multiple accept=${accept}
    onChange=${(event) => { chosen.current = [...event.target.files]; }}/>${children}</label>`;
}

function Model() {
  const listed = may("models:read");
  const { data } = useSource(listed ? "v1/models" : null, 10);
  return html`<${ModelField} models=${data ?? []} listed=${listed}/>`;
}

function Infer({ files }) {
  return html`<${Model}/><${Files} files=${files} label="Pictures, a video, or a ZIP of pictures" accept=${KINDS.infer.accept}/>
    <label class="stack-4"><span class="label">Take every n-th frame</span><input class="field" type="number" min="1" name="every" placeholder="1"/></label>
    <label class="stack-4"><span class="label">Frames or pictures at most</span><input class="field" type="number" min="1" name="limit" placeholder="all"/></label>`;
}

const Photographs = ({ files }) => html`<${Files} files=${files} label="Photographs, or a ZIP of them" accept=${KINDS.reconstruct.accept}>
    <span class="help">Twelve or more around a subject, a step apart, sharp, each showing most of the one before.</span><//>
  <label class="stack-4"><span class="label">Name</span><input class="field" name="name" maxlength="200" placeholder="the file's"/></label>
  <label class="stack-4"><span class="label">Points</span><select class="field" name="density"><option value="sparse">sparse: some thousands</option><option value="semi">semi: over 20 times as many, one to two seconds more a photograph</option></select></label>`;

/** A dialog for a job; `files` are what was dropped on the page. What is dropped on the dialog takes their place. */
export function NewJob({ files: dropped, close, made }) {
  const { data: plugins } = useSource(may("models:read") ? "v1/plugins" : null, 60);
  const clouds = plugins?.some((each) => each.name === "reconstruct" && !each.error);
  const [kind, setKind] = useState("infer");
  const files = useFiles(dropped);
  const [error, setError] = useState(null);
  const [state, setState] = useState(null);
  const control = useRef(new AbortController());
  useDropped((_first, _name, given) => { setError(null); files.put(given); }, setError, !state);
  useEffect(() => () => control.current.abort(), []);
  useEffect(() => (state ? warns(() => true) : undefined), [Boolean(state)]);  // it goes on only if the same file is chosen again
  const run = async (given) => {
    const { order, check, file: pack, submit } = KINDS[kind];
    const { signal } = control.current;
    const asked = order(given);
    await check(asked);
    const files = given.getAll("file");
    const file = await pack(files, { tell: (packed) => setState((old) => ({ ...old, packed, files: files.length })), signal });
    // After a wait the rate is counted anew: what came before, and the time of the wait, say nothing of it.
    const tell = (done, waits) => setState((old) => ({
      ...old, done: done < 0 ? old.done : done, total: file.size, waits, ...(waits ? { begun: 0 } : !old.begun && { begun: performance.now(), from: done }),
    }));
    made(await alone(file, { tell, signal }, async () => {
      const id = await submit({ ...asked, upload: await sent(file, tell, signal).catch(async (error) => { throw await named(error, files); }) });
      forgetUpload(file);
      return id;
    }));
  };
  const begin = (event) => {
    event.preventDefault();
    setError(null); setState({ done: 0, total: 0, waits: "", packed: 0, files: 0, begun: 0, from: 0 });
    control.current = new AbortController();
    run(new FormData(event.target)).catch((failure) => {
      if (!isAbort(failure)) setError(failure);
      if (failure instanceof Unreadable) files.put([]);  // a field that has a file keeps it as it was, if the same one is chosen again
      setState(null);
    });
  };
  return html`<${Dialog} title="New job" onClose=${close}><form class="stack-12" onSubmit=${begin}>${error && html`<${Trouble} error=${error}/>`}
    ${clouds && html`<${Segments} label="What" value=${kind} onChange=${setKind} options=${[["infer", "A model over pictures"], ["reconstruct", "A cloud from photographs"]]}/>`}
    <fieldset class="stack-12" disabled=${Boolean(state)}>${kind === "infer" ? html`<${Infer} files=${files}/>` : html`<${Photographs} files=${files}/>`}</fieldset>
    ${state ? html`<${Sending} state=${state} stop=${() => control.current.abort()}/>` : html`<div class="row"><${Button} primary type="submit">Start<//><span class="help">An interrupted upload resumes where it stopped.</span></div>`}</form><//>`;
}
