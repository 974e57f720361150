"""Encoded bytes to pixels: every format, every orientation, and bytes that are no picture."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

import mataserver
from conftest import picture
from mataserver import media
from mataserver.errors import BadRequest
from stored_pictures import LIMIT, ORIENTATION, STORED, encoded, turned, upright

# Pillow warns of metadata and of sizes that the tests have damaged on purpose.
pytestmark = pytest.mark.filterwarnings(
    "ignore::UserWarning", "ignore::PIL.Image.DecompressionBombWarning"
)
RED, GREY = (255, 0, 0), (60, 60, 60)


def close(decoded: np.ndarray, expected: np.ndarray, tolerance: int = 3) -> bool:
    """Whether two pictures are the same but for a lossy format's error."""
    difference = np.abs(decoded.astype(int) - expected.astype(int))
    return decoded.shape == expected.shape and float(np.median(difference)) <= tolerance


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", STORED)
def test_every_orientation_comes_back_upright(orientation, form):
    """The red box of a turned picture is where it is in the upright one."""
    decoded = media.decode(turned(orientation, form), LIMIT)
    assert close(decoded, upright())
    rows, columns = np.nonzero((decoded[:, :, 0] > 200) & (decoded[:, :, 1] < 100))
    assert abs(rows.min() - 8) <= 1
    assert abs(columns.min() - 10) <= 1
    assert abs(rows.max() - 27) <= 1
    assert abs(columns.max() - 29) <= 1


@pytest.mark.parametrize(
    ("told", "form"), [(None, "JPEG"), (None, "WEBP"), (None, "AVIF"), (1, "JPEG")]
)
def test_an_orientation_in_xmp_turns_nothing(told, form):
    """EXIF alone counts, as in browsers and OpenCV; of an AVIF the container."""
    xmp = b'<rdf:Description xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="6"/>'
    exif = Image.Exif()
    if told is not None:
        exif[ORIENTATION] = told
    data = encoded(Image.fromarray(upright()), form, xmp=xmp, exif=exif.tobytes())
    assert b'tiff:Orientation="6"' in data
    assert close(media.decode(data, LIMIT), upright())


@pytest.mark.parametrize("orientation", [0, 9, 255])
def test_an_orientation_that_does_not_exist_turns_nothing(orientation):
    """Only 1 to 8 mean something."""
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    data = encoded(Image.fromarray(upright()), "PNG", exif=exif.tobytes())
    assert np.array_equal(media.decode(data, LIMIT), upright())


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM"])
def test_every_format_gives_the_same_picture(form):
    """The array is writable uint8 RGB in C order, whatever the bytes were."""
    decoded = media.decode(encoded(Image.fromarray(upright()), form), LIMIT)
    assert decoded.dtype == np.uint8
    assert decoded.flags.c_contiguous
    assert decoded.flags.writeable
    assert close(decoded, upright())


@pytest.mark.parametrize(
    ("mode", "form"),
    [
        ("L", "PNG"),
        ("L", "JPEG"),
        ("1", "PNG"),
        ("LA", "PNG"),
        ("P", "PNG"),
        ("P", "GIF"),
        ("RGBA", "PNG"),
        ("RGBA", "WEBP"),
        ("CMYK", "TIFF"),
    ],
)
def test_every_mode_becomes_rgb(mode, form):
    """Grey, palette and opaque alpha pictures become RGB with the same colours."""
    image = Image.fromarray(upright()).convert(mode)
    expected = np.asarray(image.convert("RGB"))
    assert close(media.decode(encoded(image, form), LIMIT), expected)


def test_a_cmyk_jpeg_is_not_negative():
    """A CMYK JPEG, stored inverted as all programs do, has its true colours."""
    data = encoded(Image.fromarray(upright()).convert("CMYK"), "JPEG", quality=95)
    decoded = media.decode(data, LIMIT)
    assert np.abs(decoded[18, 20].astype(int) - RED).max() < 12
    assert np.abs(decoded[40, 50].astype(int) - GREY).max() < 12


