"""Segment's video: points are taken back, and more is clicked before the session knows."""

from __future__ import annotations

import pytest
from console_pages import CHROMIUM
from test_filming import BOXES, COUNT, before, movies, opened, sessions

pytestmark = [pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium"), pytest.mark.long]
MARKS = "document.querySelectorAll('.clicks .point').length"
LATER = """(() => {
  const real = setTimeout;
  window.setTimeout = (act, after, ...rest) => {
    if (after !== 600) return real(act, after, ...rest);
    window.repair = act;
    return 0;
  };
})()"""
"""The session is told of what was taken back when the test says so, not after 600 ms."""
HELD = """(() => {
  const real = fetch;
  window.sent = [];
  window.held = [];
  window.fetch = async (path, options) => {
    if (!/prompt$|object/.test(path)) return real(path, options);
    sent.push(path.split("/").at(-1));
    await new Promise((go) => held.push(go));
    return real(path, options);
  };
})()"""

FAILING = """(() => {
  const real = fetch;
  window.fetch = async (path, options) => {
    if (!/prompt$/.test(path)) return real(path, options);
    window.fetch = real;
    return new Response(null, { status: 500 });
  };
})()"""


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    """The bytes of a video."""
    return movies.write(tmp_path_factory.mktemp("films") / "moving.mp4", COUNT).read_bytes()


async def one_taken_back(person, film):
    """Open a video, point twice at an object, and take the second point back."""
    await opened(person, film)
    await person.evaluate(f"{LATER}, 0")
    for number, x in enumerate((0.3, 0.6), 1):
        await person.point(".clicks", x, 0.5)
        await person.until(f"{MARKS} === {number}")
        await person.until(f"Math.abs(({BOXES}[0]?.[0] ?? 0) + 9 - {x * 80}) <= 1")
    await person.press("z")
    await person.until(f"Math.abs({BOXES}[0][0] + 9 - 24) <= 1")
    await person.until("!!window.repair")


@pytest.mark.parametrize("way", ["undo", "remove", "reset"])
async def test_an_object_that_goes_after_a_point_of_it_was_taken_back(tmp_path, film, way):
    """It does not come back in the session when that is told of the point."""
    async with before(tmp_path) as (server, person):
        await one_taken_back(person, film)
        if way == "undo":
            await person.press("z")
        elif way == "remove":
            await person.click("Remove object 1")
        else:  # it can be begun anew where the server failed
            await person.evaluate(f"{FAILING}, 0")
            await person.point(".clicks", 0.5, 0.2)
            await person.click("Start over")
        await person.until("!document.querySelector('.objects li')")
        await person.evaluate("repair(), 0")
        await person.point(".clicks", 0.7, 0.5)
        await person.until(f"{BOXES}.length === 1")
        (session,) = await sessions(server, 1)
        assert session["objects_count"] == 1


async def test_tracking_begins_while_the_session_is_told_of_a_point(tmp_path, film):
    """It is told once: the object is not there twice."""
    async with before(tmp_path) as (server, person):
        await one_taken_back(person, film)
        await person.evaluate(f"{HELD}, 0")
        await person.click("Track")
        await person.until("window.held.length === 1")
        await person.evaluate("repair(), 0")
        go = "held.splice(0).map((go) => go())"
        await person.until(f"{go}, document.body.innerText.includes('Tracked {COUNT}')")
        assert (await person.evaluate("sent.length"), await person.evaluate("sent[1]")) == (
            2,
            "prompt",
        )
        assert await person.evaluate(f"{BOXES}.length") == 1
        (session,) = await sessions(server, 1)
        assert session["objects_count"] == 1


async def test_an_object_is_left_after_a_point_of_it_was_taken_back(tmp_path, film):
    """The session is told of each object, not only of the one that was changed last."""
    async with before(tmp_path) as (_, person):
        await one_taken_back(person, film)
        await person.click("New object")
        for number, y in enumerate((0.2, 0.8), 1):
            await person.point(".clicks", 0.8, y)
            await person.until(f"{MARKS} === {1 + number}")
            await person.until(f"Math.abs(({BOXES}[1]?.[1] ?? 0) + 9 - {y * 64}) <= 1")
        await person.evaluate(f"{HELD}, window.repair = null, 0")
        await person.press("z")
        await person.until("!!window.repair")
        await person.evaluate("repair(), 0")
        await person.until("held.splice(0).map((go) => go()), sent.length === 4")


async def test_tracking_is_stopped_while_the_session_is_told_of_a_point(tmp_path, film):
    """It stops at once, and the next tracking tells the session what is missing there."""
    async with before(tmp_path) as (server, person):
        await one_taken_back(person, film)
        await person.evaluate(f"{HELD}, 0")
        await person.click("Track")
        await person.until("window.held.length === 1")
        await person.click("Stop")
        await person.sees("Stopped after 0 frames")
        await person.evaluate("held.splice(0).map((go) => go()), 0")
        await person.until("!document.querySelector('.stagebox > .running')")
        assert await person.evaluate("sent.length") == 1
        await person.click("Track")
        go = "held.splice(0).map((go) => go())"
        await person.until(f"{go}, document.body.innerText.includes('Tracked {COUNT}')")
        assert await person.evaluate(f"{BOXES}.length") == 1
        (session,) = await sessions(server, 1)
        assert session["objects_count"] == 1


async def test_a_click_on_an_object_that_words_found_is_not_taken_back(tmp_path, film):
    """Nor before it is answered, and the object stays; one that was not sent yet goes."""
    undo = "document.querySelector('.toolbar [aria-label=\"Take back\"]').disabled"
    async with before(tmp_path) as (server, person):
        await opened(person, film)
        await person.fill("#words", "wheel")
        await person.click("Find")
        await person.until(f"{BOXES}.length === 2")
        await person.evaluate("document.querySelector('.objects .choose').click()")
        await person.until("document.querySelector('.objects .choose[aria-pressed=true]')")
        await person.evaluate(f"{HELD}, 0")
        for number, x in enumerate((0.4, 0.8), 1):
            await person.point(".clicks", x, 0.8)
            await person.until(f"{MARKS} === {number}")
        await person.until("window.held.length === 1")
        await person.press("z")
        await person.until(f"{MARKS} === 1 && {undo}")
        await person.press("z")
        await person.evaluate("held.splice(0).map((go) => go()), 0")
        await person.until("!document.querySelector('.stagebox > .running')")
        assert await person.evaluate(f"[{MARKS}, {BOXES}.length, {undo}]") == [1, 2, True]
        await person.until(f"Math.abs({BOXES}[0][0] + 9 - 32) <= 1")
        assert await person.evaluate("sent.length") == 1
        (session,) = await sessions(server, 1)
        assert session["objects_count"] == 2


async def test_a_click_is_taken_back_after_another_object_was_chosen(tmp_path, film):
    """It goes from the object that it was made on, as soon as it is answered."""
    async with before(tmp_path) as (_, person):
        await opened(person, film)
        await person.point(".clicks", 0.3, 0.5)
        await person.until(f"Math.abs(({BOXES}[0]?.[0] ?? 0) + 9 - 24) <= 1")
        await person.evaluate(f"{HELD}, 0")
        await person.point(".clicks", 0.6, 0.5)
        await person.until("window.held.length === 1")
        await person.click("New object")
        await person.press("z")
        await person.until(f"{MARKS} === 1")
        go = "held.splice(0).map((go) => go())"
        await person.until(f"{go}, !document.querySelector('.stagebox > .running')")
        await person.until(f"{MARKS} === 1 && Math.abs({BOXES}[0][0] + 9 - 24) <= 1")
        await person.until(f"{go}, sent.length === 3")  # the session is told of it, too


RESET = """(() => {
  const real = fetch;
  window.fetch = async (path, options) => {
    if (/reset$/.test(path)) await new Promise((go) => { window.begun = go; });
    return real(path, options);
  };
})()"""


async def test_tracking_begins_while_all_is_begun_anew(tmp_path, film):
    """There is nothing to track then, and the page says nothing of it."""
    async with before(tmp_path) as (server, person):
        await opened(person, film)
        await person.point(".clicks", 0.3, 0.5)
        await person.until(f"{BOXES}.length === 1")
        await person.evaluate(f"{FAILING}, 0")
        await person.point(".clicks", 0.5, 0.2)
        await person.until("!!document.querySelector('.wrongs .note.bad')")
        await person.evaluate(f"{RESET}, 0")
        await person.click("Start over")
        await person.until("!!window.begun")
        await person.click("Track")
        await person.until("!!document.querySelector('.transport .meter')")
        await person.evaluate("begun(), 0")
        await person.until("!document.querySelector('.transport .meter')")
        assert not await person.evaluate("document.querySelector('.wrongs .note')?.innerText")
        text = await person.text()
        assert "Stopped after" not in text
        assert "Tracked" not in text
        assert await person.evaluate(f"{BOXES}.length") == 0
        (session,) = await sessions(server, 1)
        assert session["objects_count"] == 0
