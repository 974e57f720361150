"""Segment's video: open, look, point, track, correct, export; and nothing leaks."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import zipfile
from pathlib import Path

import av
import numpy as np
import planted_film
import pytest
from console_pages import CHROMIUM, asked, served, shown
from PIL import Image

from mataserver_sam.masks import Mask

SAM = str(Path(__file__).parents[2] / "sam" / "tests")
if SAM not in sys.path:  # behind all others, which have a conftest too
    sys.path.append(SAM)

import movies  # noqa: E402 - from beside the plugin whose sessions these are

pytestmark = [pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium"), pytest.mark.long]
COUNT = 40
SHOWN = "document.querySelector('.shot img')?.complete && document.querySelector('.took').innerText"
BOXES = """[...document.querySelectorAll('.over g .mask')]
  .map((e) => e.getBBox()).map((b) => [b.x, b.y, b.width, b.height].map(Math.round))"""


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    """The bytes of a video of 40 frames, each of which tells its number."""
    return movies.write(tmp_path_factory.mktemp("films") / "moving.mp4", COUNT).read_bytes()


@contextlib.asynccontextmanager
async def before(tmp_path, model="planted-film", **settings):
    """Yield a server and a person before Segment's video."""
    planted_film.GATE.set()
    given = {"plugins": {"sam": {"model": model, **settings}}}
    points = [planted_film.POINT]
    async with (
        served(tmp_path, "sam", points=points, registered=planted_film.NAMES, **given) as server,
        shown(server.url, tmp_path) as person,
    ):
        await person.go("segment?kind=video")
        await person.sees("Drop a video here")
        yield server, person


async def opened(person, film, name="moving.mp4"):
    """Open a video; its first frame is there then."""
    await person.choose("input[data-video]", film, name)
    await person.until(f"({SHOWN}) === 'frame 0'")


async def sessions(server, number):
    """Wait until the server has so many sessions."""
    while True:
        told = await asked(server, "GET", "/api/v1/video/sessions")
        if told["total_sessions"] == number:
            return told["sessions"]
        await asyncio.sleep(0.05)


async def seek(person, frame):
    """Go to a frame by the line of frames; it is shown then."""
    await person.evaluate(f"""(() => {{
      const line = document.querySelector('.timeline');
      line.focus();
      const now = () => Number(line.getAttribute('aria-valuenow'));
      const press = (key) =>
        line.dispatchEvent(new KeyboardEvent('keydown', {{ key, bubbles: true }}));
      press('Home');
      return new Promise((done) => {{
        const step = () => {{
          if (now() === {frame}) return done(0);
          if (now() < {frame}) press('ArrowRight');
          return setTimeout(step);
        }};
        setTimeout(step);
      }});
    }})()""")
    await person.until(f"({SHOWN}) === 'frame {frame}'")


NUMBER = f"""(() => {{
  const image = document.querySelector('.shot img');
  const canvas = new OffscreenCanvas({movies.WIDTH}, {movies.HEIGHT});
  const pen = canvas.getContext('2d');
  pen.drawImage(image, 0, 0);
  return [...Array(10).keys()].reduce((sum, bit) =>
    sum + (pen.getImageData(bit * 8 + 4, 4, 1, 1).data[0] > 128 ? 2 ** bit : 0), 0);
}})()"""


async def test_from_a_click_to_the_masks_of_every_frame(tmp_path, film):
    """A click begins an object, tracking carries it on, and each mask lies on its own frame."""
    async with before(tmp_path) as (server, person):
        await opened(person, film)
        await person.point(".clicks", 0.25, 0.5)
        await person.until(f"{BOXES}.length === 1")
        await person.click("Track")
        await person.sees(f"Tracked {COUNT} frames")
        await person.until(f"({SHOWN}) === 'frame {COUNT - 1}'")
        for frame in (0, 7, 31):
            await seek(person, frame)
            assert await person.evaluate(NUMBER) == frame
            ((x, y, width, height),) = await person.evaluate(BOXES)
            assert abs(x + width / 2 - 20 - frame) <= 1, frame
            assert abs(y + height / 2 - 32) <= 1
        assert "seen on 40 frames" in await person.text(".objects")
        (session,) = await sessions(server, 1)
        assert (session["objects_count"], session["status"]) == (1, "ready")