@pytest.mark.parametrize("form", ["PNG", "TIFF"])
def test_sixteen_bit_samples_are_scaled(form):
    """A 16-bit ramp becomes an 8-bit ramp: nothing is clipped to white."""
    ramp = np.linspace(0, 65_535, 256).astype(np.uint16)
    data = encoded(Image.fromarray(np.tile(ramp, (4, 1))), form)
    decoded = media.decode(data, LIMIT)
    assert np.array_equal(decoded[0, :, 0], np.arange(256))
    assert np.array_equal(decoded[..., 0], decoded[..., 2])


def test_sixteen_bit_rgb_is_scaled():
    """A PPM of 16 bits a channel loses its low bits, not its bright ones."""
    samples = np.array([0, 128, 256, 32_768, 65_535] * 3, ">u2")
    data = b"P6 5 1 65535\n" + samples.tobytes()
    decoded = media.decode(data, LIMIT).ravel()
    assert list(decoded[:5]) == [0, 0, 1, 128, 255]


@pytest.mark.parametrize("form", ["GIF", "WEBP", "PNG"])
def test_an_animation_gives_its_first_frame(form):
    """Of a GIF, WebP or APNG with several frames the first is taken."""
    frames = [Image.new("RGB", (8, 6), colour) for colour in (RED, (0, 255, 0), (0, 0, 255))]
    options = {"lossless": True} if form == "WEBP" else {}
    data = encoded(frames[0], form, save_all=True, append_images=frames[1:], **options)
    assert (media.decode(data, LIMIT) == RED).all()


def test_stray_bytes_between_markers_do_no_harm():
    """A JPEG with bytes that belong to nothing, as some cameras write, is decoded all the same."""
    data = picture(form="JPEG")
    for stray in (data[:-2] + b"\x01\x02\x03" + data[-2:], data + b"trailing" * 100):
        assert close(media.decode(stray, LIMIT), upright())


def test_metadata_that_cannot_be_read_turns_nothing():
    """A broken EXIF block costs the orientation, not the picture."""
    data = picture(form="JPEG")
    for exif in (b"Exif\0\0", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0MM\0*\0\0\0\x08\xff\xff"):
        block = b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif
        assert close(media.decode(data[:2] + block + data[2:], LIMIT), upright())


def test_memoryviews_are_decoded():
    """The worker hands over a view of shared memory."""
    for form in ("JPEG", "PNG"):
        assert close(media.decode(memoryview(picture(form=form)), LIMIT), upright())


@pytest.mark.parametrize("kind", [bytes, memoryview])
@pytest.mark.parametrize(("height", "width"), [(48, 64), (1, 1), (1, 30_000)])
def test_a_plain_ppm_is_its_pixels(kind, height, width):
    """The server's own form of raw pixels is taken as it is, into an array of its own."""
    pixels = np.random.default_rng(1).integers(0, 256, (height, width, 3), np.uint8)
    data = b"P6\n%d %d\n255\n" % (width, height) + pixels.tobytes()
    decoded = media.decode(kind(data), LIMIT)
    assert np.array_equal(decoded, pixels)
    assert decoded.flags.writeable
    assert np.array_equal(decoded, np.array(Image.open(io.BytesIO(data))))


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"P6\n2000 2000\n255\n" + bytes(12_000_000), "too large: 2000x2000"),
        (b"P6\n70000 1\n255\n" + bytes(210_000), "too large: 70000x1"),
        (b"P6\n2 2\n255\n" + bytes(11), "truncated or damaged"),
        (b"P6\n0 2\n255\n", "cannot be decoded"),
        (b"P6\n2 2\n99999\n" + bytes(24), "cannot be decoded"),
        (b"P6\n999999999 999999999\n255\n", "too large"),
    ],
)
def test_a_plain_ppm_is_checked(data, said):
    """Sizes over the limit, too few pixels and none are refused."""
    with pytest.raises(BadRequest, match=said):
        media.decode(data, LIMIT)


@pytest.mark.parametrize(
    "data",
    [
        b"P6\n# a comment\n2 1\n255\n" + bytes([1, 2, 3, 4, 5, 6]),
        b"P6 2 1 255\n" + bytes([1, 2, 3, 4, 5, 6]),
        b"P6\n2 1\n255\n" + bytes([1, 2, 3, 4, 5, 6]) + b"more",
    ],
)
def test_other_ppms_are_decoded_too(data):
    """A PPM that is written in another way goes the long way."""
    assert media.decode(data, LIMIT).ravel().tolist() == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("size", [(1, 1), (20_000, 1), (1, 20_000)])
