"""Pictures that a browser reads otherwise than the server: what was found lies right on them."""

from __future__ import annotations

import asyncio
import base64
import io
import struct

import pillow_heif
import pytest
from console_pages import CHROMIUM, served, shown
from PIL import Image, TiffImagePlugin

pytestmark = [pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium"), pytest.mark.long]
WIDTH, HEIGHT = 96, 48
SIZE = f"{WIDTH} \N{MULTIPLICATION SIGN} {HEIGHT}"
ORIENTATION, SUBFILE = 0x112, 254
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}
"""By EXIF's orientation how a picture is stored that is seen upright."""
PIXELS = """(() => {
  const seen = document.querySelector('.shot img');
  if (!seen?.complete) return null;
  const canvas = new OffscreenCanvas(seen.naturalWidth, seen.naturalHeight);
  const pen = canvas.getContext('2d');
  pen.drawImage(seen, 0, 0);
  const at = (x, y) => [...pen.getImageData(x, y, 1, 1).data].slice(0, 3).map((v) => v > 128);
  return [[canvas.width, canvas.height], at(10, 10), at(86, 10), at(10, 38)];
})()"""


def picture():
    """Return a picture whose corners differ: red, green and blue."""
    made = Image.new("RGB", (WIDTH, HEIGHT))
    half, low = WIDTH // 2, HEIGHT // 2
    made.paste((255, 0, 0), (0, 0, half, low))
    made.paste((0, 255, 0), (half, 0, WIDTH, low))
    made.paste((0, 0, 255), (0, low, half, HEIGHT))
    return made


@pytest.mark.parametrize("orientation", TURNS)
async def test_a_webp_is_shown_as_the_server_reads_it(tmp_path, orientation):
    """Browsers do not turn it by its EXIF."""
    exif, buffer = Image.Exif(), io.BytesIO()
    exif[ORIENTATION] = orientation
    picture().transpose(TURNS[orientation]).save(buffer, "WEBP", lossless=True, exif=exif)
    async with served(tmp_path) as server, shown(server.url, tmp_path) as person:
        await person.go("try?model=many")
        await person.give(buffer.getvalue(), "turned.webp")
        await person.sees(SIZE)
        size, red, green, blue = await person.until(PIXELS)
        assert size == [WIDTH, HEIGHT]
        assert (red, green, blue) == (
            [True, False, False],
            [False, True, False],
            [False, False, True],
        )


def heic():
    """Return a picture as phones write it."""
    buffer = io.BytesIO()
    pillow_heif.from_pillow(picture()).save(buffer)
    return buffer.getvalue()


def tiled():
    """Return the beginning of one that is turned and in tiles, whose own size comes last."""
    sizes = b"".join(b"ispe" + struct.pack(">III", 0, *size) for size in ((16, 16), (48, 96)))
    return struct.pack(">I", 24) + b"ftypheic" + bytes(12) + sizes + b"irot\x01" + bytes(20)


def tiff(made=None, **options):
    """Return a TIFF."""
    buffer = io.BytesIO()
    (made or picture()).save(buffer, "TIFF", **options)
    return buffer.getvalue()


def behind_a_thumbnail():
    """Return a TIFF whose first page is a reduced copy of the second."""
    buffer = io.BytesIO()
    with TiffImagePlugin.AppendingTiffWriter(buffer, new=True) as pages:
        picture().resize((16, 16)).save(pages, "TIFF", tiffinfo={SUBFILE: 1})
        pages.newFrame()
        picture().save(pages, "TIFF")
        pages.finalize()
        return buffer.getvalue()


UNSEEN = {
    "plain.heic": heic(),
    "turned.heic": tiled(),
    "plain.tif": tiff(),
    "turned.tif": tiff(picture().transpose(TURNS[6]), tiffinfo={ORIENTATION: 6}),
    "other-order.tif": tiff(Image.new("I;16B", (WIDTH, HEIGHT))),
    "large-offsets.tif": tiff(big_tiff=True),
    "thumbnail.tif": behind_a_thumbnail(),
    "note.ppm": b"P6\n# 7 7\n96 48\n255\n" + bytes(WIDTH * HEIGHT * 3),
}


@pytest.mark.parametrize("name", UNSEEN)
async def test_what_a_browser_cannot_show_has_its_size(tmp_path, name):
    """What is found lies in the place of the picture, which the browser cannot show."""
    async with served(tmp_path) as server, shown(server.url, tmp_path) as person:
        await person.go("try?model=many")
        await person.give(UNSEEN[name], name)
        await person.sees("This browser cannot show this picture itself.")
        assert SIZE in await person.text(".pictures")
        shape = "(({ width, height }) => width / height)(%s.getBoundingClientRect())"
        ratio = await person.evaluate(shape % "document.querySelector('.shot')")
        assert ratio == pytest.approx(WIDTH / HEIGHT, rel=0.02)


async def test_a_picture_whose_size_is_not_known(tmp_path):
    """What is found would lie wrong on its placeholder: it is listed, and why is said."""
    data = UNSEEN["note.ppm"].replace(b"# 7 7", b"#" * 5_000)
    async with served(tmp_path) as server, shown(server.url, tmp_path) as person:
        await person.go("try?model=many")
        drawn = "document.querySelectorAll('.shot svg.over > *, .shot .tagbox').length"
        await person.give(UNSEEN["note.ppm"], "short.ppm")
        await person.until(f"document.querySelectorAll('.found li[data-n]').length > 3 && {drawn}")
        await person.give(data, "long.ppm")
        await person.sees("what was found is only listed")
        assert await person.evaluate("document.querySelectorAll('.found li[data-n]').length") > 3
        assert await person.evaluate(drawn) == 0


def moving(kind):
    """Return an animation whose first frame is the picture, and whose others are black."""
    buffer = io.BytesIO()
    rest = [Image.new("RGB", (WIDTH, HEIGHT))] * 3
    picture().save(buffer, kind, save_all=True, append_images=rest, duration=100, loop=0)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "AVIF"])
async def test_of_an_animation_its_first_frame_is_shown(tmp_path, kind):
    """The server looks at no other: what was found on it lies on no later one."""
    async with served(tmp_path) as server, shown(server.url, tmp_path) as person:
        await person.go("try?model=many")
        await person.give(moving(kind), f"moving.{kind.lower()}")
        await person.sees(SIZE)
        await person.until(PIXELS)
        x, y, width, height = await person.evaluate("""(({ x, y, width, height }) =>
          [x, y, width, height])(document.querySelector(".shot img").getBoundingClientRect())""")
        clip = {"x": x, "y": y, "width": width, "height": height, "scale": 1}
        for _ in range(8):  # on a canvas a browser draws the first frame of an animation alone
            taken = await person.page.call("Page.captureScreenshot", clip=clip)
            seen = Image.open(io.BytesIO(base64.b64decode(taken["data"]))).convert("RGB")
            blue = seen.getpixel((seen.width // 4, seen.height * 9 // 10))
            assert blue[2] > 100, blue
            await asyncio.sleep(0.1)
