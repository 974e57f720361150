"""Live: how old a shown result is, told by a clock in the camera's picture."""

from __future__ import annotations

import statistics

import planted_clock
import pytest
from console_pages import CHROMIUM, served, shown

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
LIVE = "document.querySelector('.vl')?.innerText.includes('ms old')"
# Each time another result is shown: the age that the page tells, and that of the clock in it.
WATCH = """(() => {
  window.ages = [];
  let last = "";
  const look = () => {
    const shown = document.querySelector(".tracks b")?.innerText;
    const told = Number(/(\\d+) ms old/.exec(document.querySelector(".vl")?.innerText)?.[1]);
    if (!shown || shown === last || Number.isNaN(told)) return;
    last = shown;
    const old = (Math.round(performance.now()) - Number(shown) + 65536) % 65536;
    window.ages.push([told, old]);
  };
  const watch = new MutationObserver(look);
  watch.observe(document.body, { childList: true, subtree: true, characterData: true });
})()"""


async def test_how_old_a_result_is(tmp_path):
    """What the page tells is the time since the camera took the picture, within 100 ms."""
    async with (
        served(tmp_path, points=[planted_clock.POINT], registered=planted_clock.TASKS) as server,
        shown(server.url, tmp_path) as person,
    ):
        await person.evaluate(planted_clock.CAMERA)
        await person.go("live?model=clock")
        await person.click("Start")
        await person.until(LIVE)
        await person.evaluate(WATCH)
        await person.until("window.ages.length >= 16")
        ages = await person.evaluate("window.ages")
        assert min(old for _, old in ages) >= 1000 * planted_clock.SECONDS
        assert statistics.median(abs(told - old) for told, old in ages) <= 100, ages
