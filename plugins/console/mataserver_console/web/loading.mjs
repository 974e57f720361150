// A model that is loading: for how long, what it waits for, and its end.
import { ask, may } from "./api.mjs";
import { long, parted, size } from "./format.mjs";
import { useEffect, useMemo, useState } from "./html.mjs";
import { refresh, useSource } from "./source.mjs";

const WAITS = { memory: "waiting for memory", worker: "starting its worker", weights: "reading its weights" };

/** How a load goes on: its seconds, which go on between two looks, and what it waits for. How far it is, nobody knows. */
export function useLoad(model) {
  const load = model?.loading;
  const begun = useMemo(() => (load ? performance.now() - load.seconds * 1000 : 0), [load]);
  const [, tick] = useState(0);
  useEffect(() => {
    if (!load) return undefined;
    const timer = setInterval(() => tick((n) => n + 1), 500);
    return () => clearInterval(timer);
  }, [Boolean(load)]);
  if (!load) return null;
  const read = load.waits_for === "weights" && model.size_mb ? `, ${size(model.size_mb)} on disk` : "";
  return { took: long(Math.floor((performance.now() - begun) / 1000)), what: `${WAITS[load.waits_for] ?? load.waits_for}${read}` };
}

/** What is told of a model that loads while somebody `waits` for it, which has the models looked at each second; "" while it does not load. */
export function useLoadTold(model, waits) {
  useSource(waits && may("models:read") ? "v1/models" : null, 1);
  const load = useLoad(model);
  return load ? `Loading ${parted(model.model)[1]}, ${load.took}: ${load.what}` : "";
}

/** End a load; all who wait for it are told. A model that has been loaded meanwhile stays: others may use it. */
export async function cancelLoad(model) {
  await ask("v1/models/unload", { json: { model, if_loading: true } });
  refresh("v1/models");
}
