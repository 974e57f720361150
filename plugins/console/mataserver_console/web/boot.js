// Before the first paint: the theme, and all that the page at hand will need is asked for at once.
"use strict";
(() => {
  try {
    const theme = localStorage.getItem("mataserver.theme");
    if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
  } catch { /* storage is closed: the system's theme */ }

  const meta = /** @type {HTMLMetaElement} */ (document.querySelector("meta[name=modules]"));
  const parts = new Map(Object.entries(JSON.parse(meta.content)));  // no prototype: #/constructor is no page
  const asked = new Set();
  /** Ask for the modules of a page, all of them at once. */
  const preload = (page) => {
    for (const name of parts.get(page) ?? []) {
      if (asked.has(name)) continue;
      asked.add(name);
      document.head.append(Object.assign(document.createElement("link"), { rel: "modulepreload", href: `console/${name}` }));
    }
  };

  const [, page = "try", query = ""] = /^#\/([\w-]+)\??(.*)$/.exec(location.hash) ?? [];
  // The first answers come while the modules do: `send` takes them. A browser that is not signed in asks for no more than that.
  const early = new Map();
  const begin = (path) => {
    const answer = fetch(path);
    answer.catch(() => {});  // who takes it hears of it
    early.set(path, answer);
    return answer;
  };
  if (!/[#&]code=/.test(location.hash)) {
    const id = new URLSearchParams(query).get("id");
    const job = id ? [`v1/jobs/${encodeURIComponent(id)}`] : [];
    const first = page === "jobs" ? ["v1/jobs?limit=200&omit=result", ...job] : page === "fleet" ? ["api/tritons?limit=1000"] : ["v1/models", ...(page === "models" || page === "server" ? ["metrics"] : [])];
    begin("v1/session").then((answer) => { if (answer.ok) first.forEach(begin); }, () => {});
  }
  preload("");
  preload(page);

  Object.assign(window, { boot: { preload, early } });

  document.addEventListener("readystatechange", () => {
    const title = document.querySelector(".shell h1");
    if (title) title.textContent = parts.has(page) ? page[0].toUpperCase() + page.slice(1) : "";
  }, { once: true });
})();