async def test_a_video_of_thirty_seconds(tmp_path):
    """Its last frame is shown, an object is tracked back from there, and looking stays exact."""
    long = movies.write(tmp_path / "long.mp4", 900, rate=30).read_bytes()
    press = """document.querySelector('.timeline')
      .dispatchEvent(new KeyboardEvent('keydown', {{ key: '{}', bubbles: true }}))"""
    async with before(tmp_path) as (_, person):
        await opened(person, long, "thirty.mp4")
        for frame in range(899, 895, -1):
            await person.evaluate(press.format("End" if frame == 899 else "ArrowLeft"))
            await person.until(f"({SHOWN}) === 'frame {frame}'")
            assert await person.evaluate(NUMBER) == frame
        await person.point(".clicks", 0.75, 0.5)
        await person.until(f"{BOXES}.length === 1")
        await person.click("Back", ".transport")
        await person.click("Track")
        await person.sees("Tracked 897 frames")
        await person.evaluate(press.format("End"))
        for frame in range(898, 889, -1):
            await person.evaluate(press.format("ArrowLeft"))
            now = "document.querySelector('.timeline').getAttribute('aria-valuenow')"
            await person.until(f"{now} === '{frame}'")
        await person.until(f"({SHOWN}) === 'frame 890'")
        assert await person.evaluate(NUMBER) == 890
        ((x, y, width, height),) = await person.evaluate(BOXES)
        assert abs(x + width / 2 - 60 - (890 - 896)) <= 1
        assert abs(y + height / 2 - 32) <= 1


async def test_a_correction_and_several_objects(tmp_path, film):
    """A later click corrects the chosen object, the next object is another; Z takes back."""
    async with before(tmp_path) as (_, person):
        await opened(person, film)
        await person.point(".clicks", 0.25, 0.5)
        await person.until(f"{BOXES}.length === 1")
        await person.click("Track")
        await person.sees(f"Tracked {COUNT} frames")
        await seek(person, 10)
        await person.point(".clicks", 0.75, 0.5)
        await person.until(f"Math.abs({BOXES}[0][0] + 9 - 60) <= 1")
        assert "39 of them from before the last correction" in await person.text(".objects")
        await person.press("z")
        await person.until("!document.querySelector('.objects').innerText.includes('frames 0, 10')")
        await person.click("New object")
        await person.point(".clicks", 0.5, 0.2, to=(0.9, 0.6))
        await person.sees("object 2")
        await person.fill("#words", "wheel")
        await person.click("Find")
        await person.sees("wheel 2")
        await person.fill("#words", "nothing")
        await person.click("Find")
        await person.sees("Nothing on this frame looks like “nothing”")
        await person.click("Track")
        await person.sees("Tracked 30 frames")
        await person.click("Remove object 2")
        await person.until("document.querySelectorAll('.objects li').length === 3")
        await seek(person, 12)
        assert len(await person.evaluate(BOXES)) == 3


async def test_a_tracking_that_is_stopped(tmp_path, film):
    """It shows how far it is; stopped, what was tracked stays, and a correction goes on."""
    async with before(tmp_path) as (_, person):
        await opened(person, film)
        await person.point(".clicks", 0.25, 0.5)
        await person.until(f"{BOXES}.length === 1")
        planted_film.GATE.clear()
        await person.click("Track")
        await person.sees(f"{planted_film.HELD} of {COUNT} frames")
        assert await person.evaluate("!document.querySelector('.clicks')")
        await person.click("Stop", ".transport")
        planted_film.GATE.set()
        await person.sees("what was tracked stays")
        await seek(person, 15)
        await person.point(".clicks", 0.5, 0.5)
        await person.until(f"Math.abs({BOXES}[0][0] + 9 - 40) <= 1")
        await person.click("Track")
        await person.sees("Tracked 25 frames")


