"""What is not answered for now is asked for again: less often each time, until it is answered."""

from __future__ import annotations

import pytest
from console_pages import CHROMIUM, served, shown

pytestmark = [pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium"), pytest.mark.long]
QUICK = """(() => {
  const { setTimeout: wait, fetch: ask } = window;
  let paused = 0;
  window.asked = [];
  window.setTimeout = (act, pause, ...given) => wait(() => {
    paused = pause;
    try { act(...given); } finally { paused = 0; }
  }, pause >= 5000 ? 20 : pause);
  window.fetch = (path, ...given) => {
    const lonely = String(path).startsWith("v1/models/lonely");
    if (lonely) window.asked.push(paused >= 5000 ? paused / 1000 : 0);
    return ask(lonely && window.mended ? path.replace("lonely", "many") : path, ...given);
  };
})()"""
"""Long pauses of a page are short, and are noted with what is asked after them."""


async def test_a_model_that_no_plugin_serves(tmp_path):
    """Its page asks once a minute in the end, each a warning in the log, and has its form then."""
    async with (
        served(tmp_path, registered={"lonely": "detect"}) as server,
        shown(server.url, tmp_path) as person,
    ):
        await person.evaluate(QUICK)
        await person.go("try?model=lonely")
        await person.until("asked.length > 6")
        assert await person.evaluate("asked.slice(0, 7)") == [0, 5, 10, 20, 40, 60, 60]
        await person.evaluate("window.mended = true")
        await person.sees("confidence")


NOTED = """(() => {
  const { setTimeout: wait, fetch: ask } = window;
  let paused = 0;
  window.asked = [];
  window.setTimeout = (act, pause, ...given) => wait(() => {
    paused = pause;
    try { act(...given); } finally { paused = 0; }
  }, Math.min(pause, 20));
  window.fetch = (path, ...given) => {
    asked.push([path, Math.round(paused / 1000)]);
    if (window.away) return Promise.reject(new TypeError("no answer"));
    const refused = window.refused && path === "v1/models";
    return refused ? Promise.resolve(new Response("{}", { status: 503 })) : ask(path, ...given);
  };
})()"""
"""Pauses of a page are short, and each request is noted with the pause before it."""


async def test_a_list_that_is_refused(tmp_path):
    """What is asked every two seconds is asked less often where it is refused, and then again."""
    pauses = "asked.filter(([path]) => path === 'v1/models').map(([, pause]) => pause)"
    async with served(tmp_path) as server, shown(server.url, tmp_path) as person:
        await person.go("models")
        await person.until("!!document.querySelector('tr[data-model]')")
        await person.evaluate(f"{NOTED}, refused = true, 0")
        await person.until(f"{pauses}.includes(15)")
        seen = await person.evaluate(pauses)
        assert seen[: seen.index(15)][-3:] == [2, 4, 8]
        await person.evaluate("asked.length = 0, refused = false, 0")
        await person.until(f"{pauses}.includes(2)")


async def test_a_server_that_is_away(tmp_path):
    """It is asked for its health alone, less often each time; a page goes on once it is there."""
    async with served(tmp_path) as server, shown(server.url, tmp_path) as person:
        await person.go("models")
        await person.until("!!document.querySelector('tr[data-model]')")
        await person.evaluate(f"{NOTED}, away = true, 0")
        await person.until("!!document.querySelector('.silence')")
        await person.evaluate("asked.length = 0, 0")
        await person.until("asked.length > 6")
        seen = await person.evaluate("asked.slice(0, 7)")
        assert {path for path, _ in seen} == {"v1/health"}
        assert [pause for _, pause in seen][-3:] == [15, 15, 15]
        await person.evaluate("asked.length = 0, away = false, 0")
        await person.until("!document.querySelector('.silence')")
        await person.until("asked.filter(([path]) => path === 'v1/models').length > 2")
        await person.go("server")
        await person.sees("Requests can be served.")
        await person.evaluate("away = true, 0")
        await person.sees("Whether requests can be served is not known.")
        await person.evaluate("away = false, 0")
        await person.sees("Requests can be served.")


async def test_a_path_that_a_proxy_drops(tmp_path):
    """It is asked less often each time, and the others go on."""
    pauses = "asked.filter(([path]) => path === 'v1/models').map(([, pause]) => pause)"
    drops = NOTED.replace("if (window.away)", "if (window.drops && path === 'v1/models')")
    async with served(tmp_path) as server, shown(server.url, tmp_path) as person:
        await person.go("models")
        await person.until("!!document.querySelector('tr[data-model]')")
        await person.evaluate(f"{drops}, drops = true, 0")
        await person.until(f"{pauses}.filter((pause) => pause === 15).length > 1")
        seen = await person.evaluate(pauses)
        grown = seen[: seen.index(15)]
        assert grown[-2:] == [4, 8]
        await person.evaluate("drops = false, 0")
        await person.until("!document.querySelector('.silence')")
        await person.until(f"{pauses}.at(-1) === 2")
