"""Makes the pictures of docs/console.md: each page of a real server, light, dark and on a phone.

``python plugins/console/tests/pictures.py`` from the root; it needs Chromium and the plugins
opencv, ocr, database, accounts, jobs, fleet, sam and reconstruct. Segment and Ask are answered by
the tests' stand-ins. A name of a part makes that alone: ``ask``, ``film``, ``fleet``, ``cloud``,
``jobs``, ``pages``.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import io
import itertools
import math
import re
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

import aiohttp
import av
from PIL import Image

ROOT = Path(__file__).parents[3]
RENDERED = ROOT / "plugins" / "reconstruct" / "tests"
sys.path[:0] = [str(ROOT / "tests"), str(Path(__file__).parent), str(RENDERED)]

import planted_chat  # noqa: E402
import planted_film  # noqa: E402 - from beside this file
import planted_sam  # noqa: E402
import rendered  # noqa: E402
import test_fleet  # noqa: E402
from console_pages import KEYS, asked, served, shown  # noqa: E402
from planted import TASKS  # noqa: E402

import mataserver_console  # noqa: E402
from conftest import FAKES, register  # noqa: E402
from mataserver import testing  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from console_pages import Person

    from mataserver.testing.serving import Served

TARGET = ROOT / "docs" / "img"
PICTURES = ROOT / "examples" / "pictures"
PLUGINS = ("opencv", "ocr", "database", "accounts", "jobs")
REAL = {"opencv-faces": "detect", "opencv-qr": "detect", "rapidocr": "ocr", "tesseract": "ocr"}
SHOWN = {"opencv-qr": "codes.jpg", "rapidocr": "receipt.jpg", "tesseract": "receipt.jpg"}
"""The models that are asked, and the picture of each."""
SCREENS = {
    "light": {},
    "dark": {"dark": True},
    "phone": {"width": 390, "height": 844, "phone": True},
}

TOKENS = Path(mataserver_console.__file__).parent / "web" / "tokens.css"
MARKS = re.findall(r"-mark: light-dark\(#(\w{6}), #(\w{6})\)", TOKENS.read_text())
STATES = [byte for pair in MARKS for each in pair for byte in bytes.fromhex(each)]
"""The colours of the states, light and dark, as a palette has them."""


@contextlib.asynccontextmanager
async def real(folder: Path) -> AsyncIterator[Served]:
    """Yield a server of which nothing but SAM is a stand-in, with its models warm."""
    register(folder / "data", REAL)
    every = [planted_sam.POINT, *testing.installed("console", *PLUGINS)]
    given = {"engine": "process", "api_keys": KEYS}
    async with testing.serving(folder / "data", entry_points=every, **given) as server:
        for model, name in SHOWN.items():
            for _ in range(3):
                form = aiohttp.FormData({"model": model})
                form.add_field("file", (PICTURES / name).read_bytes(), filename=name)
                await asked(server, "POST", "/v1/infer/upload", data=form)
        yield server


def camera(path: Path) -> str:
    """Write what Chromium shows as its camera, codes that move slowly; return the flag for it."""
    with av.open(str(path), "w", format="mjpeg") as made:
        stream = made.add_stream("mjpeg", rate=30)
        stream.width, stream.height, stream.pix_fmt = 640, 480, "yuvj420p"
        stream.options = {"qscale": "3"}
        for part in moving(900):
            made.mux(stream.encode(av.VideoFrame.from_image(part)))
        made.mux(stream.encode(None))
    return f"--use-file-for-fake-video-capture={path}"


def moving(number: int) -> Iterator[Image.Image]:
    """Yield frames of 640 x 480 of codes that move away and come back."""
    codes = Image.open(PICTURES / "codes.jpg").convert("RGB")
    codes = codes.resize((codes.width * 5 // 4, codes.height * 5 // 4), Image.Resampling.LANCZOS)
    for at in range(number):
        share = abs(2 * at - number) / number
        left, top = (round(share * (codes.width - 640)), round(share * (codes.height - 480)))
        yield codes.crop((left, top, left + 640, top + 480))


def clip(path: Path) -> bytes:
    """Write a video of three seconds of them."""
    with av.open(str(path), "w") as made:
        stream = made.add_stream("libx264", rate=30)
        stream.width, stream.height, stream.pix_fmt = 640, 480, "yuv420p"
        for part in moving(90):
            made.mux(stream.encode(av.VideoFrame.from_image(part)))
        made.mux(stream.encode(None))
    return path.read_bytes()


def palette(image: Image.Image) -> Image.Image:
    """Return the picture's colours, and those of the states: a dot is too small to have its own."""
    own = image.quantize(160, kmeans=2).getpalette() or []
    made = Image.new("P", (1, 1))
    made.putpalette([*own[: 3 * 160], *STATES])
    return made