@pytest.mark.parametrize("form", ["JPEG", "PNG"])
def test_odd_sizes(size, form):
    """One pixel, one line, one column."""
    decoded = media.decode(encoded(Image.new("RGB", size, GREY), form), LIMIT)
    assert decoded.shape == (size[1], size[0], 3)


def test_the_limit_counts_pixels():
    """Exactly the limit passes, one line more does not, and the detail says what is allowed."""
    assert media.decode(encoded(Image.new("RGB", (100, 100)), "PNG"), 10_000).shape == (100, 100, 3)
    with pytest.raises(BadRequest, match="too large: 100x101 pixels, at most 10000 are allowed"):
        media.decode(encoded(Image.new("RGB", (100, 101)), "PNG"), 10_000)


def test_a_side_that_is_too_long_is_told():
    """It is refused for its side, not for pixels of which it has fewer than are allowed."""
    with pytest.raises(BadRequest, match="1x65536 pixels, a side has at most 65535"):
        media.decode(encoded(Image.new("L", (1, 65_536)), "PNG"), 100_000)


def test_a_jpegs_header_is_checked_before_its_pixels():
    """A JPEG whose header promises too much is refused without being decoded."""
    data = bytearray(picture(form="JPEG"))
    start = data.index(b"\xff\xc0") + 5
    data[start : start + 4] = b"\xff\x00\xff\x00"
    with pytest.raises(BadRequest, match="too large: 65280x65280"):
        media.decode(bytes(data), LIMIT)


def test_floating_point_samples_say_so():
    """A depth map as a TIFF is a picture that no model here takes."""
    image = Image.fromarray(np.zeros((4, 4), np.float32))
    with pytest.raises(BadRequest, match="floating-point"):
        media.decode(encoded(image, "TIFF"), LIMIT)


NOISE = np.random.default_rng(0).random((301, 517)) > 0.5


@pytest.mark.parametrize(
    "mask",
    [
        np.ones((1, 1), bool),
        np.zeros((1, 3000), bool),
        np.ones((3000, 1), bool),
        np.arange(4 * 7).reshape(4, 7) % 3 == 0,
        NOISE,
        NOISE.T,
        NOISE[::-2, ::3],
        np.asfortranarray(NOISE),
        NOISE.astype(np.uint8),
        NOISE * 0.3,
        (NOISE * np.uint8(255)).view(bool),
    ],
    ids=lambda mask: f"{mask.shape[1]}x{mask.shape[0]} {mask.dtype}",
)
def test_a_mask_is_a_png_of_two_values(mask):
    """encode_png writes 0 and 255 whatever way the mask lies in memory, and reads back the same."""
    data = media.encode_png(mask)
    Image.open(io.BytesIO(data)).verify()  # every chunk's check
    image = Image.open(io.BytesIO(data))
    assert (image.format, image.mode, image.size) == ("PNG", "L", mask.shape[::-1])
    assert np.array_equal(np.asarray(image), (mask != 0) * 255)


def test_a_mask_takes_no_more_room_than_a_photographs_encoder_makes_of_it():
    """The outline of a thing is smaller as runs than by the filters that a photograph needs."""
    ys, xs = np.ogrid[:480, :640]
    disc = (ys - 200) ** 2 + (xs - 300) ** 2 < 90**2
    buffer = io.BytesIO()
    Image.fromarray(disc * np.uint8(255)).save(buffer, "PNG", compress_level=1)
    assert len(media.encode_png(disc)) < len(buffer.getvalue())


@pytest.mark.parametrize("shape", [(0, 0), (0, 5), (5, 0), (5,), (2, 2, 1)])
def test_a_mask_without_pixels_is_none(shape):
    """A PNG has at least one pixel, and no third axis."""
    with pytest.raises(ValueError, match=r"mask of|values to unpack"):
        media.encode_png(np.zeros(shape, bool))


def test_plugins_decode_like_the_server():
    """``mataserver.decode_image`` gives the same pixels and the same refusals."""
    assert np.array_equal(mataserver.decode_image(picture(), LIMIT), upright())
    with pytest.raises(BadRequest, match="too large: 64x48 pixels, at most 100"):
        mataserver.decode_image(picture(), 100)
