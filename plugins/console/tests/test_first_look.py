"""What is seen without a model, in a low window, and of long names."""

from __future__ import annotations

import json

import planted_sam
import pytest
from console_pages import CHROMIUM, KEYS, asked, served, shown

from mataserver import testing

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
LONG = "an-organisation-with-a-very-long-name/a-model-that-has-an-even-longer-name-instruct-int8"
NOTE = "document.querySelector('.main .note')?.innerText"
OWNER = "document.querySelector('.picker .name .quiet')"


@pytest.mark.parametrize("page", ["try", "ask", "live"])
async def test_no_model_is_registered(tmp_path, page):
    """The page says so, and leads to where one comes from."""
    only = testing.installed("console")
    async with (
        testing.serving(tmp_path / "data", entry_points=only, api_keys=KEYS) as server,
        shown(server.url, tmp_path) as person,
    ):
        await person.go(page)
        await person.until(f"{NOTE}?.includes('is registered yet')")
        assert await person.faults() == []
        await person.click("Models", ".note")
        await person.sees("No model is registered yet: pull one below.")


async def test_the_name_of_an_owner_ends_in_dots(tmp_path):
    """It does not run into the model's."""
    async with (
        served(tmp_path, registered={LONG: "detect"}) as server,
        shown(server.url, tmp_path) as person,
    ):
        await person.screen(width=1024)
        await person.go(f"try?model={LONG}")
        await person.until(f"{OWNER}?.scrollWidth > {OWNER}?.clientWidth")
        style = await person.evaluate(f"(({{ display, textOverflow }}) => display + textOverflow)"
                                      f"(getComputedStyle({OWNER}))")  # fmt: skip
        assert style == "blockellipsis"  # dots are drawn in a block alone


async def test_the_name_of_a_class_has_most_of_its_row(tmp_path):
    """The bars, of one length, have the rest."""
    widths = """[...document.querySelector(".classes li").children]
      .map((each) => each.getBoundingClientRect().width)"""
    async with served(tmp_path) as server, shown(server.url, tmp_path) as person:
        await person.go("try?model=fake-classify")
        await person.give()
        await person.until("!!document.querySelector('.classes li')")
        name, meter, _ = await person.evaluate(widths)
        assert name > meter > 70


async def test_a_low_window_is_for_the_page(tmp_path):
    """Its title scrolls away, and the way to other pages is low; at 200 % a laptop is so low."""
    async with served(tmp_path) as server, shown(server.url, tmp_path) as person:
        await person.screen(width=640, height=360)
        await person.go("models")
        await person.until("document.querySelectorAll('tr[data-model]').length > 8")
        await person.evaluate("scrollTo(0, 400)")
        await person.until("document.querySelector('.bar').getBoundingClientRect().bottom <= 0")
        assert await person.evaluate("document.querySelector('.tabs-bottom').offsetHeight") <= 40
        assert await person.faults() == []


async def test_the_ways_to_pages_at_400_percent(tmp_path):
    """All of them are whole, beside each other."""
    over = """[...document.querySelectorAll(".tabs-bottom a")].filter((each) =>
      each.getBoundingClientRect().right > document.querySelector(".tabs-bottom").clientWidth)
      .map((each) => each.innerText)"""
    async with (
        served(tmp_path, points=[planted_sam.POINT]) as server,
        shown(server.url, tmp_path) as person,
    ):
        await person.screen(width=305, height=200)
        await person.until("document.querySelectorAll('.tabs-bottom a').length === 5")
        assert await person.evaluate(over) == []


async def test_a_user_with_a_long_name(tmp_path):
    """It is broken, and lies on no button."""
    async with (
        served(tmp_path, "database", "accounts") as server,
        shown(server.url, tmp_path) as person,
    ):
        user = {"name": "a" * 60, "password": "correct horse battery", "role": "viewer"}
        await asked(server, "POST", "/v1/users", json=user)
        await person.go("server")
        place = "document.querySelector('[aria-labelledby=users] li KIND')?.getBoundingClientRect()"
        name, state = (place.replace("KIND", kind) for kind in (".strong", ".state"))
        right, left = await person.until(f"{name} && [{name}.right, {state}.left]")
        assert right <= left


async def test_a_label_is_cut_between_letters(tmp_path):
    """An emoji of several signs is one letter."""
    family = "\U0001f468\u200d\U0001f469\u200d\U0001f467"
    async with served(tmp_path) as server, shown(server.url, tmp_path) as person:
        texts = ["a" * 22, "a" * 23, family * 22, family * 23, "a" * 20 + family * 3]
        told = await person.evaluate(
            f"""import("./console/labels.mjs").then(({{ cut }}) => {json.dumps(texts)}.map(cut))"""
        )
        assert told == [
            texts[0],
            "a" * 21 + "\u2026",
            texts[2],
            family * 21 + "\u2026",
            "a" * 20 + family + "\u2026",
        ]


async def test_a_browser_that_splits_no_letters(tmp_path):
    """Every page is there all the same; a text is cut between code points."""
    old, texts = "delete Intl.Segmenter", ["a" * 22, "\U0001f468" * 23]
    async with served(tmp_path) as server, shown(server.url, tmp_path) as person:
        await person.page.call("Page.addScriptToEvaluateOnNewDocument", source=old)
        await person.reload()
        await person.until("!!document.querySelector('.app:not(.shell) h1')")
        told = await person.evaluate(
            f"""import("./console/labels.mjs").then(({{ cut }}) => {json.dumps(texts)}.map(cut))"""
        )
        assert told == [texts[0], "\U0001f468" * 21 + "\u2026"]


async def test_a_field_that_the_browser_fills_in(tmp_path):
    """A browser tells of it by an event of keys that has no key."""
    async with served(tmp_path) as server, shown(server.url, tmp_path) as person:
        await person.go("try?model=fake-depth")
        await person.give()
        await person.until("!!document.querySelector('.stage canvas')")
        await person.evaluate("""window.thrown = [];
          addEventListener("error", (event) => thrown.push(event.message));
          for (const kind of ["keydown", "keyup"])
            document.body.dispatchEvent(new Event(kind, { bubbles: true }));""")
        assert await person.evaluate("thrown") == []
