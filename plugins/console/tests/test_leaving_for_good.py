"""What is open on the server when somebody signs out, or is about to lose their work."""

from __future__ import annotations

import pytest
from console_pages import CHROMIUM, asked, served, shown
from test_filming import BOXES, COUNT, before, movies, opened, seek, sessions
from test_looking import sessions as streams
from test_two_tabs import another

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
WARNS = """(() => {
  const leaving = new Event("beforeunload", { cancelable: true });
  dispatchEvent(leaving);
  return leaving.defaultPrevented;
})()"""
"""Whether the browser would ask before it leaves the page."""
OPEN = "Object.keys(localStorage).filter((name) => name.startsWith('mataserver.session '))"


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    """The bytes of a video."""
    return movies.write(tmp_path_factory.mktemp("films") / "moving.mp4", COUNT).read_bytes()


@pytest.mark.parametrize("where", ["its page", "another page", "another tab"])
async def test_signing_out_ends_a_video(tmp_path, film, where):
    """Its session is closed at once, and the browser does not ask before the page goes."""
    async with before(tmp_path) as (server, person):
        await opened(person, film)
        await person.point(".clicks", 0.25, 0.5)
        await person.until(f"{BOXES}.length === 1")
        await sessions(server, 1)
        if where == "another tab":
            async with another(person, server, tmp_path, "#/models") as other:
                await other.click("Sign out")
                await sessions(server, 0)
                await other.until("!!document.querySelector('.signin')")
        else:
            if where == "another page":
                await person.go("models")
            await person.click("Sign out")
            await sessions(server, 0)
        await person.until("!!document.querySelector('.signin')")
        assert await person.evaluate(OPEN) == []


async def test_signing_out_ends_a_stream(tmp_path):
    """The session of this device's camera is closed, too."""
    async with served(tmp_path) as server, shown(server.url, tmp_path) as person:
        await person.go("live?model=fake-detect")
        await person.click("Start")
        await person.until("document.querySelector('.vl')?.innerText.includes('ms old')")
        await streams(server, 1)
        await person.click("Sign out")
        await streams(server, 0)
        await person.until("!!document.querySelector('.signin')")


async def test_a_video_with_objects_is_not_lost_by_a_slip(tmp_path, film):
    """The browser asks before a reload, on other pages of the console too, until it is closed."""
    async with before(tmp_path) as (server, person):
        await opened(person, film)
        assert not await person.evaluate(WARNS)
        await person.point(".clicks", 0.25, 0.5)
        await person.until(f"{BOXES}.length === 1")
        assert await person.evaluate(WARNS)
        await person.go("models")
        await person.until("!!document.querySelector('tr[data-model]')")
        assert await person.evaluate(WARNS)
        await person.go("segment?kind=video")
        await person.click("Close")
        await sessions(server, 0)
        assert not await person.evaluate(WARNS)


async def test_what_was_removed_stays_away_in_a_session_that_is_opened_again(tmp_path, film):
    """Of two that words found the one that is left is the same one as before."""
    async with before(tmp_path) as (server, person):
        await opened(person, film)
        await person.fill("#words", "disc")
        await person.click("Find")
        await person.until(f"{BOXES}.length === 2")
        await person.click("Remove disc 1")
        await person.until(f"{BOXES}.length === 1")
        (left,) = await person.evaluate(BOXES)
        (session,) = await sessions(server, 1)
        await asked(server, "DELETE", f"/api/v1/video/session/{session['session_id']}")
        await person.click("Track")
        await person.click("Open it again")
        await person.until("!document.querySelector('.wrongs .note')")
        await person.click("Track")
        await person.sees(f"Tracked {COUNT} frames")
        assert (await sessions(server, 1))[0]["objects_count"] == 1
        assert len(await person.evaluate("[...document.querySelectorAll('.objects li')]")) == 1
        await seek(person, 10)
        (now,) = await person.evaluate(BOXES)
        assert now[0] == left[0] + 10
