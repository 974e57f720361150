"""What was refused for now is asked for again: less often each time, until it is answered."""

from __future__ import annotations

import pytest
from console_pages import CHROMIUM, served, shown

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
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
