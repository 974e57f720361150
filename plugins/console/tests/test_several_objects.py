"""Segment's objects, when more is marked, found or taken back before the first is answered."""

from __future__ import annotations

import contextlib

import planted_sam
import pytest
from console_pages import CHROMIUM, served, shown
from test_looking import PATHS

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
POINTS = "document.querySelectorAll('.clicks .point').length"
HELD = """(() => {
  const real = fetch;
  window.held = [];
  window.asked = 0;
  window.fetch = async (path, options) => {
    if (!/segment$/.test(path)) return real(path, options);
    asked += 1;
    await new Promise((go) => held.push(go));
    return real(path, options);
  };
})()"""
"""Each question waits until the test lets it go."""
GO = "held.splice(0).map((go) => go()), 0"


@contextlib.asynccontextmanager
async def unanswered(tmp_path):
    """Yield a person who pointed at an object and has no answer yet."""
    async with (
        served(tmp_path, points=[planted_sam.POINT]) as server,
        shown(server.url, tmp_path) as person,
    ):
        await person.go("segment")
        await person.give()
        await person.until("!!document.querySelector('.clicks')")
        await person.evaluate(f"{HELD}, 0")
        await person.point(".clicks", 0.5, 0.5)
        await person.until("asked === 1")
        yield person


async def test_words_while_an_object_is_unanswered(tmp_path):
    """It stays, and gets its mask."""
    async with unanswered(tmp_path) as person:
        await person.fill("#words", "window")
        await person.click("Find")
        await person.until("asked === 2")
        assert await person.evaluate(POINTS) == 1
        await person.evaluate(GO)
        await person.until(f"{PATHS}.length === 3")


async def test_a_second_object_while_the_first_is_unanswered(tmp_path):
    """Both get their masks; a box alone is an object as well. What is taken back goes alone."""
    async with unanswered(tmp_path) as person:
        await person.click("New object")
        await person.point(".clicks", 0.1, 0.1, to=(0.4, 0.3))
        await person.until("asked === 2")
        await person.click("New object")
        await person.point(".clicks", 0.8, 0.8)
        await person.until("asked === 3")
        await person.evaluate(GO)
        await person.until(f"{PATHS}.length === 3")
        await person.press("z")
        await person.until(f"{PATHS}.length === 2 && {POINTS} === 1")
        assert await person.evaluate("asked") == 3
        await person.until("!document.querySelector('.stagebox > .running')")


async def test_a_click_is_taken_back_before_the_one_before_it_was_answered(tmp_path):
    """The object as it was before is asked for again: it would have no mask."""
    async with unanswered(tmp_path) as person:
        await person.point(".clicks", 0.8, 0.8)
        await person.until("asked === 2")
        await person.press("z")
        await person.until(f"{POINTS} === 1 && asked === 3")
        await person.evaluate(GO)
        await person.until(f"{PATHS}.length === 1")


async def test_an_unanswered_object_is_removed(tmp_path):
    """Nobody waits for its answer; taken back, it is asked for again."""
    async with unanswered(tmp_path) as person:
        await person.click("Remove object 1", ".objects")
        await person.until(f"{POINTS} === 0 && !document.querySelector('.stagebox > .running')")
        await person.press("z")
        await person.until("asked === 2")
        await person.evaluate(GO)
        await person.until(f"{PATHS}.length === 1")


async def test_words_that_are_found_nowhere(tmp_path):
    """They are asked for once, not at each step that is taken back, and make room for the next."""
    async with unanswered(tmp_path) as person:
        await person.evaluate(GO)
        await person.until(f"{PATHS}.length === 1")
        await person.fill("#words", "nowhere")
        await person.click("Find")
        await person.until("asked === 2")
        await person.evaluate(GO)
        await person.sees("nothing found")
        await person.point(".clicks", 0.8, 0.8)
        await person.until("asked === 3")
        await person.evaluate(GO)
        await person.until(f"{PATHS}.length === 2")
        await person.press("z")
        await person.until(f"{PATHS}.length === 1")
        await person.fill("#words", "window")
        await person.click("Find")
        await person.until("asked === 4")
        await person.evaluate(GO)
        await person.until(f"{PATHS}.length === 3")
        assert "nothing found" not in await person.text(".objects")


async def test_other_words_in_a_session_that_was_opened_again(tmp_path):
    """What they find is new: an object of earlier words that is still to be found is another."""
    async with served(tmp_path) as server, shown(server.url, tmp_path) as person:
        found = await person.evaluate("""import("./console/tracks.mjs").then(({ Tracks }) => {
          const tracks = new Tracks();
          tracks.of(1, "disc").id = 1;
          const late = tracks.of(2, "disc");  // it was found while tracking: no words bring it back
          late.id = null;
          const square = tracks.of(2, "square");
          const again = tracks.of(3, "disc");
          return [late.name, late.id, square.name, square.id, again === late];
        })""")
        assert found == ["disc 2", 3, "square 1", 2, True]
