// What a reload must not lose: the picture, the objects that were marked on it and the talk of Ask, in the browser's own store, until signing out.
const NAME = "mataserver";

function store(mode) {
  return new Promise((resolve, reject) => {
    const opening = indexedDB.open(NAME, 1);
    opening.onupgradeneeded = () => opening.result.createObjectStore("kept");
    opening.onerror = () => reject(opening.error);
    opening.onsuccess = () => {
      const change = opening.result.transaction("kept", mode);
      change.oncomplete = () => opening.result.close();
      resolve(change.objectStore("kept"));
    };
  });
}

const done = (asked) => new Promise((resolve, reject) => {
  asked.onsuccess = () => resolve(asked.result);
  asked.onerror = () => reject(asked.error);
});

/** Keep a value under a name, or what a function makes of the one that is kept, and of others that it reads by their names; `null` forgets it. A browser without a store keeps nothing. */
export async function keep(name, given) {
  try {
    const kept = await store("readwrite");
    const value = typeof given === "function" ? await given((await done(kept.get(name))) ?? null, (other) => done(kept.get(other))) : given;
    await done(value === null ? kept.delete(name) : kept.put(value, name));
  } catch { /* a private window: the page works without */ }
}

export async function kept(name) {
  try { return (await done((await store("readonly")).get(name))) ?? null; } catch { return null; }
}

/** Forget all that is kept: whoever signs in next finds nothing of it. */
export async function keepNothing() {
  for (const name of choice.names("upload.")) choice.set(name, null);  // it has the name of a file
  try { await done((await store("readwrite")).clear()); } catch { /* nothing was kept */ }
}

/** Whether single letters are keys: this browser may have been told not. */
export const letters = () => choice.get("letters") !== "no";

/** A choice of this browser, such as the theme. */
export const choice = {
  get(name) { try { return localStorage.getItem(`mataserver.${name}`); } catch { return null; } },
  /** The names that begin so. @returns {string[]} */
  names(start) { try { return Object.keys(localStorage).flatMap((name) => (name.startsWith(`mataserver.${start}`) ? [name.slice(11)] : [])); } catch { return []; } },
  /** `null` forgets it. */
  set(name, value) { try { if (value === null) localStorage.removeItem(`mataserver.${name}`); else localStorage.setItem(`mataserver.${name}`, value); } catch { /* nothing to keep it in */ } },
};