async def test_no_order_of_clicks_leaves_a_session_of_a_video(tmp_path, film):
    """Another video, Close, another page, a reload: the server has what is open."""
    async with before(tmp_path) as (server, person):
        for number in range(3):  # each while the one before may still be on its way
            await person.choose("input[data-video]", film, f"{number}.mp4")
        await person.until(f"({SHOWN}) === 'frame 0'")
        await sessions(server, 1)
        await person.click("Close")
        await sessions(server, 0)
        await person.choose("input[data-video]", film, "again.mp4")
        await person.evaluate("location.hash = '#/try'")
        await person.sees("Drop a picture here")
        await sessions(server, 0)
        await person.go("segment?kind=video")
        await opened(person, film)
        await person.point(".clicks", 0.25, 0.5)
        await person.until(f"{BOXES}.length === 1")
        planted_film.GATE.clear()
        await person.click("Track")
        await person.sees(f"{planted_film.HELD} of {COUNT} frames")
        await person.reload()  # the browser asks whether to; it does
        planted_film.GATE.set()
        await sessions(server, 0)


async def test_a_session_that_is_over(tmp_path, film):
    """What is on the page stays; opened again it is asked all that it was asked before."""
    async with before(tmp_path) as (server, person):
        await opened(person, film)
        await person.point(".clicks", 0.25, 0.5)
        await person.until(f"{BOXES}.length === 1")
        (session,) = await sessions(server, 1)
        await asked(server, "DELETE", f"/api/v1/video/session/{session['session_id']}")
        await person.point(".clicks", 0.5, 0.5)
        await person.sees("What is on this page stays")
        assert len(await person.evaluate(BOXES)) == 1
        await person.click("Open it again")
        (other,) = await sessions(server, 1)
        assert other["session_id"] != session["session_id"]
        while (await sessions(server, 1))[0]["objects_count"] != 1:
            await asyncio.sleep(0.05)
        await person.click("Track")
        await person.sees(f"Tracked {COUNT} frames")


async def test_masks_and_a_video_to_take_along(tmp_path, film):
    """The ZIP has a PNG for each object and frame, and all in COCO form; the MP4 every frame."""
    async with before(tmp_path) as (_, person):
        await opened(person, film)
        await person.page.call(
            "Page.setDownloadBehavior", behavior="allow", downloadPath=str(tmp_path)
        )
        await person.point(".clicks", 0.25, 0.5)
        await person.until(f"{BOXES}.length === 1")
        await person.click("Track")
        await person.sees(f"Tracked {COUNT} frames")
        await person.click("Masks", ".bar")
        with zipfile.ZipFile(await downloaded(tmp_path / "moving-masks.zip")) as archive:
            told = json.loads(archive.read("masks.json"))
            masks = [name for name in archive.namelist() if name.endswith(".png")]
            white = np.asarray(Image.open(archive.open("1-object-1/000007.png")).convert("L")) > 127
        assert (len(masks), len(told["annotations"])) == (COUNT, COUNT)
        (seventh,) = [each for each in told["annotations"] if each["frame_index"] == 7]
        wanted = planted_film.disc((movies.HEIGHT, movies.WIDTH), (20 + 7, 32)).full()
        assert (white == wanted).mean() > 0.99  # where exactly a click falls is the browser's
        size = tuple(seventh["segmentation"]["size"])
        assert (Mask.from_rle(seventh["segmentation"]["counts"], size).full() == white).all()
        await person.click("Video", ".bar .wide")
        with av.open(str(await downloaded(tmp_path / "moving-tracked.mp4"))) as made:
            assert sum(1 for _ in made.decode(video=0)) == COUNT


async def downloaded(path):
    """Return a file as soon as it is there: until then the browser gives it another name."""
    while not path.exists():
        await asyncio.sleep(0.05)
    return path


async def test_nobody_stumbles_over_a_video(tmp_path, film):
    """Axe finds nothing serious, and the page is not wider than its screen."""
    async with before(tmp_path) as (_, person):
        assert await person.faults() == []
        await opened(person, film)
        await person.point(".clicks", 0.25, 0.5)
        await person.until(f"{BOXES}.length === 1")
        for screen in ({}, {"dark": True}, {"width": 390, "height": 844, "phone": True}):
            await person.screen(**screen)
            assert await person.faults() == [], screen
            wide = "document.documentElement.scrollWidth - innerWidth"
            assert await person.evaluate(wide) <= 0, screen


