"""Segment's video, when its page is left for another one of the console and somebody comes back."""

from __future__ import annotations

import planted_film
import pytest
from console_pages import CHROMIUM, END
from test_filming import BOXES, COUNT, SHOWN, before, movies, opened, sessions

pytestmark = [pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium"), pytest.mark.long]


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    """The bytes of a video."""
    return movies.write(tmp_path_factory.mktemp("films") / "moving.mp4", COUNT).read_bytes()


async def marked(person, film):
    """Open a video, and point at an object."""
    await opened(person, film)
    await person.point(".clicks", 0.25, 0.5)
    await person.until(f"{BOXES}.length === 1")


async def elsewhere(person):
    """Leave the page for another one."""
    await person.go("models")
    await person.until("!!document.querySelector('tr[data-model]')")


async def test_what_was_tracked_is_there_again(tmp_path, film):
    """It can be worked on, and closed then."""
    async with before(tmp_path) as (server, person):
        await marked(person, film)
        await person.click("Track")
        await person.sees(f"Tracked {COUNT} frames")
        await elsewhere(person)
        await person.go("segment?kind=video")
        await person.until(f"({SHOWN}) === 'frame {COUNT - 1}' && {BOXES}.length === 1")
        assert f"seen on {COUNT} frames" in await person.text(".objects")
        await person.click("Picture", ".seg")
        await person.sees("Drop a picture here")
        await person.click("Video", ".seg")
        await person.until(f"({SHOWN}) === 'frame {COUNT - 1}' && {BOXES}.length === 1")
        await person.click("New object")
        await person.point(".clicks", 0.2, 0.2)
        await person.until(f"{BOXES}.length === 2")
        (session,) = await sessions(server, 1)
        assert session["objects_count"] == 2
        await person.click("Close")
        await sessions(server, 0)


async def test_it_is_tracked_while_another_page_is_open(tmp_path, film):
    """Nothing of what comes meanwhile is lost."""
    async with before(tmp_path) as (_, person):
        await marked(person, film)
        planted_film.GATE.clear()
        await person.click("Track")
        await person.sees(f"{planted_film.HELD} of {COUNT} frames")
        await elsewhere(person)
        planted_film.GATE.set()
        await person.go("segment?kind=video")
        await person.sees(f"Tracked {COUNT} frames")
        assert f"seen on {COUNT} frames" in await person.text(".objects")


@pytest.mark.parametrize("way", ["reload", "somebody else"])
async def test_nothing_is_left_of_it(tmp_path, film, way):
    """A reload of another page ends the session; somebody else finds no video of the one before."""
    async with before(tmp_path) as (server, person):
        await marked(person, film)
        await elsewhere(person)
        await sessions(server, 1)
        if way == "reload":
            await person.reload()
            await sessions(server, 0)
        else:
            await person.evaluate(END)
            await person.click("Load", "tr[data-model=many]")
            await person.until("!!document.querySelector('.signin')")
            await person.enter("door-key")
            await person.until("document.querySelector('.me')?.innerText.startsWith('door')")
        await person.go("segment?kind=video")
        await person.sees("Drop a video here")


async def test_somebody_else_signs_in_before_the_video(tmp_path, film):
    """They begin with an empty page."""
    async with before(tmp_path) as (_, person):
        await marked(person, film)
        await person.evaluate(END)
        await person.point(".clicks", 0.6, 0.5)
        await person.until("!!document.querySelector('.signin')")
        await person.enter("door-key")
        await person.until("document.querySelector('.me')?.innerText.startsWith('door')")
        await person.sees("Drop a video here")
