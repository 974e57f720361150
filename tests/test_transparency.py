"""Transparent pictures are laid on a ground, whatever their format says it with."""

from __future__ import annotations

import importlib.metadata
import io
import struct
import zlib

import aiohttp
import numpy as np
import pillow_heif
import pytest
from PIL import Image, ImageDraw, ImageFont

from mataserver import (
    Backend,
    Classification,
    ClassifyResult,
    OcrResult,
    decode_image,
    hookimpl,
    media,
    plugins,
    testing,
)

LIMIT = 1_000_000
WHITE, BLACK, RED = (255, 255, 255), (0, 0, 0), (255, 0, 0)


def encoded(image: Image.Image, form: str, **options) -> bytes:
    """Return an image's bytes in a format."""
    buffer = io.BytesIO()
    if form == "HEIF":
        pillow_heif.from_pillow(image).save(buffer, quality=-1, **options)
    else:
        image.save(buffer, form, **options)
    return buffer.getvalue()


def png(depth: int, colour: int, row: bytes, clear: bytes = b"", palette: bytes = b"") -> bytes:
    """Return a PNG of one row of two pixels, with a tRNS chunk."""
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", 2, 1, depth, colour, 0, 0, 0))]
    chunks += [(kind, data) for kind, data in ((b"PLTE", palette), (b"tRNS", clear)) if data]
    chunks += [(b"IDAT", zlib.compress(b"\0" + row)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )


def half(mode: str = "RGBA") -> Image.Image:
    """Return 32x16 pixels: the left half red, the right half red too but transparent."""
    image = Image.new("RGBA", (32, 16), (*RED, 255))
    image.paste((*RED, 0), (16, 0, 32, 16))
    return image.convert(mode)


FORMS = [
    ("PNG", "RGBA", {}),
    ("PNG", "LA", {}),
    ("WEBP", "RGBA", {"lossless": True, "exact": True}),
    ("AVIF", "RGBA", {"quality": 100, "subsampling": "4:4:4"}),
    ("HEIF", "RGBA", {}),
    ("TIFF", "RGBA", {}),
    ("TIFF", "LA", {}),
]


@pytest.mark.parametrize(("form", "mode", "options"), FORMS)
@pytest.mark.parametrize(("alpha", "ground"), [("white", 255), ("black", 0)])
def test_what_is_transparent_shows_the_ground(form, mode, options, alpha, ground):
    """Where nothing is drawn there is the ground; what is drawn keeps its colour."""
    decoded = media.decode(encoded(half(mode), form, **options), LIMIT, alpha).astype(int)
    drawn = RED if mode == "RGBA" else (76, 76, 76)
    assert np.abs(decoded[:, 2:14] - drawn).max() <= 6
    assert np.abs(decoded[:, 18:30] - ground).max() <= 6


@pytest.mark.parametrize(("form", "mode", "options"), FORMS)
def test_dropped_alpha_shows_what_lies_under_it(form, mode, options):
    """With "drop" a transparent pixel has the colour that the file gives it."""
    decoded = media.decode(encoded(half(mode), form, **options), LIMIT, "drop").astype(int)
    assert np.abs(decoded[:, 20:30] - decoded[:, 2:12]).max() <= 6


def test_half_transparent_pixels_are_mixed():
    """A pixel is the mean of its colour and the ground, weighted by its alpha."""
    image = Image.new("RGBA", (1, 1), (200, 100, 0, 51))
    assert media.decode(encoded(image, "PNG"), LIMIT).tolist() == [[[244, 224, 204]]]


GREY_PALETTE = bytes([10, 20, 30, 40, 50, 60])


@pytest.mark.parametrize(
    ("data", "kept"),
    [
        (png(8, 3, b"\0\1", b"\0", GREY_PALETTE), (40, 50, 60)),
        (png(1, 3, b"\x40", b"\0", GREY_PALETTE), (40, 50, 60)),
        (png(8, 2, b"\1\2\3\4\5\6", b"\0\1\0\2\0\3"), (4, 5, 6)),
        (png(16, 2, b"\x12\x34" * 3 + b"\x80\0" * 3, b"\x12\x34" * 3), (128, 128, 128)),
        (png(16, 2, b"\0\0" * 3 + b"\0\1" * 3, b"\0\0" * 3), (0, 0, 0)),
        (png(16, 2, b"\x12\x34" * 6, b"\x12\x34" * 2 + b"\x12\x35"), None),
        (png(8, 0, b"\7\x09", b"\0\7"), (9, 9, 9)),
        (png(1, 0, b"\x80", b"\0\1"), (0, 0, 0)),
        (png(1, 0, b"\x40", b"\0\0"), WHITE),
        (png(2, 0, b"\x60", b"\0\1"), (170, 170, 170)),
        (png(4, 0, b"\x1f", b"\0\1"), WHITE),
        (png(16, 0, b"\x12\x34\x12\x35", b"\x12\x34"), (18, 18, 18)),
        (png(16, 6, b"\x12\x34" * 3 + b"\0\0" + b"\x80\0" * 3 + b"\xff\xff"), (128, 128, 128)),
        (png(16, 4, b"\x12\x34\0\0\x80\0\xff\xff"), (128, 128, 128)),
    ],
)
def test_a_colour_that_stands_for_nothing(data, kept):
    """PNG's tRNS counts in the file's own depth, for palettes, grey and RGB of 1 to 16 bits."""
    decoded = media.decode(data, LIMIT, "white")
    if kept is None:  # no pixel has the colour
        assert decoded.tolist() == [[[18, 18, 18]] * 2]
        return
    assert decoded.tolist() == [[list(WHITE), list(kept)]]
    assert media.decode(data, LIMIT, "black").tolist() == [[list(BLACK), list(kept)]]


def test_grey_of_16_bits_is_legible_on_the_other_ground():
    """White on white is nothing to read."""
    data = png(16, 0, b"\x12\x34\xff\xff", b"\x12\x34")
    assert media.decode(data, LIMIT, legible=True).tolist() == [[list(BLACK), list(WHITE)]]


@pytest.mark.parametrize(("kind", "stored", "dropped"), [(1, 100, 199), (2, 200, 200)])
@pytest.mark.parametrize(("alpha", "mixed"), [("white", 227), ("black", 100), ("drop", None)])
def test_grey_that_is_multiplied_by_its_alpha(kind, stored, dropped, alpha, mixed):
    """A TIFF tells by its ExtraSamples whether it is; it means the same colours either way."""
    samples = bytes([stored, 128, 255, 255])
    tags = {256: 2, 257: 1, 258: 8 | 8 << 16, 259: 1, 262: 1, 273: 8, 277: 2, 278: 1}
    tags |= {279: len(samples), 338: kind}
    entries = b"".join(
        struct.pack("<HHII", tag, 3, 2 if tag == 258 else 1, value) for tag, value in tags.items()
    )
    directory = struct.pack("<H", len(tags)) + entries + bytes(4)
    data = b"II*\0" + struct.pack("<I", 8 + len(samples)) + samples + directory
    found = media.decode(data, LIMIT, alpha).tolist()
    assert found == [[[dropped if mixed is None else mixed] * 3, [255] * 3]]


@pytest.mark.parametrize(
    ("alpha", "clear", "half"),
    [("white", WHITE, (227,) * 3), ("black", BLACK, (100,) * 3), ("drop", BLACK, (199,) * 3)],
)
def test_a_heif_that_is_multiplied_by_its_alpha(alpha, clear, half):
    """It says so of itself; a clear part is the ground, and a half one keeps its colour."""
    samples = np.zeros((64, 96, 4), np.uint8)
    samples[:, 32:64] = (100, 100, 100, 128)
    samples[:, 64:] = (0, 0, 0, 255)
    file, buffer = pillow_heif.HeifFile(), io.BytesIO()
    file.add_frombytes("RGBA", (96, 64), samples.tobytes())
    file.premultiplied_alpha = True
    file.save(buffer, quality=-1)
    decoded = media.decode(buffer.getvalue(), LIMIT, alpha)
    found = decoded[32, [10, 48, 80]].astype(int)
    assert np.abs(found - [clear, half, BLACK]).max() <= 2


def bmp(alpha: int) -> bytes:
    """Return a BMP of two red pixels with an alpha mask: one with ``alpha``, one with 0."""
    pixels = bytes((0, 0, 255, alpha, 0, 0, 255, 0))
    masks = struct.pack("<4I", 0xFF0000, 0xFF00, 0xFF, 0xFF000000)
    head = struct.pack("<IiiHHIIiiII", 108, 2, 1, 1, 32, 3, len(pixels), 0, 0, 0, 0) + masks
    head = head.ljust(108, b"\0")
    return b"BM" + struct.pack("<IHHI", 122 + len(pixels), 0, 0, 122) + head + pixels


@pytest.mark.parametrize(("alpha", "shown"), [(0, [RED, RED]), (255, [RED, WHITE])])
def test_a_bmp_whose_alpha_is_nothing_but_0(alpha, shown):
    """Programs that know no alpha leave it 0 everywhere, and mean an opaque picture."""
    assert media.decode(bmp(alpha), LIMIT).tolist() == [list(map(list, shown))]


def test_a_gif_of_one_transparent_colour():
    """GIF's transparent colour is laid on the ground as well."""
    image = Image.new("P", (32, 16), 1)
    image.putpalette([1, 2, 3, *RED])
    image.paste(0, (16, 0, 32, 16))
    decoded = media.decode(encoded(image, "GIF", transparency=0), LIMIT)
    assert (decoded[:, :14] == RED).all()
    assert (decoded[:, 18:] == WHITE).all()


@pytest.mark.parametrize(("alpha", "ground"), [("white", WHITE), ("black", BLACK)])
def test_a_gif_whose_first_frame_is_smaller_than_its_canvas(alpha, ground):
    """What the frame leaves empty is transparent, and not the first colour of the palette."""
    frame = Image.new("P", (8, 4), 1)
    frame.putpalette([1, 2, 3, *RED])
    data = bytearray(encoded(frame, "GIF"))
    assert struct.unpack_from("<HH", data, 6) == (8, 4)
    struct.pack_into("<HH", data, 6, 12, 10)  # the canvas; the frame stays in its upper left
    decoded = media.decode(bytes(data), LIMIT, alpha)
    assert decoded.shape == (10, 12, 3)
    assert (decoded[:4, :8] == RED).all()
    assert (decoded[4:] == ground).all()
    assert (decoded[:, 8:] == ground).all()


def letters(
    colour: tuple[int, int, int],
    mark: tuple[int, int, int] | None = None,
    place: tuple[int, int, int, int] = (4, 56, 24, 76),
    cover: int = 255,
) -> bytes:
    """Return letters on nothing, as a PNG; with a square of the colour ``mark`` before them."""
    image = Image.new("RGBA", (640, 160), (*colour, 0))
    font = ImageFont.load_default(size=60)
    draw = ImageDraw.Draw(image)
    draw.text((30, 40), "   EXIT 9", fill=(*colour, cover), font=font)
    if mark is not None:
        draw.rectangle(place, fill=mark)
    return encoded(image, "PNG")


def card(level: int, ink: int, margin: int, scale: int = 1, turn: float = 0.0) -> bytes:
    """Return a grey card with text in ``ink`` on nothing, as a PNG."""
    width, height = 400 * scale, 200 * scale
    image = Image.new("RGBA", (width + 2 * margin, height + 2 * margin), (0, 0, 0, 0))
    draw = ImageDraw.Draw(image)
    place = (margin, margin, margin + width - 1, margin + height - 1)
    draw.rounded_rectangle(place, 12 * scale, fill=(level,) * 3)
    font = ImageFont.load_default(size=30 * scale)
    draw.text(
        (margin + 90 * scale, margin + 80 * scale), "Office hours", fill=(ink,) * 3, font=font
    )
    return encoded(image.rotate(turn, Image.Resampling.BICUBIC, expand=True), "PNG")


@pytest.mark.parametrize("alpha", ["white", "black"])
@pytest.mark.parametrize("level", [0, 12, 128, 244, 255])
def test_what_is_to_be_read_stands_out(alpha, level):
    """Letters of the ground's own colour are laid on the other ground, where that is asked for."""
    plain = media.decode(letters((level,) * 3), LIMIT, alpha)
    legible = media.decode(letters((level,) * 3), LIMIT, alpha, legible=True)
    assert np.ptp(legible) >= 100
    if np.ptp(plain) >= 100:
        assert np.array_equal(plain, legible)


@pytest.mark.parametrize(
    ("colour", "mark", "ground"),
    [(WHITE, RED, BLACK), (WHITE, BLACK, BLACK), (BLACK, RED, WHITE), (BLACK, WHITE, WHITE)],
)
def test_a_mark_beside_letters_does_not_hide_them(colour, mark, ground):
    """White letters of a logo are on black although its emblem is seen on white."""
    found = media.decode(letters(colour, mark), LIMIT, legible=True)
    assert tuple(found[0, 0]) == ground


@pytest.mark.parametrize(
    ("colour", "mark", "ground"), [(WHITE, RED, BLACK), ((51, 51, 51), WHITE, WHITE)]
)
def test_a_mark_of_any_size(colour, mark, ground):
    """A large emblem is as well seen on black; a white speck moves no dark letters there."""
    place = (4, 10, 90, 140) if mark == RED else (4, 56, 24, 76)
    found = media.decode(letters(colour, mark, place), LIMIT, legible=True)
    assert tuple(found[0, 0]) == ground


def test_letters_that_are_faint():
    """White letters of little cover show little on black, and nothing on white."""
    found = media.decode(letters(WHITE, cover=50), LIMIT, legible=True)
    assert tuple(found[0, 0]) == BLACK


@pytest.mark.parametrize("turn", [0.0, 7.0])
@pytest.mark.parametrize("margin", [0, 1, 40])
@pytest.mark.parametrize(
    ("alpha", "level", "ink"),
    [("white", 255, 0), ("white", 255, 150), ("white", 240, 200), ("black", 0, 105)],
)
def test_a_card_stays_on_its_own_colour(alpha, level, ink, margin, turn):
    """The other ground would show more, its outline; what is to be read is on the card."""
    data = card(level, ink, margin, turn=turn)
    found = media.decode(data, LIMIT, alpha, legible=True)
    assert np.array_equal(found, media.decode(data, LIMIT, alpha))


def test_a_large_card_stays_on_its_own_colour():
    """Faint text of a scanned page is seen although the page is reduced to look for it."""
    data = card(255, 150, 300, scale=8)
    found = media.decode(data, 20 * LIMIT, legible=True)
    assert tuple(found[0, 0]) == WHITE


def test_plugins_choose_the_ground_too():
    """``decode_image`` lays on white, or on what its caller names."""
    assert decode_image(letters(BLACK), LIMIT)[0, 0].tolist() == [255, 255, 255]
    assert decode_image(letters(BLACK), LIMIT, "black")[0, 0].tolist() == [0, 0, 0]


def test_nothing_at_all_is_the_ground():
    """A picture that is transparent everywhere has the asked ground."""
    nothing = encoded(Image.new("RGBA", (8, 8), (*RED, 0)), "PNG")
    assert (media.decode(nothing, LIMIT, legible=True) == 255).all()


class Corner:
    """Tells the colour of the first pixel."""

    def __init__(self, result):
        self._result = result

    def predict(self, images, _params):
        """Return the colour as text."""
        return [self._result(",".join(map(str, image[0, 0]))) for image in images]


def classified(said):
    """Return an answer of the task classify."""
    return ClassifyResult([Classification(said, 1.0)])


def read(said):
    """Return an answer of the task ocr."""
    return OcrResult(said, [])


def load(spec, _context):
    """Load the model."""
    return Corner(read if spec.task == "ocr" else classified)


@hookimpl
def backends():
    """Return the backends: this module is a plugin."""
    kinds = (("plain", "classify"), ("dark", "classify"), ("reader", "ocr"))
    return [Backend(name=name, task=task, source="pip", load=load) for name, task in kinds]


PLUGIN = importlib.metadata.EntryPoint("corner", __name__, plugins.GROUP)


@pytest.mark.parametrize("engine", ["process", "thread"])
@pytest.mark.parametrize(
    ("alpha", "seen"),
    [
        ("white", ["255,255,255", "0,0,0", "0,0,0"]),
        ("black", ["0,0,0", "0,0,0", "0,0,0"]),
        ("drop", ["255,255,255", "0,0,0", "255,255,255"]),
    ],
)
async def test_the_setting_reaches_the_worker(data_dir, engine, alpha, seen):
    """``alpha`` holds for every model, unless its own says otherwise; text is laid so it shows."""
    models = [
        {"model": "plain", "task": "classify"},
        {"model": "dark", "task": "classify", "alpha": "black"},
        {"model": "reader", "task": "ocr"},
    ]
    options = {"entry_points": [PLUGIN], "models": models, "alpha": alpha, "engine": engine}
    async with (
        testing.serving(data_dir, **options) as served,
        aiohttp.ClientSession(served.url, headers=served.headers) as http,
    ):
        found = []
        for model in ("plain", "dark", "reader"):
            async with http.post(
                f"/v1/infer?model={model}",
                data=letters(WHITE),
                headers={"Content-Type": "image/png"},
            ) as answer:
                body = await answer.json()
                assert answer.status == 200, body
                found.append(
                    body["text"] if model == "reader" else body["classifications"][0]["label"]
                )
    assert found == seen
