"""Segment's objects and Ask's talk, when their page was left and somebody comes back to it."""

from __future__ import annotations

import planted_sam
import pytest
from console_pages import CHROMIUM, END, SQUARE, served, shown
from test_looking import PATHS
from test_two_tabs import another

from conftest import picture

pytestmark = [pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium"), pytest.mark.long]
OBJECTS = "document.querySelector('.objects')?.innerText"
KEPT = """new Promise((done) => {
  const opening = indexedDB.open("mataserver", 1);
  opening.onsuccess = () => {
    const asked = opening.result.transaction("kept").objectStore("kept").getAllKeys();
    asked.onsuccess = () => done(asked.result.join());
  };
})"""
TALK = KEPT.replace("getAllKeys()", 'get("talk")').replace(".join()", "")
MARKED = KEPT.replace("getAllKeys()", 'get("objects")').replace(
    "asked.result.join()",
    """String(asked.result?.things.flatMap((each) => each.points.map(([x]) => x.toFixed(1))))""",
)
"""Where what is kept was marked: points from the left."""
HELD = """(() => {
  const real = fetch;
  window.fetch = (path, options) => (/PATH/.test(path)
    ? new Promise((_, gone) =>
      options.signal.addEventListener("abort", () => gone(options.signal.reason)))
    : real(path, options));
})()"""
"""Has what the page asks below ``PATH`` wait until the page gives it up."""


async def test_objects_stay_with_their_picture(tmp_path):
    """Over another page and a reload; not for another picture, nor after signing out."""
    async with (
        served(tmp_path, points=[planted_sam.POINT]) as server,
        shown(server.url, tmp_path) as person,
    ):
        await person.go("segment")
        await person.give(SQUARE, "first.png")
        await person.point(".clicks", 0.5, 0.5)
        await person.until(f"{PATHS}.length === 1")
        await person.click("New object")
        await person.point(".clicks", 0.1, 0.1, to=(0.4, 0.3))
        made = await person.until(f"{PATHS}.length === 2 && {PATHS}.sort()")
        await person.go("models")
        await person.until("!!document.querySelector('tr[data-model]')")
        await person.go("segment")
        await person.until(f"String({PATHS}.sort()) === {','.join(made)!r}")
        assert await person.evaluate("document.querySelectorAll('.point').length") == 1
        await person.until(f"{KEPT}.then((names) => names === 'objects,picture')")
        await person.reload()
        await person.until(f"String({PATHS}.sort()) === {','.join(made)!r}")
        await person.click("Remove object 1", ".objects")
        await person.until(f"{PATHS}.length === 1")
        await person.go("try?model=fake-detect")
        await person.until("!!document.querySelector('.pictures')")
        await person.go("segment")
        await person.until(f"{PATHS}.length === 1 && !{OBJECTS}.includes('object 1')")
        await person.give(picture(48, 48, (4, 4, 20, 20)), "other.png")
        await person.until(f"{PATHS}.length === 0 && {OBJECTS}.includes('object 1')")
        await person.point(".clicks", 0.5, 0.5)
        await person.until(f"{PATHS}.length === 1")
        await person.click("Sign out")
        await person.until("!!document.querySelector('.signin')")
        await person.until(f"{KEPT}.then((names) => names === '')")
        await person.enter()
        await person.sees("Drop a picture here")


async def test_objects_of_two_tabs(tmp_path):
    """A reload shows those of the tab that marked last, of the picture that was taken last."""
    async with (
        served(tmp_path, points=[planted_sam.POINT]) as server,
        shown(server.url, tmp_path) as person,
    ):
        await person.go("segment")
        await person.give(SQUARE, "first.png")
        for number, place in enumerate((0.5, 0.2), 1):
            await person.point(".clicks", place, place)
            await person.until(f"{PATHS}.length === {number}")
            await person.click("New object")
        async with another(person, server, tmp_path, "#/segment") as other:
            await other.until(f"{PATHS}.length === 2")
            await other.point(".clicks", 0.8, 0.8)
            await other.until(f"{PATHS}.length === 3")
            await other.until(f"{MARKED}.then((kept) => kept === '0.5,0.2,0.8')")
            await person.click("1", ".objects")  # which marks nothing
            await person.until("!!document.querySelector('.objects .k1.on')")
            assert await person.evaluate(MARKED) == "0.5,0.2,0.8"
            await other.reload()
            await other.until(f"{PATHS}.length === 3")
            await person.point(".clicks", 0.4, 0.6)
            await person.until(f"{MARKED}.then((kept) => kept === '0.5,0.4,0.2')")
            await other.give(picture(48, 48, (4, 4, 20, 20)), "other.png")
            await other.until(f"{PATHS}.length === 0")
            await other.point(".clicks", 0.7, 0.5)
            await other.until(f"{MARKED}.then((kept) => kept === '0.7')")
            await person.point(".clicks", 0.6, 0.4)
            await person.until("document.querySelectorAll('.point').length === 4")
            await person.until("!document.querySelector('.stagebox > .running')")
            assert await person.evaluate(MARKED) == "0.7"


async def test_a_page_that_is_left_before_the_mask_came(tmp_path):
    """It is asked for again."""
    async with (
        served(tmp_path, points=[planted_sam.POINT]) as server,
        shown(server.url, tmp_path) as person,
    ):
        await person.go("segment")
        await person.give()
        await person.until("!!document.querySelector('.clicks')")
        await person.evaluate(f"window.real = fetch; {HELD.replace('PATH', 'segment$')}, 0")
        await person.point(".clicks", 0.5, 0.5)
        await person.until("document.querySelectorAll('.point').length === 1")
        await person.go("models")
        await person.until("!!document.querySelector('tr[data-model]')")
        await person.evaluate("window.fetch = real; 0")
        await person.go("segment")
        await person.until(f"{PATHS}.length === 1")
        assert await person.evaluate("document.querySelectorAll('.point').length") == 1


async def test_what_is_taken_back_stays_so(tmp_path):
    """Also the first click of all, before which nothing was kept."""
    async with (
        served(tmp_path, points=[planted_sam.POINT]) as server,
        shown(server.url, tmp_path) as person,
    ):
        await person.go("segment")
        await person.give()
        await person.point(".clicks", 0.5, 0.5)
        await person.until(f"{PATHS}.length === 1")
        await person.until(f"{KEPT}.then((names) => names === 'objects,picture')")
        await person.press("z")
        await person.until(f"{PATHS}.length === 0")
        await person.go("models")
        await person.until("!!document.querySelector('tr[data-model]')")
        await person.go("segment")
        await person.until("!!document.querySelector('.clicks')")
        await person.click("New object")  # drawn behind what was kept
        await person.until(f"{OBJECTS}.includes('object 2')")
        assert await person.evaluate("document.querySelectorAll('.point').length") == 0
        assert await person.evaluate(f"{PATHS}.length") == 0


async def answered(person, question):
    """Ask something, and wait for the whole answer."""
    await person.fill("#question", question)
    await person.click("Ask", ".talk")
    await person.until("document.querySelector('.turn:last-child .answer')?.innerText === '64x64'")
    await person.until("!!document.querySelector('.turn:last-child .help')")


async def test_the_talk_stays_over_a_reload(tmp_path):
    """With what is being written and what came of an answer; not after signing out."""
    async with served(tmp_path) as server, shown(server.url, tmp_path) as person:
        await person.go("ask?seconds=0")
        await person.give()
        await answered(person, "How large is it?")
        await person.go("ask?behave=raise")
        await person.fill("#question", "And now?")
        await person.click("Ask", ".talk")
        failed = await person.until("document.querySelector('.talk .note.bad span')?.innerText")
        await person.go("ask?seconds=0")
        await person.evaluate(f"{HELD.replace('PATH', 'infer')}, 0")  # until it is loaded anew
        await person.fill("#question", "And then?")
        await person.click("Ask", ".talk")
        await person.until("document.querySelectorAll('.turn').length === 3")
        await person.fill("#question", "At last")
        await person.until(
            f"{TALK}.then((talk) => talk?.words === 'At last' && talk.turns.length === 3)"
        )
        await person.reload()
        await person.until("document.querySelectorAll('.turn').length === 3")
        said = await person.text(".turns")
        assert all(each in said for each in ("How large is it?", "64x64", "And now?", failed))
        await person.sees("Stopped: what was written stays.")
        assert await person.evaluate("document.querySelector('#question').value") == "At last"
        await answered(person, "Once more?")
        assert await person.evaluate("document.querySelectorAll('.turn').length") == 4
        await person.click("Clear")
        await person.fill("#question", "")
        await person.until(f"{KEPT}.then((names) => names === 'picture')")
        await answered(person, "How large is it?")
        await person.click("Sign out")
        await person.until("!!document.querySelector('.signin')")
        await person.until(f"{KEPT}.then((names) => names === '')")
        await person.enter()
        await person.go("ask")
        await person.sees("Ask about the picture")


async def test_the_talk_of_somebody_else(tmp_path):
    """Who signs in where a session was over finds nothing of it, and it is gone."""
    async with served(tmp_path) as server, shown(server.url, tmp_path) as person:
        await person.go("ask?seconds=0")
        await person.give()
        await answered(person, "How large is it?")
        await person.until(f"{KEPT}.then((names) => names === 'picture,talk')")
        await person.evaluate(END)
        await person.reload()
        await person.enter("door-key")
        await person.until(f"{KEPT}.then((names) => names === 'picture')")
        assert await person.evaluate("document.querySelectorAll('.turn').length") == 0


async def test_the_talk_of_another_tab(tmp_path):
    """What asked before, or never, takes nothing of it; of two that ask, the last one is kept."""
    async with (
        served(tmp_path) as server,
        shown(server.url, tmp_path) as person,
        another(person, server, tmp_path, "#/ask?seconds=0") as older,
    ):
        await older.until("!!document.querySelector('#question')")
        await older.fill("#question", "Never asked")
        await older.until(f"{TALK}.then((talk) => talk?.words === 'Never asked')")
        await older.fill("#question", "")
        await older.until(f"{KEPT}.then((names) => names === '')")
        await person.go("ask?seconds=0")
        await person.give()
        await answered(person, "How large is it?")
        await person.fill("#question", "And now?")
        kept = await person.until(f"{TALK}.then((talk) => talk?.words && JSON.stringify(talk))")
        for words in ("x", "", "y"):
            await older.fill("#question", words)
            await older.evaluate(f"{KEPT}.then(() => 0)")  # behind what the page keeps
            assert await older.evaluate(f"{TALK}.then(JSON.stringify)") == kept
        await older.go("models")
        await older.until("!!document.querySelector('tr[data-model]')")
        await older.go("ask?seconds=0")
        await older.until("document.querySelector('#question')?.value === 'y'")
        await older.evaluate(f"{KEPT}.then(() => 0)")
        assert await older.evaluate(f"{TALK}.then(JSON.stringify)") == kept
        await older.give()
        await answered(older, "Which size?")
        await older.until(f"{TALK}.then((talk) => talk?.turns[0].question === 'Which size?')")
        await person.click("Clear")
        await person.fill("#question", "z")
        await person.evaluate(f"{KEPT}.then(() => 0)")
        await person.reload()
        await person.until("document.querySelector('.turns')?.innerText.includes('Which size?')")
        assert await person.evaluate("document.querySelector('#question').value") == ""