STATES = {
    "no model": ({"model": ""}, False, "No model is configured"),
    "no video model": ({"model": "planted-still"}, True, "takes no videos here"),
    "too large": ({"max_video_mb": 0.001}, True, "plugins.sam.max_video_mb"),
    "no video": ({}, True, "The video cannot be read"),
    "turned off": ({"video_enabled": False}, True, "Video inference is turned off on this server"),
}


@pytest.mark.parametrize(("settings", "sends", "said"), STATES.values(), ids=STATES)
async def test_what_cannot_be(tmp_path, film, settings, sends, said):
    """The page says what is wrong and what to do, and no session is left."""
    async with before(tmp_path, **settings) as (server, person):
        if sends:
            data = b"no video" if said.endswith("read") else film
            await person.choose("input[data-video]", data, "moving.mp4")
        await person.sees(said)
        await sessions(server, 0)


async def test_clicks_are_taken_back_before_they_are_answered(tmp_path, film):
    """One that waits is never sent, one that was sent goes as soon as it is answered."""
    marks = "document.querySelectorAll('.clicks .point').length"
    async with before(tmp_path) as (_, person):
        await opened(person, film)
        await person.evaluate("""window.real = fetch; window.held = []; window.sent = 0;
          window.fetch = async (path, options) => {
            if (!/prompt$/.test(path)) return real(path, options);
            sent += 1;
            await new Promise((go) => held.push(go));
            return real(path, options);
          }; 0""")
        for number, x in enumerate((0.2, 0.4, 0.6), 1):
            await person.point(".clicks", x, 0.5)
            await person.until(f"{marks} === {number}")
        await person.until("window.held.length === 1")
        for number in (2, 1, 0):
            await person.press("z")
            await person.until(f"{marks} === {number}")
        await person.evaluate("""window.drawn = 0; new MutationObserver(() => {
            drawn = Math.max(drawn, document.querySelectorAll(".over .mask").length); })
          .observe(document.querySelector(".stagebox"), { subtree: true, childList: true });
          held[0](); 0""")
        await person.until("!document.querySelector('.stagebox > .running')")
        assert await person.evaluate("window.drawn") == 0
        await person.point(".clicks", 0.3, 0.5)
        await person.until("window.held.length === 2")
        await person.evaluate("held[1](); 0")
        await person.until(f"{BOXES}.length === 1")
        assert await person.evaluate("window.sent") == 2


async def test_many_points_are_taken_back_at_once(tmp_path, film):
    """What was there before each is shown without the server, which is told once of all."""
    async with before(tmp_path) as (server, person):
        await opened(person, film)
        places = (0.2, 0.3, 0.4, 0.5)
        for number, x in enumerate(places, 1):
            await person.point(".clicks", x, 0.5)
            await person.until(f"document.querySelectorAll('.clicks .point').length === {number}")
            await person.until(f"Math.abs(({BOXES}[0]?.[0] ?? 0) + 9 - {x * 80}) <= 1")
        await person.evaluate("""window.real = fetch; window.sent = []; window.held = [];
          window.fetch = async (path, options) => {
            if (/prompt$|object/.test(path)) {
              sent.push(path.split("/").at(-1));
              await new Promise((go) => held.push(go));
            }
            return real(path, options);
          }; 0""")
        for x in (0.4, 0.3):
            await person.press("z")
            await person.until(f"Math.abs({BOXES}[0][0] + 9 - {x * 80}) <= 1")
        go = "held.splice(0).map((go) => go()), window.sent.length"
        await person.until(f"({go}) === 3")  # the object goes, and is pointed at twice
        await person.until("!document.querySelector('.stagebox .running')")
        await person.click("Track")
        await person.until(f"({go}) === 3 && document.body.innerText.includes('Tracked {COUNT}')")
        await seek(person, 10)
        assert abs((await person.evaluate(BOXES))[0][0] + 9 - 0.3 * 80 - 10) <= 1
        assert "from before the last correction" not in await person.text(".objects")
        (session,) = await sessions(server, 1)
        assert session["objects_count"] == 1
