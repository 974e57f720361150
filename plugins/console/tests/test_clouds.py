"""Jobs, reconstructions: what a cloud looks like, the photographs and why some have no place."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import io
from pathlib import Path

import numpy as np
import planted_cloud
import pytest
from console_pages import CHROMIUM, asked, served, shown
from PIL import Image

from mataserver_reconstruct import spec as plugin_spec

pytestmark = [pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium"), pytest.mark.long]
FRUSTUM, CHOSEN = (86, 180, 233), (255, 212, 121)


@pytest.fixture(autouse=True)
def planted(monkeypatch):
    """The processes of jobs find the stand-in beside this file."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))


@contextlib.asynccontextmanager
async def before_the_cloud(tmp_path, *flags, script="0"):
    """Yield somebody before a reconstruction that is done, after a script ran."""
    points = [planted_cloud.POINT]
    async with (
        served(tmp_path, "database", "jobs", points=points) as server,
        shown(server.url, tmp_path, flags=flags) as person,
    ):
        begun = await asked(server, "POST", "/upload")
        await person.evaluate(script)
        assert not by_the_page(person)
        await person.go(f"jobs?id={begun['job_id']}")
        await person.until("!!document.querySelector('.facts-left, .flat')")
        person.server = server
        yield person


def by_the_page(person):
    """Return what the page itself asked of the library that draws; a worker's requests are not."""
    return [each for each in person.page.asked if "three" in each]


async def picture(person):
    """Return what the viewer shows, ``[h, w, 3]``, and where its upper left corner is."""
    left, top, width, height = await person.evaluate(
        "(({ left, top, width, height }) => [left, top, width, height])"
        "(document.querySelector('.viewer canvas').getBoundingClientRect())"
    )
    made = await person.page.call("Page.captureScreenshot", format="png")
    image = Image.open(io.BytesIO(base64.b64decode(made["data"]))).convert("RGB")
    box = (round(left), round(top), round(left + width), round(top + height))
    return np.asarray(image.crop(box), np.int16), (left, top)


async def places(person, colour, few=False):
    """Wait until a colour is seen in the viewer, or no more; return where, ``[n, 2]``: x, y."""
    while True:
        seen, corner = await picture(person)
        found = np.argwhere(np.abs(seen - colour).max(2) < 30)[:, ::-1] + corner
        if few == (len(found) < 3):
            return found
        await asyncio.sleep(0.1)


async def test_a_cloud_is_the_right_way_up(tmp_path):
    """Up is up, right is right, cameras stand before what they saw; a click on one goes there."""
    async with before_the_cloud(tmp_path) as person:
        red, green, blue = [
            (await places(person, colour)).mean(0)
            for colour in (planted_cloud.RED, planted_cloud.GREEN, planted_cloud.BLUE)
        ]
        assert red[1] < green[1]
        assert blue[0] > max(red[0], green[0])
        frusta = await places(person, FRUSTUM)
        assert frusta[:, 1].min() > green[1]  # nearer to who looks from behind them
        while not await person.evaluate("!!document.querySelector('.seen')"):
            frusta = await places(person, FRUSTUM)  # where it is now: a panel may have come
            left = frusta[frusta[:, 0] < np.quantile(frusta[:, 0], 0.3)]
            await click(person, *((left.min(0) + left.max(0)) / 2))
            await asyncio.sleep(0.5)
        await person.until("document.querySelector('.seen figcaption b')?.innerText === 'a.jpg'")
        await person.until("document.querySelector('.seen img').naturalWidth == 400")
        await places(person, CHOSEN)
        middle = "document.querySelector('.viewer').getBoundingClientRect()"
        half = await person.evaluate(f"{middle}.left + {middle}.width / 2")
        while (await places(person, planted_cloud.RED)).mean(0)[0] <= half:
            await asyncio.sleep(0.1)  # it flies there
        await person.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
        await scaled(person)


