"""Compare: two models on the same picture, each with its own parameters."""

from __future__ import annotations

import json

import pytest
from console_pages import CHROMIUM, served, shown

pytestmark = [pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium"), pytest.mark.long]
ROWS = """[...document.querySelectorAll(".pairs li[tabindex]")]
  .map((row) => [...row.children].slice(1).map((part) => part.textContent))"""
OURS, THEIRS = ".side-of[data-side=a]", ".side-of[data-side=b]"


async def rows(person, expected):
    """Wait until the list has the rows that are expected."""
    await person.until(f"{ROWS}.length == {len(expected)}")
    assert await person.evaluate(ROWS) == expected


async def test_two_models_on_a_picture(tmp_path):
    """What both found is one row with both scores; a parameter of one leaves the other alone."""
    async with served(tmp_path) as server, shown(server.url, tmp_path) as person:
        await person.go("try?model=fake-detect&confidence=0.1")
        await person.give()
        await person.until("document.querySelectorAll('.found li[data-n]').length == 2")
        begun = await person.evaluate("performance.now()")
        await person.click("Compare", ".bar")
        await person.click("With:")
        await person.click("fake-segment", ".menu")
        both, first = ["64x64", "A 0.90", "B 0.90"], ["faint", "A 0.30", "B \u2013"]
        await rows(person, [both, first, ["unmasked", "A \u2013", "B 0.80"]])
        await person.sees("1 in both")
        assert await person.faults() == []
        await person.screen(1100, 800)  # the navigation is icons alone
        assert await person.faults() == []
        await person.screen()

        await person.click("B fake-segment", ".params-of")
        await person.fill("[data-param=confidence] input[type=range]", "0.85")
        await rows(person, [both, first])
        place = await person.evaluate("location.hash")
        assert "&confidence=0.1" in place
        assert "b.confidence=0.85" in place
        codes = await person.evaluate(
            "[...document.querySelectorAll('.codes pre')].map((each) => each.innerText)"
        )
        assert ["model=fake-detect" in codes[0], "confidence=0.1 " in codes[0]] == [True, True]
        assert ["model=fake-segment" in codes[1], "confidence=0.85" in codes[1]] == [True, True]

        await person.until("document.querySelectorAll('[data-time] b').length == 2")
        times = "[...document.querySelectorAll('[data-time] b')].map((each) => each.innerText)"
        assert all(each.endswith(" ms") for each in await person.evaluate(times))
        asked = await person.evaluate(f"""performance.getEntriesByType("resource")
          .filter((each) => each.name.endsWith("/v1/infer/upload") && each.startTime > {begun})
          .map((each) => [each.startTime, each.responseEnd])""")
        assert len(asked) >= 3
        ends = [end for _, end in asked]
        assert all(start >= end for (start, _), end in zip(asked[1:], ends, strict=False))

        await person.click("One model", ".bar")
        await person.until("location.hash.startsWith('#/try')")
        place = await person.evaluate("location.hash")
        assert ["model=fake-detect" in place, "confidence=0.1" in place] == [True, True]
        assert "b." not in place


async def test_what_is_linked(tmp_path):
    """What is pointed at in one is marked in both, and a picture that is moved moves the other."""
    async with served(tmp_path) as server, shown(server.url, tmp_path) as person:
        await person.go("compare?model=fake-detect&with=fake-segment&confidence=0.1")
        await person.give()
        await person.until(f"{ROWS}.length == 3")
        point = """document.querySelector(".pairs li[tabindex]")
          .dispatchEvent(new Event("mouseenter"))"""
        await person.evaluate(point)
        await person.until("document.querySelectorAll('.sides g.on').length == 2")
        for _ in range(3):
            await person.click("Zoom in")
        await person.until(f"""(() => {{
          const [one, other] = ["{OURS}", "{THEIRS}"]
            .map((each) => document.querySelector(each + " .stage"));
          one.scrollTo(40, 30);
          return one.scrollLeft > 0 && other.scrollLeft === one.scrollLeft
            && other.scrollTop === one.scrollTop;
        }})()""")


async def test_one_that_fails(tmp_path):
    """Its sentence stands under its own picture; the other one's answer stays."""
    async with served(tmp_path) as server, shown(server.url, tmp_path) as person:
        await person.go("compare?model=fake-detect&with=fake-segment&b.behave=raise")
        await person.give()
        await person.until(f"document.querySelector('{THEIRS} .note.bad')?.innerText")
        await person.until(f"document.querySelectorAll('{OURS} .over .line').length == 1")
        assert await person.evaluate(f"document.querySelector('{OURS} .note.bad')") is None
        await rows(person, [["64x64", "A 0.90", "B \u2013"]])


async def test_one_finds_nothing(tmp_path):
    """What is said of it takes as much of both sides: the pictures stay of one size, and level."""
    async with served(tmp_path) as server, shown(server.url, tmp_path) as person:
        await person.go("compare?model=fake-detect&with=fake-detect&b.confidence=0.95")
        await person.give()
        await person.until(f"!!document.querySelector('{OURS} .over .line')")
        await person.until(
            f"document.querySelector('{THEIRS}').innerText.includes('Nothing found')"
        )
        places = """JSON.stringify([...document.querySelectorAll('.side-of .shot')].map((each) => {
          const { top, width, height } = each.getBoundingClientRect();
          return [top, width, height];
        }))"""
        first, second = json.loads(await person.evaluate(places))
        assert first == second
        assert min(first) > 50
        assert await person.faults() == []
