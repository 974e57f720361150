"""What a phone shows first, and what somebody who asked for less motion is spared."""

from __future__ import annotations

import base64
import contextlib
import re
import zlib

import pytest
from console_pages import CHROMIUM, SQUARE, asked, served, shown
from test_fleet import fleet, pushed

from camera_sources import make_video

pytestmark = [pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium"), pytest.mark.long]
PHONE = {"width": 390, "height": 844, "phone": True}
TOPS = """["#cams", ".livecard"].map((kind) =>
  document.querySelector(kind).getBoundingClientRect().top)"""


async def test_the_cameras_of_the_server_come_first(tmp_path):
    """While this device's is off they stand above it, and no room is kept for its figures."""
    video = make_video(tmp_path / "shelf.mp4")
    settings = {"plugins": {"cameras": {"camera_paths": ["/"]}}}
    async with (
        served(tmp_path, "cameras", **settings) as server,
        shown(server.url, tmp_path) as person,
    ):
        await person.screen(**PHONE)
        await asked(
            server, "POST", "/v1/cameras", json={"source": str(video), "model": "fake-detect"}
        )
        await person.go("live")
        await person.until("!!document.querySelector('.tile')")
        cameras, own = await person.evaluate(TOPS)
        assert cameras < own
        tile = "document.querySelector('.tile').getBoundingClientRect().bottom < innerHeight"
        assert await person.evaluate(tile)
        assert not await person.evaluate("document.querySelector('.livefigures').offsetHeight")
        assert await person.faults() == []
        await person.click("Start")
        await person.until("document.querySelector('.vl')?.innerText.includes('ms old')")
        cameras, own = await person.evaluate(TOPS)
        assert own < cameras
        assert await person.evaluate("document.querySelector('.livefigures').offsetHeight > 0")


async def test_a_row_of_the_fleet_is_whole(tmp_path):
    """A phone has what a wide screen has: version, GPU's memory, how much a model is asked."""
    async with fleet(tmp_path) as (server, triton), shown(server.url, tmp_path) as person:
        await person.screen(**PHONE)
        given = {"name": "gpu-1", "host": "127.0.0.1", "port": triton.port}
        given["metrics_port"] = triton.port
        await asked(server, "POST", "/api/tritons", json=given)
        await pushed(server, "shelf")
        await asked(server, "POST", "/api/models/shelf/load", json={})
        await asked(server, "POST", "/api/consumers", json={"name": "till", "rate": 90})
        await person.go("fleet")
        row = "document.querySelector('[data-triton=gpu-1]')?.innerText"
        await person.until(f"{row}?.includes('1.0 GB of 24.0 GB')")
        told = await person.evaluate(row)
        assert "Triton 2." in told
        assert "1 version, all as wanted" in told
        await person.go("fleet?part=models")
        await person.until(
            "document.querySelector('tr[data-model=shelf]')?.innerText.includes('0 inferences')"
        )
        await person.go("fleet?part=consumers")
        await person.sees("90 a minute")
        assert await person.faults() == []


async def test_less_motion(tmp_path):
    """Nothing moves for who asked for that, and no part of the style is one no browser reads."""
    async with served(tmp_path) as server, shown(server.url, tmp_path) as person:
        unread = """[...document.styleSheets].flatMap((sheet) => [...sheet.cssRules])
          .filter((rule) => rule.media?.mediaText === "not all").map((rule) => rule.cssText)"""
        assert await person.evaluate(unread) == []
        moves = "getComputedStyle(document.querySelector('.btn')).transitionDuration"
        assert await person.evaluate(moves) != "0s"
        still = [{"name": "prefers-reduced-motion", "value": "reduce"}]
        await person.page.call("Emulation.setEmulatedMedia", features=still)
        assert await person.evaluate(moves) == "0s"


async def test_compare_is_told_apart(tmp_path):
    """Its link is told by more than a colour; a phone has its heading, each code its own name."""
    names = """[...document.querySelectorAll('.codebox')].map((e) => e.ariaLabel).join()"""
    shown_link = "getComputedStyle(document.querySelector('.needs a')).textDecorationLine"
    async with served(tmp_path) as server, shown(server.url, tmp_path) as person:
        await person.go("compare?model=many&with=fake-detect")
        await person.until("!!document.querySelector('.drop .examples button')")
        await person.evaluate("document.querySelector('.drop .examples button').click()")
        await person.until("!!document.querySelector('.needs a')")
        assert await person.evaluate(shown_link) == "underline"
        assert await person.evaluate(names) == "Code of A,Code of B"
        assert await person.faults() == []
        await person.screen(**PHONE)
        assert await person.evaluate("getComputedStyle(document.querySelector('h1')).display") != (
            "none"
        )
        assert await person.evaluate("document.documentElement.scrollWidth <= innerWidth")


@pytest.mark.parametrize("high", [844, 667])
async def test_a_question_is_asked_at_once(tmp_path, high):
    """Its field is in sight before the first question and after it, and covers no answer's end."""
    at_hand = """(() => {
      const { left, right, top, bottom } = document.querySelector("#question")
        .getBoundingClientRect();
      return document.elementFromPoint((left + right) / 2, bottom - 2)?.id === "question"
        && document.elementFromPoint((left + right) / 2, top + 2)?.id === "question";
    })()"""
    covered = """[...document.querySelectorAll(".asking :is(button, a, summary)")]
      .filter((each) => !each.disabled && each.checkVisibility()).filter((each) => {
        each.focus();
        const { left, right, top, bottom } = each.getBoundingClientRect();
        const over = document.elementFromPoint((left + right) / 2, (top + bottom) / 2);
        return !each.contains(over);
      }).map((each) => each.outerHTML)"""
    async with served(tmp_path) as server, shown(server.url, tmp_path) as person:
        await person.screen(**{**PHONE, "height": high})
        await person.go("ask?seconds=0")
        await person.until("!!document.querySelector('.drop')")
        assert await person.evaluate(at_hand)
        await person.give()
        await person.until("!!document.querySelector('.asking .stage img')?.complete")
        assert await person.evaluate(at_hand)
        assert await person.evaluate(covered) == []
        for number in range(1, 6):
            await person.evaluate("scrollTo(0, 0)")
            await person.fill("#question", "What is in the picture?")
            await person.click("Ask", ".talk")
            await person.until(f"document.querySelectorAll('.turn .help').length === {number}")
        assert await person.evaluate(at_hand)
        end = "document.querySelector('.talk .turn:last-child').getBoundingClientRect().bottom"
        top = "document.querySelector('.talk form').getBoundingClientRect().top"
        await person.until(f"{end} <= {top} + 1")
        assert await person.evaluate(covered) == []
        assert await person.faults() == []


async def test_on_wide_paper(tmp_path):
    """What was found stands below one another, beside the picture; a long table begins at once."""
    async with served(tmp_path) as server, shown(server.url, tmp_path) as person:
        await person.go("try?model=many")
        await person.give()
        await person.until("document.querySelectorAll('.found li[data-n]').length > 3")
        await person.page.call("Emulation.setEmulatedMedia", media="print")
        over = """(() => {
          const parts = [".ticks", ".found", ".times"].map((each) => document.querySelector(each))
            .filter(Boolean).map((each) => each.getBoundingClientRect());
          return parts.some((each, at) => at && each.top < parts[at - 1].bottom - 1);
        })()"""
        assert not await person.evaluate(over)
        assert await person.evaluate("document.querySelector('.found').offsetHeight > 500")
        assert await person.evaluate("document.querySelector('.shot').offsetHeight > 100")
        await person.page.call("Emulation.setEmulatedMedia", media="")


def painted(file):
    """Return the colours with which a PDF fills something, as CSS writes them."""
    streams = re.findall(rb"stream\r?\n(.*?)endstream", file, re.DOTALL)
    found = set()
    for stream in streams:
        with contextlib.suppress(zlib.error):  # a font's, or another that is not packed
            for fill in re.findall(rb"(\S+) (\S+) (\S+) rg", zlib.decompress(stream)):
                found.add("rgb({}, {}, {})".format(*(round(float(each) * 255) for each in fill)))
    return found


async def test_the_time_on_paper(tmp_path):
    """Its parts have their colours, though a browser prints no background, and none is cut off."""
    async with served(tmp_path) as server, shown(server.url, tmp_path) as person:
        await person.go("try?model=many")
        await person.give()
        await person.until("!!document.querySelector('.times .legend i')")
        colours = await person.evaluate("""[...document.querySelectorAll('.times .legend i')]
          .map((each) => getComputedStyle(each).backgroundColor)""")
        made = await person.page.call("Page.printToPDF", printBackground=False)
        assert set(colours) <= painted(base64.b64decode(made["data"]))
        await person.screen(794, 1100)  # a flex box that goes on on a next page keeps its height
        await person.page.call("Emulation.setEmulatedMedia", media="print")
        panel = "getComputedStyle(document.querySelector('.panel.right')).display"
        assert await person.evaluate(panel) == "block"
        await person.page.call("Emulation.setEmulatedMedia", media="")


@pytest.mark.parametrize("width", [360, 320])
async def test_where_a_picture_is_dropped(tmp_path, width):
    """The place and its three buttons are within the screen, with its margin on both sides."""
    async with served(tmp_path) as server, shown(server.url, tmp_path) as person:
        await person.screen(**{**PHONE, "width": width})
        for page in ("try", "compare", "ask"):
            await person.go(page)
            await person.until(f"location.hash === '#/{page}' && !!document.querySelector('.drop')")
            inside = await person.evaluate("""(() => {
              const box = (each) => each.getBoundingClientRect();
              const drop = document.querySelector(".drop");
              const all = [...drop.querySelectorAll(".btn")];
              const stage = box(document.querySelector(".stage"));
              return all.length === 3 && all.every((each) => box(each).right <= box(drop).right)
                && box(drop).left - stage.left === stage.right - box(drop).right;
            })()""")
            assert inside, page


async def test_who_asks_the_fleet(tmp_path):
    """Where no heading stands over a row's figures, each says what it counts."""
    labels = 'application="shop",model="shelf",consumer="till"'
    counts = f"mataserver_gateway_requests_total{{{labels}}} 3"
    async with fleet(tmp_path) as (server, _), shown(server.url, tmp_path) as person:
        await person.screen(**{**PHONE, "width": 360})
        await person.evaluate(f"""window.real = fetch; window.fetch = (path, options) =>
          String(path) === "metrics" ? Promise.resolve(new Response({counts!r}))
            : real(path, options); 0""")
        await person.go("fleet?part=traffic")
        row = "document.querySelector('[aria-label=\"Who asks\"] tbody tr')?.innerText"
        told = await person.until(row)
        assert "of till: 3 requests, 0 failed" in told
        assert await person.faults() == []


async def test_the_settings_on_paper(tmp_path):
    """A sheet has a setting a line, without what would find or change one."""
    async with served(tmp_path) as server, shown(server.url, tmp_path) as person:
        await person.screen(794, 1100)
        await person.go("server")
        await person.until("document.querySelectorAll('.settings tbody tr').length > 50")
        await person.page.call("Emulation.setEmulatedMedia", media="print")
        lines = """[...document.querySelectorAll(".settings tbody tr")].slice(0, 5)
          .map((row) => row.offsetHeight)"""
        assert max(await person.evaluate(lines)) < 32
        seen = "document.querySelector('.filter').checkVisibility()"
        assert not await person.evaluate(seen)
        await person.page.call("Emulation.setEmulatedMedia", media="")


async def test_the_server_on_paper_that_lies(tmp_path):
    """It takes no more sheets than paper that stands: curves and settings are beside each other."""
    async with served(tmp_path) as server, shown(server.url, tmp_path) as person:
        await person.go("server")
        await person.until("document.querySelectorAll('.settings tbody tr').length > 50")
        await person.until("document.querySelectorAll('.chart').length === 4")
        sheets = []
        for lies in (False, True):
            made = await person.page.call("Page.printToPDF", landscape=lies)
            sheets.append(len(re.findall(rb"/Type\s*/Page\b", base64.b64decode(made["data"]))))
        assert sheets[1] <= sheets[0] <= 5
        await person.screen(979, 739)
        await person.page.call("Emulation.setEmulatedMedia", media="print")
        lefts = """[...document.querySelectorAll(".chart")].map((each) => {
          const { left, right } = each.getBoundingClientRect();
          return right <= each.closest(".card").getBoundingClientRect().right ? left : null;
        })"""
        first, second, *_ = await person.evaluate(lefts)
        assert None not in (first, second)
        assert first < second
        await person.page.call("Emulation.setEmulatedMedia", media="")


@pytest.mark.parametrize("width", [180, 240])
async def test_a_watch(tmp_path, width):
    """What stands beside each other goes below: no page is wider than the screen."""
    async with (
        served(tmp_path, "database", "accounts", "jobs", "sam") as server,
        shown(server.url, tmp_path) as person,
    ):
        await person.screen(**{**PHONE, "width": width})
        await person.go("try?model=fake-detect")
        await person.give()
        await person.until("document.querySelectorAll('.found li[data-n]').length === 1")
        for page in ("try", "ask", "segment", "live", "jobs", "models", "server", "more"):
            await person.go(page)
            await person.until(f"document.title.toLowerCase().startsWith('{page}')")
            await person.until("!document.querySelector('.bar > .running')")
            if page == "server":
                await person.sees("a_module_that_nobody_has")
            wide = await person.evaluate("document.documentElement.scrollWidth")
            assert wide <= width, page


async def test_the_first_job_on_a_phone(tmp_path):
    """Files are chosen at the top of the page, where nothing can be dropped."""
    async with (
        served(tmp_path, "database", "jobs") as server,
        shown(server.url, tmp_path) as person,
    ):
        await person.screen(**PHONE)
        await person.go("jobs")
        await person.sees("Choose pictures, a video or a ZIP")
        assert "Drop" not in await person.text()
        assert await person.faults() == []
        await person.choose("input[data-first]", SQUARE, "first.png")
        await person.until("document.querySelector('dialog input[type=file]')?.files.length")


async def test_a_narrow_side_bar(tmp_path):
    """Where it has icons alone it still tells whether the server is ready, and signs out."""
    async with served(tmp_path) as server, shown(server.url, tmp_path) as person:
        await person.screen(1100, 768)
        ready = "document.querySelector('.side .health .state.ok')"
        await person.until(f"{ready}?.getBoundingClientRect().width > 0")
        assert await person.evaluate("document.querySelector('.side .health').title") == "Ready"
        side = "document.querySelector('.side')"
        assert await person.evaluate(f"{side}.scrollWidth <= {side}.clientWidth")
        assert await person.faults() == []
        await person.click("Sign out", ".side")
        await person.until("!!document.querySelector('.signin')")