async def scaled(person):
    """Mark a known length in two photographs: it runs again with their pixels, in metres then."""
    await person.click("Scale")
    await person.fill("dialog select[aria-label='Photograph of place 2']", "c.jpg")
    await person.until("!!document.querySelector('[aria-label^=\"Place 2 in c.jpg\"]')")
    crosses = "document.querySelectorAll('.marked .cross').length"
    while await person.evaluate(crosses) < 2:
        await person.point("dialog .two-up > :first-child .marked", 0.5, 0.25)
        await person.point("dialog .two-up > :last-child .marked", 0.25, 0.5)
        await asyncio.sleep(0.5)
    assert await person.faults() == []
    await person.evaluate("document.querySelector('dialog .marked').focus()")
    await person.press("ArrowLeft")
    await person.fill("dialog input[name=metres]", 2.5)
    await person.click("Run again", "dialog")
    await person.until("document.querySelector('.facts-left')?.innerText.includes('squares of')")
    (job,) = (await asked(person.server, "GET", "/v1/jobs"))["jobs"]
    scale = plugin_spec.parse_length(job["spec"]["scale"])
    assert (scale.first.image, scale.second.image, scale.metres) == ("a.jpg", "c.jpg", 2.5)
    assert scale.first[1:] == pytest.approx((199, 75), abs=2)
    assert scale.second[1:] == pytest.approx((100, 150), abs=2)


async def click(person, x, y):
    """Click at a place of the page."""
    for kind in ("mousePressed", "mouseReleased"):
        await person.page.call(
            "Input.dispatchMouseEvent", type=kind, button="left", clickCount=1, x=x, y=y
        )


async def test_how_a_cloud_is_looked_at(tmp_path):
    """From all sides and nearer, a part cut off, by height, without cameras."""
    async with before_the_cloud(tmp_path) as person:
        await places(person, planted_cloud.RED)
        assert not by_the_page(person)
        await turned(person)
        await person.click("Clip")
        await person.fill("input[aria-label='z to']", 0.9)
        await places(person, planted_cloud.RED, few=True)
        await places(person, planted_cloud.GREEN)
        await person.click("All of it")
        await places(person, planted_cloud.RED)
        await person.click("Clip")
        await person.click("Height")
        await places(person, planted_cloud.RED, few=True)
        await person.until("document.querySelector('.height').innerText.includes('3.00')")
        await person.click("Picture")
        await person.click("Cameras")
        await places(person, FRUSTUM, few=True)
        assert await person.faults() == []


async def test_a_cloud_is_turned_by_keys(tmp_path):
    """Who has no mouse walks round it, and sees it all again."""
    async with before_the_cloud(tmp_path) as person:
        before = (await places(person, planted_cloud.BLUE)).mean(0)
        await person.evaluate("document.querySelector('.viewer canvas').focus()")
        for _ in range(36):
            await person.press("ArrowRight")
        while (await places(person, planted_cloud.BLUE)).mean(0)[0] > before[0] - 100:
            await asyncio.sleep(0.1)  # from behind, right is left
        await person.press("f")
        while (await places(person, planted_cloud.BLUE)).mean(0)[0] < before[0] - 5:
            await asyncio.sleep(0.1)
        assert await person.faults() == []


async def turned(person):
    """Drag it round and come nearer with the wheel, which chooses nothing; then see it all."""
    before = await places(person, planted_cloud.BLUE)
    await person.point(".viewer canvas", 0.3, 0.5, to=(0.4, 0.5))
    while (await places(person, planted_cloud.BLUE)).mean(0)[0] > before.mean(0)[0] - 20:
        await asyncio.sleep(0.1)
    await person.click("Fit")
    while abs((await places(person, planted_cloud.BLUE)).mean(0)[0] - before.mean(0)[0]) > 5:
        await asyncio.sleep(0.1)
    green = await places(person, planted_cloud.GREEN)
    x, y = green.mean(0)
    await person.page.call(
        "Input.dispatchMouseEvent", type="mouseWheel", x=x, y=y, deltaX=0, deltaY=-300
    )
    while np.ptp(await places(person, planted_cloud.GREEN), 0)[0] < np.ptp(green, 0)[0] * 1.08:
        await asyncio.sleep(0.1)
    await person.click("Fit")
    while np.ptp(await places(person, planted_cloud.GREEN), 0)[0] > np.ptp(green, 0)[0] * 1.03:
        await asyncio.sleep(0.1)
    assert not await person.evaluate("!!document.querySelector('.seen')")