async def take(person: Person, name: str) -> None:
    """Write a page's picture in each form."""
    for form, screen in SCREENS.items():
        await person.screen(**screen)
        await asyncio.sleep(1)
        shot = await person.page.call("Page.captureScreenshot", format="png")
        image = Image.open(io.BytesIO(base64.b64decode(shot["data"]))).convert("RGB")
        image.thumbnail((1024, 844), Image.Resampling.LANCZOS)
        made = image.quantize(palette=palette(image), dither=Image.Dither.NONE)
        made.save(TARGET / f"console-{name}-{form}.png", optimize=True)
    await person.screen()


async def use(person: Person) -> None:
    """Try, Compare and Segment, each with an answer."""
    await person.go("try?model=opencv-qr")
    await person.give((PICTURES / "codes.jpg").read_bytes(), "codes.jpg")
    await person.until("document.querySelectorAll('.found li[data-n]').length == 3")
    await take(person, "try")
    await person.go("try?model=rapidocr")
    await person.give((PICTURES / "receipt.jpg").read_bytes(), "receipt.jpg")
    await person.until("document.querySelectorAll('.lines li').length > 5")
    await take(person, "text")
    await person.go("compare?model=rapidocr&with=tesseract")
    await person.until("document.querySelectorAll('[data-time] .meter').length == 2")
    await person.sees("times as long")
    await take(person, "compare")
    await person.go("segment")
    await person.until("document.querySelector('.bar h1')?.innerText === 'Segment'")
    await person.give((PICTURES / "astronaut.jpg").read_bytes(), "astronaut.jpg")
    await person.until("!!document.querySelector('.clicks img[alt=\"astronaut.jpg\"]')")
    for number, (x, y) in enumerate([(0.46, 0.24), (0.82, 0.8)], 1):
        await person.point(".clicks", x, y)
        await person.until(f"document.querySelectorAll('.over .mask').length == {number}")
        if number == 1:
            await person.click("New object")
    await take(person, "segment")


async def operate(person: Person) -> None:
    """Live, Models and Server."""
    await person.go("live?model=opencv-qr")
    await person.click("Start")
    await person.until("document.querySelector('.vl')?.innerText.includes('ms old')")
    await asyncio.sleep(8)
    await take(person, "live")
    await person.go("models")
    await person.until("document.querySelectorAll('tr[data-model]').length === 4")
    await take(person, "models")
    await person.go("server")
    await asyncio.sleep(20)
    await take(person, "server")


async def _ask(url: str, keys: list[str]) -> None:
    """Ask two models again and again, more and less often."""
    async with aiohttp.ClientSession() as client:
        for number in itertools.count():
            model = ("shelf", "shelf", "faces")[number % 3]
            where = f"{url}/gateway/shop/v2/models/{model}"
            async with client.get(where, headers={"apikey": keys[number % 2]}) as answer:
                await answer.read()
            await asyncio.sleep(0.03 + 0.02 * math.sin(number / 60))


async def fleet() -> None:
    """Fleet: two Tritons' stand-ins of which one died, two models, an application."""
    with tempfile.TemporaryDirectory() as folder:
        async with (
            test_fleet.fleet(Path(folder)) as (server, triton),
            shown(server.url, Path(folder)) as person,
        ):
            for name, port in (("gpu-1", triton.port), ("gpu-2", 9)):
                given = {"name": name, "host": "127.0.0.1", "port": port, "metrics_port": port}
                await asked(server, "POST", "/api/tritons", json=given)
            await asked(server, "POST", "/api/apps", json={"name": "shop"})
            for name in ("shelf", "faces"):
                await test_fleet.pushed(server, name)
                await asked(server, "POST", f"/api/models/{name}/load", json={})
                await asked(server, "POST", f"/api/apps/shop/routes/{name}")
            keys = [
                (await asked(server, "POST", f"/api/apps/shop/consumers/{name}", json={}))["key"]
                for name in ("till", "kiosk")
            ]
            await person.go("fleet")
            await person.until("!!document.querySelector('[data-triton=gpu-1] .state.ok')")
            asking = asyncio.create_task(_ask(server.url, keys))
            await asyncio.sleep(40)
            await take(person, "fleet")
            asking.cancel()
            await person.go("fleet?part=apps")
            await person.until("document.querySelectorAll('[data-app=shop] li').length == 2")
            await take(person, "apps")


