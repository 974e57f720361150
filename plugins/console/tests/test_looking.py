"""Live, Segment and Ask: what moves, what is clicked, what is written."""

from __future__ import annotations

import asyncio

import planted_sam
import pytest
from console_pages import CHROMIUM, asked, large, served, shown

from camera_sources import make_video

pytestmark = [pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium"), pytest.mark.long]
LIVE = "document.querySelector('.vl')?.innerText.includes('ms old')"
MODULE = """performance.getEntriesByType('resource')
  .some((each) => each.name.endsWith('/models.mjs') && each.responseEnd)"""
PATHS = "[...document.querySelectorAll('.over .mask')].map((e) => e.getAttribute('d'))"


async def sessions(server, number):
    """Wait until the server has so many sessions."""
    while len(found := await asked(server, "GET", "/v1/sessions")) != number:
        await asyncio.sleep(0.05)
    return found


async def test_the_camera(tmp_path):
    """Its results come with their age, and figures that are those of the server."""
    async with served(tmp_path) as server, shown(server.url, tmp_path) as person:
        await person.go("live?model=fake-track")
        await person.click("Start")
        await person.until(LIVE)
        await person.until("document.querySelectorAll('.over .dot').length > 0")
        await asyncio.sleep(1.5)
        rate = "Number(document.querySelector('[data-figure=Results] dd').firstChild.textContent)"
        assert await person.evaluate(rate) > 2
        (session,) = await sessions(server, 1)
        assert session["results"] > 3
        await person.evaluate("document.activeElement?.blur()")
        await person.press(" ")
        await sessions(server, 0)
        await person.until(
            "document.querySelector('[data-figure=Age] dd').innerText[0] === '\u2013'"
        )
        assert await person.evaluate("document.querySelectorAll('.tracks li').length") == 0


async def test_frames_are_encoded_beside_the_page(tmp_path):
    """A page that always draws encodes a frame a second itself: it does not do that at all."""
    async with served(tmp_path) as server, shown(server.url, tmp_path) as person:
        await person.evaluate(
            "OffscreenCanvas.prototype.convertToBlob = () => Promise.reject(0); 0"
        )
        await person.go("live?model=fake-track")
        await person.click("Start")
        await person.until("document.querySelectorAll('.over .dot').length > 0")
        await person.click("Stop")
        await sessions(server, 0)


async def test_no_order_of_clicks_leaves_a_session(tmp_path):
    """Starting and stopping in a hurry, another model, another page and a reload end what was."""
    hurry = """(() => {
      const button = (name) => [...document.querySelectorAll(".bar button")]
        .find((e) => e.innerText.trim() === name);
      const later = (time) => new Promise((done) => setTimeout(done, time));
      return (async () => {
        for (const pause of [0, 1, 20, 60, 150, 300]) {
          button("Start")?.click();
          await later(pause);
          button("Stop")?.click();
          await later(pause % 7);
        }
        button("Start")?.click(); button("Start")?.click();
      })();
    })()"""
    async with served(tmp_path) as server, shown(server.url, tmp_path) as person:
        await person.go("live?model=fake-detect")
        await person.until("!!document.querySelector('.bar .primary:not([disabled])')")
        await person.evaluate(hurry)
        await person.until(LIVE)
        await sessions(server, 1)
        await person.click("Model:")
        await person.click("fake-track", ".menu")
        await person.until(LIVE)
        (session,) = await sessions(server, 1)
        assert session["model"] == "fake-track"
        await person.go("models")
        await sessions(server, 0)
        await person.go("live?model=fake-detect")
        await person.click("Start")
        await person.until(LIVE)
        await person.evaluate("location.reload()")
        await sessions(server, 0)


async def test_a_page_that_is_left_before_it_came(tmp_path):
    """Its module comes late, and puts the page that is open now, and its camera, not away."""
    async with served(tmp_path) as server, shown(server.url, tmp_path) as person:
        await person.go("live?model=fake-detect")
        await person.until("!!document.querySelector('.bar .primary:not([disabled])')")
        await person.page.call(
            "Network.emulateNetworkConditions",
            offline=False, latency=1500, downloadThroughput=-1, uploadThroughput=-1,
        )  # fmt: skip
        await person.go("models")
        await person.until("document.title.startsWith('Models')")
        await person.go("live?model=fake-detect")
        await person.until("!!document.querySelector('video')")
        await person.evaluate("document.querySelector('video').dataset.first = 'yes'")
        assert not await person.evaluate(MODULE)
        await person.until(MODULE)
        await asyncio.sleep(0.3)
        assert await person.evaluate("document.querySelector('video')?.dataset.first") == "yes"


async def test_a_stream_that_the_server_ends(tmp_path):
    """The page says that it ended, and starts again where that is asked for."""
    async with served(tmp_path) as server, shown(server.url, tmp_path) as person:
        await person.go("live?model=fake-detect")
        await person.click("Start")
        await person.until(LIVE)
        (session,) = await sessions(server, 1)
        await asked(server, "DELETE", f"/v1/sessions/{session['session_id']}")
        await person.until("document.querySelector('.note.bad')?.innerText")
        await person.click("Try again")
        await person.until(LIVE)
        await sessions(server, 1)


async def test_segment(tmp_path):
    """A click adds, a right click takes off, a drag is a box, words find all; keys click, too."""
    async with (
        served(tmp_path, points=[planted_sam.POINT]) as server,
        shown(server.url, tmp_path) as person,
    ):
        await person.go("segment")
        await person.give()
        await person.point(".clicks", 0.5, 0.5)
        first = (await person.until(f"{PATHS}.length && {PATHS}"))[0]
        await person.point(".clicks", 0.6, 0.5, "right")
        await person.until(f"{PATHS}[0] && {PATHS}[0] !== {first!r}")
        assert "1 point in, 1 out" in await person.text(".objects")
        await person.press("z")
        await person.until(f"{PATHS}[0] === {first!r}")
        await person.click("New object")
        await person.point(".clicks", 0.1, 0.1, to=(0.4, 0.3))
        await person.until(f"{PATHS}.length == 2")
        box = "[...document.querySelectorAll('.over .mask')][1].getBBox()"
        assert await person.evaluate(f"Math.round({box}.width)") in {18, 19, 20}
        await person.fill("#words", "window")
        await person.click("Find")
        await person.until(f"{PATHS}.length == 4")
        assert "window 2" in await person.text(".stage")
        await person.evaluate("document.querySelector('.mid .stage').focus()")
        await person.press("ArrowRight")
        await person.until("document.querySelector('.cross b')?.innerText === '33, 32'")
        await person.press("Enter")
        await person.until(f"{PATHS}.length == 5")
        await person.click("Remove object 1", ".objects")
        await person.until(f"{PATHS}.length == 4 && !{PATHS}.includes({first!r})")
        await person.press("z")
        await person.until(f"{PATHS}.length == 5 && {PATHS}.includes({first!r})")


async def test_a_picture_is_sent_to_sam_once(tmp_path):
    """Later clicks name it; a server that does not know the name any more is given it again."""
    planted_sam.SENT.clear()
    async with (
        served(tmp_path, points=[planted_sam.POINT]) as server,
        shown(server.url, tmp_path) as person,
    ):
        await person.go("segment")
        await person.give()
        for number, place in enumerate([(0.2, 0.2), (0.8, 0.2), (0.2, 0.8), (0.8, 0.8)], 1):
            if number == 4:
                planted_sam.MADE[-1].forget()
            await person.point(".clicks", *place)
            await person.until(f"({PATHS}[0] ?? '').split('M').length === {number + 1}")
        assert planted_sam.SENT == [True, False, False, False, True]
        await person.give(large(400, 300), "other.jpg")
        await person.until(
            "document.querySelector('.over')?.getAttribute('viewBox') === '0 0 400 300'"
        )
        await person.point(".clicks", 0.5, 0.5)
        await person.until(f"{PATHS}.length === 1")
        assert planted_sam.SENT[5:] == [True]


async def test_the_masks_that_sam_proposes(tmp_path):
    """All stand beside the picture; the best is drawn, another one by a click, Z goes back."""
    async with (
        served(tmp_path, points=[planted_sam.POINT]) as server,
        shown(server.url, tmp_path) as person,
    ):
        await person.go("segment")
        await person.give()
        await person.point(".clicks", 0.5, 0.5)
        await person.until("document.querySelectorAll('.proposals .fill').length === 3")
        width = "Math.round(document.querySelector('.over .mask').getBBox().width)"
        assert await person.evaluate(width) in {20, 21, 22}
        pressed = """[...document.querySelectorAll('.proposals button')]
          .map((e) => e.getAttribute('aria-pressed')).join()"""
        assert await person.evaluate(pressed) == "true,false,false"
        assert await person.faults() == []
        await person.click("Mask 2, rated 0.80, 19.")
        await person.until(f"{width} > 30")
        assert await person.evaluate(pressed) == "false,true,false"
        assert "19." in await person.text(".objects")
        await person.press("z")
        await person.until(f"{width} < 24")
        await person.fill("#words", "window")
        await person.click("Find")
        await person.until("!document.querySelector('.proposals')")


async def test_a_click_that_loads_the_model(tmp_path):
    """The page says that it loads, and for how long it has done so."""
    async with (
        served(tmp_path, points=[planted_sam.POINT]) as server,
        shown(server.url, tmp_path) as person,
    ):
        planted_sam.MADE[-1].seconds = 2.5
        await person.go("segment")
        await person.sees("loads with the first click")
        await person.give()
        await person.point(".clicks", 0.5, 0.5)
        await person.sees("Loading the model, 1 s")
        await person.until(f"{PATHS}.length === 1")
        await person.sees("for the last one")
        await person.until("document.querySelector('.bar .state.ok')?.innerText === 'loaded'")


async def test_ask(tmp_path):
    """An answer is shown as it is written; what is stopped stays, and a failure is a sentence."""
    async with served(tmp_path) as server, shown(server.url, tmp_path) as person:
        await person.go("ask?seconds=0.4")
        await person.give()
        await person.fill("#question", "How large is it?")
        await person.click("Ask", ".talk")
        await person.until("/^64/.test(document.querySelector('.answer')?.innerText)")
        assert await person.text(".answer") != "64x64"
        await person.click("Stop")
        await person.sees("Stopped: what was written stays.")
        await person.go("ask?seconds=0")
        await person.fill("#question", "And now?")
        await person.click("Ask", ".talk")
        await person.until("document.querySelectorAll('.answer')[1]?.innerText === '64x64'")
        await person.sees("first word after")
        await person.click("Clear")
        await person.click("What is in the picture?")
        await person.until("document.querySelector('.answer')?.innerText === '64x64'")
        assert await person.text(".question") == "What is in the picture?"
        await person.go("ask?behave=raise")
        await person.fill("#question", "And now?")
        await person.click("Ask", ".talk")
        await person.until("document.querySelector('.talk .note.bad')?.innerText")


@pytest.mark.parametrize("names", [("cameras",), ()])
async def test_a_camera_is_added(tmp_path, names):
    """It is one of the server's; a server without the plugin says what to install."""
    video = make_video(tmp_path / "shelf.mp4")
    settings = {"plugins": {"cameras": {"camera_paths": ["/"]}}} if names else {}
    async with (
        served(tmp_path, *names, **settings) as server,
        shown(server.url, tmp_path) as person,
    ):
        await person.go("live")
        await person.click("Add")
        await person.fill("dialog input[name=source]", str(video))
        await person.pick("fake-detect")
        await person.click("Add", "dialog form")
        if names:
            await person.until(f"document.body.innerText.includes('{video.name}')")
            (camera,) = await asked(server, "GET", "/v1/cameras")
            assert camera["source"] == video.name
            assert camera["model"] == "fake-detect"
        else:
            told = "pip install mataserver-cameras (./plugins/cameras in a checkout), then start"
            await person.until(f"document.querySelector('dialog').innerText.includes('{told}')")
            assert await asked(server, "GET", "/v1/sessions") == []


async def test_a_picture_that_is_kept_is_told_as_old(tmp_path):
    """What a camera showed before the server stopped answering; who looks away asks for nothing."""
    video = make_video(tmp_path / "shelf.mp4")
    count = """window.real ??= fetch; window.looks = 0; window.down = false;
      window.fetch = (path, options) => {
        if (!/snapshot$/.test(path)) return real(path, options);
        window.looks += 1;
        return down ? Promise.reject(new TypeError("unreachable")) : real(path, options);
      }; 0"""
    hide = """Object.defineProperty(document, "hidden", { configurable: true, get: () => %s });
      document.dispatchEvent(new Event("visibilitychange")); 0"""
    async with (
        served(tmp_path, "cameras", plugins={"cameras": {"camera_paths": ["/"]}}) as server,
        shown(server.url, tmp_path) as person,
    ):
        asking = {"source": str(video), "model": "fake-detect"}
        await asked(server, "POST", "/v1/cameras", json=asking)
        await person.evaluate(count)
        await person.go("live")
        await person.until("!!document.querySelector('.tile img')")
        assert await person.evaluate("!document.querySelector('.tile .glass')")
        await person.evaluate("window.down = true; 0")
        await person.until("/^of .* ago|^of now/.test(document.querySelector('.glass')?.innerText)")
        await person.evaluate(hide % "true")
        until_now = await person.evaluate("window.looks")
        await person.evaluate("new Promise((done) => setTimeout(done, 3500))")
        assert await person.evaluate("window.looks") == until_now
        await person.evaluate(hide % "false" + "; window.down = false; 0")
        await person.until("!document.querySelector('.tile .glass')")