async def test_photographs_and_pairs(tmp_path):
    """Those left out say why; one is chosen from the grid, the ring and the pairs."""
    async with before_the_cloud(tmp_path) as person:
        await photographs_and_pairs(person)
        assert await person.faults() == []


async def test_two_photographs_before_the_page_is_painted(tmp_path):
    """Who is quicker than the page sees the second; the two choices undo each other no more."""
    quick = """(async () => {
      document.querySelectorAll(".photos button")[3].click();
      const before = () => document.querySelector("[aria-label='The photograph before']");
      while (!before()) await null;  // the page is drawn in a microtask, and painted later
      before().click();
    })()"""
    async with before_the_cloud(tmp_path) as person:
        await person.until("document.querySelectorAll('.photos .out').length == 2")
        await person.evaluate(quick)
        await person.until("document.querySelector('.seen b')?.innerText === 'c.jpg'")
        await places(person, CHOSEN)


async def photographs_and_pairs(person):
    """Look at those left out, and choose one from the grid, the ring and the pairs."""
    await person.until("document.querySelectorAll('.photos .out').length == 2")
    said = await person.text(".jobside")
    assert "no other photograph shows the same" in said
    assert "Take more of them." in said
    await person.evaluate("document.querySelectorAll('.photos button')[3].click()")
    await person.until("document.querySelector('.seen')?.innerText.includes('no other')")
    await person.click("The photograph before")
    await person.until("document.querySelector('.seen b').innerText === 'c.jpg'")
    await person.click("Pairs")
    await person.until("document.querySelectorAll('.ring path').length == 2")
    assert "c.jpg matches 1 photograph." in await person.text(".jobside")
    await person.click("b.jpg", ".jobside")
    await person.sees("b.jpg matches 2 photographs.")
    await person.click("Files")
    await person.sees("cloud.ply")


async def test_a_browser_whose_workers_do_not_draw(tmp_path):
    """The page draws by itself then, and hears the same."""
    script = "delete HTMLCanvasElement.prototype.transferControlToOffscreen"
    async with before_the_cloud(tmp_path, script=script) as person:
        await turned(person)
        assert by_the_page(person)
        await person.click("Height")
        await places(person, planted_cloud.RED, few=True)


async def test_without_webgl(tmp_path):
    """It says so, and the cloud can be downloaded."""
    async with before_the_cloud(tmp_path, "--disable-software-rasterizer") as person:
        await person.sees("This browser shows no WebGL")
        script = """fetch(document.querySelector('.flat a').href).then((answer) => answer.text())
          .then((text) => text.slice(0, 3))"""
        assert await person.evaluate(script) == "ply"


async def test_a_cloud_is_taken_along(tmp_path):
    """Its files are saved from the viewer, and their names are whole in the list of files."""
    saved = """HTMLAnchorElement.prototype.click = function () {
      window.saved = [...(window.saved ?? []), this.getAttribute("href")]; }; 0"""
    async with before_the_cloud(tmp_path, script=saved) as person:
        for text in ("Cloud (PLY)", "Cameras (JSON)"):
            await person.click("Downloads", ".viewer")
            await person.click(text, ".viewer")
        names = [each.rsplit("/", 1)[1] for each in await person.evaluate("window.saved")]
        assert names == ["cloud.ply", "cameras.json"]
        await person.click("Files", ".jobside")
        await person.sees("cloud.ply")
        cut = """[...document.querySelectorAll(".jobside a[download]")]
          .some((e) => getComputedStyle(e).textOverflow === "ellipsis")"""
        assert not await person.evaluate(cut)