async def cloud() -> None:
    """A reconstruction of a rendered scene, semi-dense, by the plugin itself."""
    with tempfile.TemporaryDirectory() as name:
        folder, packed = Path(name), io.BytesIO()
        (folder / "photos").mkdir()
        rendered.orbit(folder / "photos", 11, 14, "view", (800, 600), arc=4.2)
        rendered.stray(folder / "photos" / "wall.jpg", 900, (800, 600))
        with zipfile.ZipFile(packed, "w") as archive:
            for path in sorted((folder / "photos").iterdir()):
                archive.write(path, path.name)
        async with served(folder, "database", "jobs", "reconstruct") as server:
            query = {"density": "semi", "max_size": "800"}
            form = aiohttp.FormData()
            form.add_field("file", packed.getvalue(), filename="boxes.zip")
            made = await asked(server, "POST", "/upload", data=form, params=query)
            while not (await asked(server, "GET", f"/status/{made['job_id']}"))["finished_at"]:
                await asyncio.sleep(1)
            async with shown(server.url, folder) as person:
                await person.go(f"jobs?id={made['job_id']}")
                await person.until("!!document.querySelector('.facts-left')")
                await take(person, "cloud")


def panned(path: Path) -> bytes:
    """Return a video that goes across a photograph, 72 frames."""
    whole = Image.open(PICTURES / "astronaut.jpg").convert("RGB")
    width, height = whole.width, whole.width * 9 // 16 // 2 * 2
    with av.open(str(path), "w") as made:
        stream = made.add_stream("libx264", rate=24, options={"crf": "18"})
        stream.width, stream.height, stream.pix_fmt = width // 2 * 2, height, "yuv420p"
        for number in range(72):
            top = (whole.height - height) * number // 400
            part = whole.crop((0, top, stream.width, top + height))
            made.mux(stream.encode(av.VideoFrame.from_image(part)))
        made.mux(stream.encode(None))
    return path.read_bytes()


async def film() -> None:
    """Segment's video: two objects, tracked, one of them corrected later."""
    planted_film.GATE.set()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        given = {"plugins": {"sam": {"model": "planted-film"}}}
        points, models = [planted_film.POINT], planted_film.NAMES
        async with (
            served(folder, "sam", points=points, registered=models, **given) as server,
            shown(server.url, folder) as person,
        ):
            await person.go("segment?kind=video")
            await person.choose("input[data-video]", panned(folder / "pan.mp4"), "astronaut.mp4")
            await person.point(".clicks", 0.44, 0.4)
            await person.until("document.querySelectorAll('.over .mask').length == 1")
            await person.click("New object")
            await person.point(".clicks", 0.8, 0.7)
            await person.until("document.querySelectorAll('.over .mask').length == 2")
            await person.click("Track")
            await person.sees("Tracked 72 frames")
            await person.evaluate("document.querySelector('.timeline').focus()")
            for _ in range(24):
                await person.press("ArrowLeft")
            await person.until("document.querySelector('.took').innerText === 'frame 47'")
            await person.point(".clicks", 0.78, 0.72)
            await person.sees("from before the last correction")
            await take(person, "video")


async def jobs() -> None:
    """Make the pictures of Jobs: a video with what was found drawn in."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        async with real(folder) as server, shown(server.url, folder, seconds=300) as person:
            for model in ("opencv-faces", "opencv-qr"):
                form = aiohttp.FormData({"model": model, "every": "2"})
                form.add_field("file", clip(folder / "shelf.mp4"), filename="shelf.mp4")
                job = (await asked(server, "POST", "/v1/jobs/infer", data=form))["id"]
            await person.go(f"jobs?id={job}")
            await person.until("document.querySelector('.jobmid video')?.readyState > 1")
            await person.evaluate("document.querySelector('.jobmid video').currentTime = 0.2; 0")
            await take(person, "jobs")


async def ask() -> None:
    """Ask, of a stand-in: a model that talks comes with no package."""
    with tempfile.TemporaryDirectory() as folder:
        async with (
            served(Path(folder), points=[planted_chat.POINT], registered={"chat": "vlm"}) as server,
            shown(server.url, Path(folder)) as person,
        ):
            for name in {*TASKS, *(f"fake-{task}" for task in FAKES)}:
                await asked(server, "DELETE", f"/v1/models/{name}")
            await person.go("ask?model=chat&seconds=0.05")
            await person.give((PICTURES / "receipt.jpg").read_bytes(), "receipt.jpg")
            for number, question in enumerate(planted_chat.REPLIES, 1):
                await person.fill("#question", question)
                await person.click("Ask", ".talk form")
                await person.until(f"document.querySelectorAll('.turn .help').length === {number}")
            await take(person, "ask")


async def pages() -> None:
    """Make the pictures of all other pages."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        flags = [camera(folder / "codes.mjpeg")]
        async with (
            real(folder) as server,
            shown(server.url, folder, seconds=900, flags=flags) as person,
        ):
            await use(person)
            await operate(person)


PARTS = {"ask": ask, "film": film, "fleet": fleet, "cloud": cloud, "jobs": jobs, "pages": pages}


async def main() -> None:
    """Make the pictures of the parts that are named, or all."""
    for name in sys.argv[1:] or PARTS:
        await PARTS[name]()


if __name__ == "__main__":
    asyncio.run(main())
