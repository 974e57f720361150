"""Pictures that are cut, changed at random or none at all: each is refused in one sentence."""

from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image

from mataserver import media
from mataserver.errors import BadRequest
from mataserver.media.picture import reduced
from stored_pictures import LIMIT, ORIENTATION, encoded, upright

# Pillow warns of metadata and of sizes that the tests have damaged on purpose.
pytestmark = pytest.mark.filterwarnings(
    "ignore::UserWarning", "ignore::PIL.Image.DecompressionBombWarning"
)


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "BMP", "TIFF"])
def test_every_cut_is_refused(form):
    """A picture that ends too early is 400, wherever it ends."""
    data = encoded(Image.fromarray(upright()), form)
    for end in (1, 10, 30, len(data) // 2):
        with pytest.raises(BadRequest):
            media.decode(data[:end], LIMIT)


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"restart_marker_rows": 1}])
@pytest.mark.parametrize("wanted", [None, (8, 8)])
def test_a_jpeg_without_all_of_its_pixels_is_refused(options, wanted):
    """Also one whose end marker follows too early, which decoders pad with grey."""
    noise = np.random.default_rng(0).integers(0, 255, (256, 256, 3), np.uint8)
    data = encoded(Image.fromarray(noise), "JPEG", **options)
    for share in (0.5, 0.95):
        with pytest.raises(BadRequest, match="truncated or damaged"):
            reduced(data[: int(len(data) * share)] + data[-2:], LIMIT, wanted)


@pytest.mark.parametrize("wanted", [None, (8, 8)])
@pytest.mark.parametrize(
    ("form", "mode", "options"),
    [
        ("JPEG", "CMYK", {}),
        ("JPEG", "CMYK", {"progressive": True}),
        ("MPO", "RGB", {"save_all": True, "append_images": [Image.new("RGB", (8, 8))]}),
    ],
)
def test_jpegs_for_print_and_of_several_pictures_are_checked_too(form, mode, options, wanted):
    """The second picture stays where it was, so only the first one's pixels are missing."""
    noise = np.random.default_rng(0).integers(0, 255, (256, 256, 3), np.uint8)
    data = encoded(Image.fromarray(noise).convert(mode), form, **options)
    assert reduced(data, LIMIT, wanted).width == 256
    end = data.index(b"\xff\xd9")
    cut = data[: end // 2] + b"\xff\xd9"
    broken = cut + bytes(end - len(cut)) + data[end:]
    assert Image.open(io.BytesIO(broken)).format == form
    with pytest.raises(BadRequest, match="truncated or damaged"):
        reduced(broken, LIMIT, wanted)


@pytest.mark.parametrize(
    "data", [b"", b"\0", b"<html>", b"%!PS-Adobe-3.0 EPSF-3.0\n", b"\0\0\1\0\1\0", b"8BPS\0\1"]
)
def test_other_files_are_refused(data):
    """Text, PostScript (which Pillow would run a program for), icons: none is a picture here."""
    with pytest.raises(BadRequest):
        media.decode(data, LIMIT)


def _seeds() -> list[bytes]:
    """Return small pictures of every format."""
    rng = np.random.default_rng(0)
    noise = Image.fromarray(rng.integers(0, 255, (9, 11, 3), np.uint8))
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    made = [encoded(noise, form) for form in ("JPEG", "PNG", "WEBP", "BMP", "GIF", "PPM", "TIFF")]
    made += [encoded(noise, form, exif=exif.tobytes()) for form in ("JPEG", "PNG", "WEBP")]
    made += [encoded(noise.convert("CMYK"), "JPEG"), encoded(noise.convert("P"), "PNG")]
    made += [
        encoded(noise, "TIFF", compression="tiff_lzw"),
        encoded(noise, "JPEG", progressive=True),
    ]
    return made


SEEDS = _seeds()
Edits = st.lists(
    st.tuples(st.integers(0, 2**20), st.binary(max_size=6), st.integers(0, 6)), max_size=6
)


@settings(max_examples=300, deadline=None, derandomize=True, database=None,
          suppress_health_check=[HealthCheck.too_slow])  # fmt: skip
@given(seed=st.sampled_from(SEEDS), edits=Edits)
@example(seed=SEEDS[0], edits=[])
def test_mutated_pictures_raise_nothing_else(seed, edits):
    """Whatever is done to a picture's bytes: an array comes out, or BadRequest."""
    data = bytearray(seed)
    for place, inserted, removed in edits:
        start = place % (len(data) + 1)
        data[start : start + removed] = inserted
    try:
        decoded = media.decode(bytes(data), LIMIT)
    except BadRequest:
        return
    assert decoded.ndim == 3
    assert decoded.shape[2] == 3
    assert decoded.shape[0] * decoded.shape[1] <= LIMIT


STARTS = [
    b"",
    b"\x89PNG\r\n\x1a\n",
    b"\xff\xd8\xff",
    b"GIF89a",
    b"RIFF\0\0\0\0WEBP",
    b"BM",
    b"II*\0",
    b"P6 ",
]


@settings(max_examples=200, deadline=None, derandomize=True, database=None)
@given(data=st.binary(max_size=200), start=st.sampled_from(STARTS))
def test_random_bytes_raise_nothing_else(data, start):
    """Random bytes behind any format's first bytes: an array, or BadRequest."""
    try:
        decoded = media.decode(start + data, LIMIT)
    except BadRequest:
        return
    assert decoded.shape[2] == 3
