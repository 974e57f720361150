"""Try: a picture, parameters, and what a model says, drawn and told."""

from __future__ import annotations

import io
import json
import re

import pillow_heif
import pytest
from console_pages import CHROMIUM, ELSEWHERE, SQUARE, TABS, large, ran, served, shown
from PIL import Image
from planted import CORNERS

pytestmark = [pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium"), pytest.mark.long]
BOXES = "[...document.querySelectorAll('.over .line')].map((e) => e.getAttribute('d'))"
NAMES = "[...document.querySelectorAll('.found li[data-n] > :nth-child(2)')].map((e) => e.title)"
TAGS = "[...document.querySelectorAll('.tagbox')].map((e) => e.innerText.trim())"


async def test_boxes(tmp_path):
    """They stand where the model says, in the list too; the slider hides without asking again."""
    async with served(tmp_path) as server, shown(server.url, tmp_path) as person:
        await person.go("try?model=fake-detect&confidence=0.1")
        await person.give()
        await person.until(NAMES + ".length == 2")
        assert await person.evaluate(NAMES) == ["64x64", "faint"]
        assert await person.evaluate(BOXES) == ["M10 8L30 8L30 28L10 28Z"] * 2
        asked = len([each for each in person.page.asked if each.endswith("/v1/infer/upload")])
        await person.fill("input[aria-label='Show from']", "0.5")
        await person.sees("1 found, 1 hidden")
        assert await person.evaluate(NAMES) == ["64x64"]
        await person.evaluate(
            """document.querySelector(".found li").dispatchEvent(new Event("mouseenter"))"""
        )
        await person.until("!!document.querySelector('.over g.on')")
        assert "box 10, 8 to 30, 28; 20 \u00d7 20 px" in await person.text(".found")
        again = [each for each in person.page.asked if each.endswith("/v1/infer/upload")]
        assert len(again) == asked
        await person.click("JSON")
        assert '"mata.v1"' in await person.text(".json")
        assert "infer" in await person.text(".times")


async def test_a_parameter_and_a_reload(tmp_path):
    """A change runs the model again and stands in the address; a reload keeps all of it."""
    async with served(tmp_path) as server, shown(server.url, tmp_path) as person:
        await person.go("try?model=fake-detect")
        await person.give()
        await person.until(NAMES + ".length == 1")
        await person.fill("[data-param=confidence] input[type=range]", "0.2")
        await person.until(NAMES + ".length == 2")
        assert "confidence=0.2" in await person.evaluate("location.hash")
        await person.reload()
        await person.until("!!document.querySelector('.app:not(.shell)')")
        await person.until(NAMES + ".length == 2")
        assert "square.png\n64 \u00d7 64" in await person.text(".left")


@pytest.mark.parametrize("place", ["try", "compare"])
async def test_a_picture_with_a_long_name(tmp_path, place):
    """Its name is cut, its size is seen whole."""
    async with served(tmp_path) as server, shown(server.url, tmp_path) as person:
        await person.go(f"{place}?model=fake-detect&with=many")
        name = "scan-of-the-third-floor-" * 8 + ".png"
        await person.give(SQUARE, name)
        size = "[...document.querySelectorAll('.pictures .between *')].at(-1)"
        await person.until(f"{size}?.innerText.endsWith('64 \u00d7 64')")
        assert await person.evaluate(
            f"{size}.scrollWidth <= {size}.clientWidth || !{size}.clientWidth"
        )
        edges = f"[{size}, {size}.closest('.between')].map((e) => e.getBoundingClientRect().right)"
        inner, outer = await person.evaluate(edges)
        assert inner <= outer
        title = "document.querySelector('.pictures .cut').title"
        assert await person.evaluate(title) == name


async def test_numbers_and_a_long_choice(tmp_path):
    """Two numbers are sent as numbers, and taken back; names that do not fit are a menu."""
    async with served(tmp_path) as server, shown(server.url, tmp_path) as person:
        await person.go("try?model=turned")
        await person.give()
        await person.until(NAMES + "[0] === 'turned'")
        await person.fill("[data-param=shape] input", "[32")
        await person.sees("This is not JSON yet.")
        await person.fill("[data-param=shape] input", "[32, 48]")
        await person.until(NAMES + "[0] === 'turned (32, 48)'")
        assert await person.evaluate("document.querySelectorAll('.err').length") == 0
        await person.click("Reset")
        await person.until(NAMES + "[0] === 'turned'")
        assert (
            await person.evaluate("document.querySelector('[data-param=shape] input').value") == ""
        )
        await person.fill("[data-param=how] select", "regions")
        await person.until("location.hash.includes('how=regions')")


async def test_pictures_are_no_field(tmp_path):
    """Encoded pictures are not written by hand; what the address says of them is shown."""
    there = "!!document.querySelector('[data-param=images]')"
    async with served(tmp_path) as server, shown(server.url, tmp_path) as person:
        await person.go("try?model=turned")
        await person.until("!!document.querySelector('[data-param=shape]')")
        assert not await person.evaluate(there)
        await person.go("try?model=turned&images=[]")
        await person.until(there)


@pytest.mark.parametrize(
    "words",
    [
        ["it's 50 % off", "it is true"],
        ["no. 5 at 50 %", "it's"],
        ["<OD>", "a;b"],
        ["@/etc/hostname"],
    ],
)
async def test_the_code_runs(tmp_path, words):
    """The code as it is copied answers what the page shows, by a form or as JSON."""
    async with served(tmp_path) as server, shown(server.url, tmp_path) as person:
        await person.go("try?model=turned&prompts=" + json.dumps(words))
        await person.give()
        await person.until(NAMES + ".length == 1")
        for tab in TABS:
            said = await ran(person, tab, tmp_path)
            assert ", ".join(words) in said, (tab, said)


async def test_what_each_task_draws(tmp_path):
    """Turned boxes, limbs, masks with holes, depth, bars and text are drawn as they are."""
    async with served(tmp_path) as server, shown(server.url, tmp_path) as person:
        await person.go("try?model=turned")
        await person.give()
        corners = "M" + "L".join(f"{x:g} {y:g}" for x, y in CORNERS) + "Z"
        await person.until(f"{BOXES}.includes('{corners}')")
        await person.go("try?model=person")
        await person.until("document.querySelectorAll('.over .bone').length == 19")
        (
            left,
            right,
            dashed,
        ) = await person.evaluate("""[".bone.k1", ".bone.k2", ".bone [stroke-dasharray]"]
          .map((e) => document.querySelectorAll(e).length)""")
        assert (left, right, dashed) == (7, 7, 1)
        await person.go("try?model=disc")
        path = await person.until("document.querySelector('.over .mask')?.getAttribute('d')")
        assert path.count("M") == 2
        outer, inner = (
            [float(n) for n in re.findall(r"[\d.]+", ring)] for ring in path.split("Z")[:2]
        )
        assert (min(outer), max(outer), min(inner), max(inner)) == (13, 52, 27, 38)
        await person.go("try?model=fake-depth")
        await person.until("document.querySelector('.depthmap')?.width == 64")
        assert "0 found" not in await person.text()
        await person.click("Depth")
        await person.until("document.querySelector('.depthmap').hidden")
        await person.click("Depth")
        await person.until("!document.querySelector('.depthmap').hidden")
        kept = "[...document.querySelectorAll('.cross.kept')].map((each) => each.innerText)"
        for x in (0.25, 0.75):
            await person.point(".reader", x, 0.5)
        await person.until(f"{kept}.length === 2")
        first, second = await person.evaluate(kept)
        assert (first.split(" ", 1)[1], second.split(" ", 1)[1]) == ("16, 32", "48, 32")
        await person.point(".reader", 0.25, 0.5)
        await person.until(f"{kept}.join() === {second!r}")
        await person.go("try?model=fake-classify")
        await person.until("document.querySelectorAll('.classes li').length == 5")
        await person.go("try?model=lines")
        await person.until("document.querySelectorAll('.texts span').length == 2")
        marked = """(() => { getSelection().selectAllChildren(document.querySelector(".texts"));
          return getSelection().toString(); })()"""
        assert (await person.evaluate(marked)).split("\n")[:2] == ["first line", "second line"]
        assert await person.evaluate(TAGS) == []


async def test_two_hundred_boxes(tmp_path):
    """Above sixty results the labels are numbers, none lies on another, and the list has all."""
    async with served(tmp_path) as server, shown(server.url, tmp_path) as person:
        await person.screen(1920, 1080)  # on a smaller one no number finds room
        await person.go("try?model=many")
        await person.give()
        await person.until(NAMES + ".length == 200")
        tags = await person.until(TAGS + ".length && " + TAGS)
        assert all(tag.isdigit() for tag in tags)
        overlaps = """(() => {
          const all = [...document.querySelectorAll(".tagbox")];
          const places = all.map((e) => e.getBoundingClientRect());
          const meet = (a, b) => a.left < b.right && b.left < a.right
            && a.top < b.bottom && b.top < a.bottom;
          return places.some((a, i) => places.some((b, j) => i < j && meet(a, b)));
        })()"""
        assert await person.evaluate(overlaps) is False


async def test_a_large_picture_and_one_that_is_not_seen(tmp_path):
    """50 megapixels are sent as they are and shown smaller; a phone's HEIC is asked about too."""
    buffer = io.BytesIO()
    pillow_heif.from_pillow(Image.open(io.BytesIO(SQUARE))).save(buffer, quality=95)
    async with served(tmp_path) as server, shown(server.url, tmp_path) as person:
        await person.go("try?model=fake-detect")
        await person.give(large(8660, 5770), "large.jpg")
        await person.until(NAMES + "[0] == '8660x5770'")
        assert await person.evaluate("document.querySelector('.shot img').naturalWidth") == 4096
        await person.give(buffer.getvalue(), "phone.heic")
        await person.sees("This browser cannot show this picture itself")
        await person.until(NAMES + "[0] == '64x64'")


async def test_a_model_that_fails_and_one_that_takes_long(tmp_path):
    """What went wrong is a sentence and the request's id; what takes long can be stopped."""
    async with served(tmp_path) as server, shown(server.url, tmp_path) as person:
        await person.go("try?model=fake-detect&behave=raise")
        await person.give()
        await person.sees("RuntimeError")
        assert "secret detail" not in await person.text()
        assert await person.evaluate("!!document.querySelector('.note.bad code').innerText")
        await person.go("try?model=fake-detect&seconds=4")
        await person.sees("Running, 1 s")
        assert await person.evaluate("!document.querySelector('.shot.old')")  # nothing is older
        await person.click("Stop")
        await person.until("!document.querySelector('.running')")
        await person.go("try?model=fake-detect&confidence=7")
        await person.until("document.querySelector('[data-param=confidence] .err')?.innerText")
        await person.go("try?model=fake-detect")
        await person.until(NAMES + ".length == 1")
        await person.give(b"%PDF-1.4", "paper.pdf")
        await person.sees("it is a PDF")
        assert await person.evaluate(NAMES) == []


async def test_without_a_network(tmp_path):
    """The answer stays, the page says that none comes and tries again; then it goes on."""
    async with served(tmp_path) as server, shown(server.url, tmp_path) as person:
        await person.go("try?model=fake-detect")
        await person.give()
        await person.until("document.querySelectorAll('.found li[data-n]').length > 0")

        async def network(*, offline):
            await person.page.call(
                "Network.emulateNetworkConditions",
                offline=offline, latency=0, downloadThroughput=-1, uploadThroughput=-1,
            )  # fmt: skip

        await network(offline=True)
        await person.evaluate("document.activeElement?.blur()")
        await person.click("Run")
        await person.sees("No answer from 127.0.0.1")
        assert await person.evaluate("document.querySelectorAll('.over g').length") > 0
        await network(offline=False)
        await person.until("!document.body.innerText.includes('No answer from')")
        await person.click("Run")
        await person.until("document.querySelectorAll('.found li[data-n]').length > 0")


async def test_a_worker_that_dies(tmp_path):
    """Its death is a sentence, and the next run is answered."""
    async with (
        served(tmp_path, engine="process") as server,
        shown(server.url, tmp_path) as person,
    ):
        await person.go("try?model=fake-detect&behave=exit")
        await person.give()
        await person.until("document.querySelector('.right .note.bad')?.innerText")
        await person.go("try?model=fake-detect")
        await person.until(NAMES + ".length == 1")


async def test_over_http_from_elsewhere(tmp_path):
    """A browser has no camera for such a page, which says what is needed."""
    async with served(tmp_path) as server:
        url = server.url.replace("127.0.0.1", ELSEWHERE)
        async with shown(url, tmp_path) as person:
            await person.click("Camera")
            await person.sees("It gives it to https:// and localhost only.")


async def test_the_parameters_that_a_form_takes(tmp_path):
    """What the page sends as a form's field the server's form has, and the rest as JSON."""
    async with served(tmp_path) as server, shown(server.url, tmp_path) as person:
        fields = await person.evaluate("""fetch("openapi.json").then((answer) => answer.json())
          .then((all) => Object.keys(all.components.schemas.UploadForm.properties))""")
        names = await person.evaluate("""fetch("openapi.json").then((answer) => answer.json())
          .then((all) => Object.keys(all.components.schemas.ApiParams.properties))""")
        script = f"""import("./console/code.mjs").then(({{ fitsForm }}) =>
          {json.dumps(names)}.filter((name) => fitsForm({{ [name]: 1 }})))"""
        assert set(await person.evaluate(script)) == set(fields) - {"model", "file"}


async def test_what_is_pointed_at_is_drawn_alone(tmp_path):
    """Of hundreds of results one changes in the list and on the picture; the others stay."""
    async with served(tmp_path) as server, shown(server.url, tmp_path) as person:
        await person.go("try?model=many")
        await person.give()
        await person.until("document.querySelectorAll('.found li[data-n]').length === 200")
        await person.evaluate("""window.changed = new Set();
          new MutationObserver((all) => all.forEach(({ target }) =>
            changed.add(target.closest?.("[data-n]")?.dataset.n)))
            .observe(document.querySelector(".work"), { subtree: true, childList: true,
              attributes: true, characterData: true }); 0""")
        await person.evaluate("document.querySelector('.found li[data-n=\"7\"]').focus()")
        await person.until("document.querySelector('.over.layer .on')?.dataset.n === '7'")
        assert await person.evaluate("document.querySelectorAll('.found .on').length") == 1
        first = ".over:not(.layer)"
        assert await person.evaluate(f"document.querySelectorAll('{first} .on').length") == 0
        assert await person.evaluate(f"document.querySelectorAll('{first} g').length") == 200
        await person.press("ArrowDown")
        await person.until("document.querySelector('.over.layer .on')?.dataset.n === '8'")
        assert await person.evaluate("[...changed].filter(Number).sort().join()") == "7,8"
