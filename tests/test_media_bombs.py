"""Files that are cheap to send and dear to decode are refused, or decoded for little."""

from __future__ import annotations

import io
import struct
import time
import tracemalloc
import zlib

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from conftest import picture
from mataserver import media
from mataserver.errors import BadRequest
from mataserver.media import bands

LIMIT = 50_000_000
SOON = 1.5
"""Seconds: each of these takes milliseconds, and took many seconds before."""


def refused(data: bytes) -> str:
    """Return what is said of a picture that is refused soon."""
    begun = time.perf_counter()
    with pytest.raises(BadRequest) as error:
        media.decode(data, LIMIT)
    assert time.perf_counter() - begun < SOON
    return error.value.detail


def chunk(kind: bytes, data: bytes) -> bytes:
    """Return a chunk of a PNG."""
    check = struct.pack(">I", zlib.crc32(kind + data))
    return struct.pack(">I", len(data)) + kind + data + check


def png_with(chunks: bytes) -> bytes:
    """Return a PNG with chunks after its header."""
    data = picture()
    return data[:33] + chunks + data[33:]


ORIENTED = b"Exif\0\0MM\0*\0\0\0\x08\0\1\1\x12\0\3\0\0\0\1\0\1\0\0\0\0\0\0"


def scans(width: int, height: int, count: int, *, exif: bytes = b"", **options) -> bytes:
    """Return a JPEG of so many scans."""
    buffer = io.BytesIO()
    image = Image.new("L", (width, height), 128)
    image.save(buffer, "JPEG", progressive=True, exif=exif, **options)
    data = buffer.getvalue()
    last, end = data.rindex(b"\xff\xda"), data.rindex(b"\xff\xd9")
    return data[:end] + data[last:end] * (count - data.count(b"\xff\xda")) + data[end:]


@pytest.mark.parametrize("exif", [b"", ORIENTED])
@pytest.mark.parametrize(("side", "count"), [(3000, 400), (64, 101), (7000, 17), (5500, 14 + 3)])
def test_a_jpeg_of_too_many_scans(side, count, exif):
    """Scans are counted before one is decoded, with EXIF and without."""
    said = refused(scans(side, side, count, exif=exif))
    assert said == f"image takes too long to decode: a JPEG of {count} scans; save it with fewer"


def test_a_baseline_jpeg_of_too_many_scans():
    """A JPEG that is not progressive can have as many: its components may come one by one."""
    buffer = io.BytesIO()
    Image.new("RGB", (64, 64), (200, 10, 10)).save(buffer, "JPEG", subsampling=0)
    data = buffer.getvalue()
    at = data.index(b"\xff\xda")
    one = b"\xff\xda\0\x08\1\1\0\0\x3f\0" + b"\0" * 8
    assert "a JPEG of 150 scans" in refused(data[:at] + one * 150 + b"\xff\xd9")


@pytest.mark.parametrize("side", [64, 2000])
def test_the_usual_scans_are_decoded(side):
    """A progressive JPEG as encoders write them is decoded, and one of 16 passes too."""
    assert media.decode(picture(side, side, form="JPEG", progressive=True), LIMIT).shape[0] == side
    assert media.decode(scans(side, side, 16), LIMIT).shape[0] == side


@pytest.mark.parametrize("exif", [b"", ORIENTED])
@pytest.mark.parametrize("progressive", [False, True])
def test_what_is_appended_to_a_jpeg_is_no_scan_of_it(progressive, exif):
    """A phone's moving picture, a JPEG with its video behind it, is decoded."""
    data = picture(3000, 2000, form="JPEG", progressive=progressive, exif=exif)
    video = b"\0\0\0\x18ftypmp42" + np.random.default_rng(0).bytes(8_000_000)
    assert video.count(b"\xff\xda") > 100
    assert np.array_equal(media.decode(data + video, LIMIT), media.decode(data, LIMIT))


@pytest.mark.parametrize(
    "between", [b"\xff\xfe\0\4\xff\xd9", b"\xff\xff\xff", b"stray", b"\xff\xd0"]
)
def test_scans_behind_what_only_looks_like_the_end_count(between):
    """An end within a comment, filling and stray bytes hide no scan."""
    data = scans(3000, 3000, 1)
    at = data.index(b"\xff\xda")
    assert "scans" in refused(data[:at] + between + scans(3000, 3000, 120)[at:])


@pytest.mark.parametrize("first", [b"", b"\xff\xe1\0\x02"])
def test_a_jpeg_of_countless_segments(first):
    """Two million empty segments are not walked one by one."""
    data = picture(form="JPEG")
    said = refused(data[:2] + first + b"\xff\xe3\0\2" * 2_000_000 + data[2:])
    assert said == "image cannot be decoded: it has over 4096 segments"


@pytest.mark.parametrize("exif", [b"", ORIENTED])
def test_a_jpeg_of_countless_segments_between_its_scans(exif):
    """They are as many as those before the first scan may be."""
    data = scans(64, 64, 1, exif=exif)
    at = data.rindex(b"\xff\xda")
    said = refused(data[:at] + b"\xff\xfe\0\2" * 4_096 + data[at:])
    assert said == "image cannot be decoded: it has over 4096 segments"


def test_a_png_of_countless_chunks():
    """A million empty chunks are not walked one by one."""
    said = refused(png_with(chunk(b"teSt", b"") * 1_000_000))
    assert said == "image cannot be decoded: it has over 65536 chunks"


@pytest.mark.parametrize(
    "beside",
    [
        chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(80_000_000), 9)),
        chunk(b"iTXt", b"Comment\0\1\0\0\0" + zlib.compress(bytes(80_000_000), 9)),
        chunk(b"iCCP", b"profile\0\0" + zlib.compress(bytes(80_000_000), 9)),
        chunk(b"tEXt", b"Comment\0" + b"x" * 20_000_000),
    ],
)
def test_a_text_or_profile_that_unpacks_without_end_costs_nothing(beside):
    """The pixels are sound, so they are decoded; what stands beside them is left out."""
    begun = time.perf_counter()
    assert np.array_equal(media.decode(png_with(beside), LIMIT), media.decode(picture(), LIMIT))
    assert time.perf_counter() - begun < SOON


def shared_values(entries: int, size: int, order: str = "<", orientation: int = 1) -> bytes:
    """Return a TIFF directory whose entries all have the same ``size`` bytes for their value."""
    start = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", 8)
    turned = struct.pack(order + "HHIHxx", 0x0112, 3, 1, orientation)
    values = 8 + 2 + 12 * (entries + 1) + 4
    listed = [
        struct.pack(order + "HHII", 0x8000 + index, 7, size, values) for index in range(entries)
    ]
    count = struct.pack(order + "H", entries + 1)
    return start + count + turned + b"".join(listed) + bytes(4) + bytes(size)


@pytest.mark.parametrize("order", ["<", ">"])
def test_a_tiff_whose_entries_share_their_values(order):
    """2,000 entries of the same 2 MB would be 4 GB in memory."""
    assert "metadata are damaged" in refused(shared_values(2_000, 2_000_000, order))


def test_a_big_tiff_whose_entries_share_their_values():
    """The directory of a BigTIFF is looked at as well."""
    entries = b"".join(struct.pack("<HHQQ", 0x8000 + i, 7, 2_000_000, 40_100) for i in range(2_000))
    head = b"II+\0\x08\0\0\0" + struct.pack("<QQ", 16, 2_000)
    assert "metadata are damaged" in refused(head + entries + bytes(2_000_200))


def test_an_avif_whose_exif_shares_its_values():
    """Pillow reads an AVIF's EXIF as it opens it: it is looked at before."""
    buffer = io.BytesIO()
    sound = Image.Exif()
    sound[0x8000] = bytes(2_100_000)
    Image.new("RGB", (8, 8)).save(buffer, "AVIF", exif=sound.tobytes())
    data = bytearray(buffer.getvalue())
    at = data.index(b"MM\0*")
    unsound = shared_values(2_000, 2_000_000, ">")[:-2_000_000]
    data[at : at + len(unsound)] = unsound
    assert media.decode(buffer.getvalue(), LIMIT).shape == (8, 8, 3)
    assert "metadata are damaged" in refused(bytes(data))


@pytest.mark.parametrize("form", ["PNG", "WEBP"])
def test_exif_that_shares_its_values_turns_nothing(form):
    """Such EXIF costs the picture its orientation, and nobody memory; sound EXIF turns it."""
    for exif, shape in (
        (shared_values(2_000, 2_000_000, orientation=6), (48, 64, 3)),
        (shared_values(1, 100, orientation=6), (64, 48, 3)),
    ):
        begun = time.perf_counter()
        assert media.decode(picture(form=form, exif=exif), LIMIT).shape == shape
        assert time.perf_counter() - begun < SOON


def test_a_profile_as_text_that_shares_its_values_turns_nothing():
    """EXIF as ImageMagick once wrote it, in a text of a PNG, is bounded too."""
    exif = shared_values(5_000, 300_000, orientation=6)
    info = PngImagePlugin.PngInfo()
    text = "\nexif\n" + str(len(exif)) + "\n" + exif.hex()
    info.add_text("Raw profile type exif", text, zip=True)
    assert media.decode(picture(pnginfo=info), LIMIT).shape == (48, 64, 3)


def tiled(*tiles: int, side: int = 100, packed: bytes = b"") -> bytes:
    """Return a TIFF of ``side`` pixels each way whose tiles are told to be so large, in turn."""
    sizes = [(tag, 4, 1, each) for each in tiles for tag in (322, 323)]
    own = [(256, 4, 1, side), (257, 4, 1, side), (259, 3, 1, 8), (262, 3, 1, 2), (277, 3, 1, 3)]
    place = 8 + 2 + 12 * (len(sizes) + len(own) + 3) + 4
    own += [(258, 3, 3, place), (324, 4, 1, place + 6), (325, 4, 1, len(packed))]
    entries = b"".join(struct.pack("<HHII", *each) for each in sorted(own) + sizes)
    count = struct.pack("<H", len(own) + len(sizes))
    return b"II*\0" + struct.pack("<I", 8) + count + entries + bytes(4) + b"\x08\0" * 3 + packed


@pytest.mark.parametrize("tile", [10_240, 16_384, 1 << 20])
def test_a_tiff_whose_tile_is_far_larger_than_it(tile):
    """Two megabytes of 100x100 pixels would be decoded as a tile of gigabytes."""
    assert "too large: its tiles of" in refused(tiled(tile))


@pytest.mark.parametrize("tiles", [(10_240, 64), (64, 10_240), (64, 64)])
def test_a_tiff_that_tells_its_tiles_twice(tiles):
    """What Pillow goes by is not what libtiff decodes."""
    assert "metadata are damaged" in refused(tiled(*tiles))


@pytest.mark.parametrize(
    ("number", "shape"),
    [(float("inf"), (2, 4, 3)), (float("nan"), (2, 4, 3)), (6.0, (4, 2, 3))],
)
def test_an_orientation_that_is_a_float(number, shape):
    """One that is no number turns nothing."""
    exif = b"Exif\0\0II*\0" + struct.pack("<IHHHIfI", 8, 1, 0x0112, 11, 1, number, 0)
    assert media.decode(picture(4, 2, form="JPEG", exif=exif), LIMIT).shape == shape


@pytest.mark.parametrize("number", [float("inf"), float("-inf"), float("nan"), 64.0])
@pytest.mark.parametrize("tag", [258, 262, 322, 323, 339])
def test_a_tiff_whose_numbers_are_floats(tag, number):
    """Its tags are integers; as a float one may be infinite, which no integer is."""
    data = tiled(128, packed=zlib.compress(bytes(3 * 128 * 128)))
    count = struct.unpack_from("<H", data, 8)[0]
    entries = [data[10 + 12 * at :][:12] for at in range(count)]
    kept = [each for each in entries if struct.unpack_from("<H", each)[0] != tag]
    own = struct.pack("<HHIf", tag, 11, 1, number)
    begin, end = 8 + 2 + 12 * count, len(data)
    # The directory goes to the end: its places are those of the file as it was.
    table = struct.pack("<H", len(kept) + 1) + b"".join(sorted([*kept, own], key=tag_of)) + bytes(4)
    data = b"II*\0" + struct.pack("<I", end) + bytes(begin - 8) + data[begin:] + table
    assert refused(data).startswith("image ")


def tag_of(entry: bytes) -> int:
    """Return the tag of a directory's entry."""
    return int(struct.unpack_from("<H", entry)[0])


@pytest.mark.parametrize("tile", [128, 1_024])
def test_a_tiff_of_tiles(tile):
    """Tiles as programs write them are decoded, also where one is larger than the picture."""
    samples = np.random.default_rng(0).integers(0, 256, (tile, tile, 3), np.uint8)
    found = media.decode(tiled(tile, packed=zlib.compress(samples.tobytes())), LIMIT)
    assert np.array_equal(found, samples[:100, :100])


@pytest.mark.parametrize(("kind", "channels"), [(b"P5", 1), (b"P6", 3)])
@pytest.mark.parametrize("most", [1, 254, 256, 65_535])
def test_samples_of_any_range_are_read_at_once(kind, channels, most):
    """A PGM or PPM whose samples do not end at 255 is no slower than one whose samples do."""
    shape = (1000, 1000, channels)
    samples = np.random.default_rng(0).integers(0, most + 1, shape)
    data = kind + b"\n# made\n1000 1000\n%d\n" % most
    data += samples.astype(np.uint8 if most < 256 else ">u2").tobytes()
    begun = time.perf_counter()
    decoded = media.decode(data, LIMIT)
    assert time.perf_counter() - begun < SOON
    assert np.array_equal(decoded, np.rint(samples * (255 / most)).repeat(3 // channels, axis=2))


@pytest.mark.parametrize(
    ("kind", "before"),
    [
        (kind, b" 1" * count)
        for kind, numbers in (
            (b"P1", 2),
            (b"P2", 3),
            (b"P3", 3),
            (b"P4", 2),
            (b"P5", 3),
            (b"P6", 3),
        )
        for count in range(numbers)
    ],
)
@pytest.mark.parametrize("gap", [b"#" + b"x" * 8_000_000 + b"\n", b"\n" * 8_000_000])
def test_a_head_without_end_is_not_read_byte_by_byte(kind, before, gap):
    """A picture of one pixel behind eight megabytes of comment."""
    behind = b" 1" * (3 - before.count(b"1"))
    assert "head has over 4096 bytes" in refused(kind + before + gap + behind + b" 1 1 1\n")


@pytest.mark.parametrize("kind", [b"P0CMYK", b"Pf", b"PyP", b"PyRGBA", b"PyCMYK"])
@pytest.mark.parametrize("gap", [b" ", b"\n#" + b"x" * 8_000_000 + b"\n"])
def test_what_only_pillow_calls_a_ppm_is_refused(kind, gap):
    """Before its head is read, which has no end either."""
    data = kind + gap + b"1 1 1\n" + bytes(4)
    assert "unknown format or broken header" in refused(data)


@pytest.mark.parametrize("kind", [b"P2", b"P3", b"P5", b"P6"])
def test_a_long_picture_with_a_comment(kind):
    """Comments as programs write them are read."""
    head = kind + b"\n# made by a program\n60 # columns\n 60\n255\n"
    samples = b"1 " * 10_800 if kind in {b"P2", b"P3"} else b"\1" * 10_800
    assert media.decode(head + samples, LIMIT).shape == (60, 60, 3)


def test_a_sample_over_the_largest_is_the_largest():
    """A PPM that breaks its own range is not wrapped round to black."""
    assert media.decode(b"P6 1 1 100\n\x64\x65\xff", LIMIT).tolist() == [[[255, 255, 255]]]


@pytest.mark.parametrize("brand", [b"avif", b"heic"])
def test_countless_directories_are_not_walked_one_by_one(brand):
    """Each of 100,000 beginnings names one directory of 65,535 entries."""
    head = b"\0\0\0\x1cftyp" + brand + b"\0\0\0\0" + brand + b"mif1miaf"
    count = 100_000
    at = len(head) + 8 * count
    starts = (b"II*\0" + struct.pack("<I", at - len(head) - 8 * each) for each in range(count))
    entries = struct.pack("<HHI4x", 1, 1, 1) * 65_535
    assert "damaged" in refused(head + b"".join(starts) + struct.pack("<H", 65_535) + entries)


@pytest.mark.parametrize("kind", [b"P1", b"P2", b"P3"])
def test_samples_of_text_are_few(kind):
    """Each is read by itself: a body full of them would take a decoder for ten seconds."""
    head = kind + (b" 1900 1360\n" if kind == b"P1" else b" 1900 1360 255\n")
    with pytest.raises(BadRequest, match="of text has at most 4000000 bytes; save it as a binary"):
        media.decode(head + b"1 " * 2_000_000, 50_000_000)
    small = kind + (b" 2 1\n1 1" if kind == b"P1" else b" 2 1 1\n" + b"1 " * 6)
    assert media.decode(small, 100).shape == (1, 2, 3)


@pytest.mark.parametrize("form", ["PNG", "TIFF"])
def test_pictures_of_16_bits_are_converted_in_bands(form):
    """They took 20 bytes for each pixel beside Pillow's own two."""
    out, shades = io.BytesIO(), np.arange(2_400 * 1_200, dtype=np.uint32).reshape(1_200, 2_400)
    samples = (shades * 7 % 65_536).astype(np.uint16)
    Image.fromarray(samples).save(out, form)
    data = out.getvalue()
    tracemalloc.start()
    try:
        found = media.decode(data, 50_000_000)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert np.array_equal(found[..., 0], np.rint(samples / 257.0))
    assert (found == found[..., :1]).all()
    assert peak < 12 * samples.size


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "CMYK", "YCbCr", "1"])
def test_bands_are_the_whole(mode, monkeypatch):
    """However many rows are converted at a time."""
    noise = np.random.default_rng(5).integers(0, 256, (37, 23, 3), np.uint8)
    picture = Image.fromarray(noise).convert(mode)
    monkeypatch.setattr(bands, "BAND_PIXELS", 100)
    assert np.array_equal(bands.pixels(picture), np.asarray(picture.convert("RGB")))


@pytest.mark.parametrize("alpha", ["white", "black", "drop"])
@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "L", "I;16"])
def test_transparent_bands_are_the_whole(mode, alpha, monkeypatch):
    """Each band is laid on the same ground, and has the same transparent colour."""
    noise = np.random.default_rng(5).integers(0, 4, (37, 23, 4), np.uint8) * 80
    if mode == "I;16":
        picture = Image.fromarray(noise[..., 0].astype(np.uint16) * 250)
    elif mode == "P":
        picture = Image.fromarray(noise[..., :3]).quantize(16)
    else:
        picture = Image.fromarray(noise).convert(mode)
    out = io.BytesIO()
    options = {} if mode in {"RGBA", "LA"} else {"transparency": 0}
    picture.save(out, "PNG", **options)
    whole = media.decode(out.getvalue(), LIMIT, alpha)
    monkeypatch.setattr(bands, "BAND_PIXELS", 100)
    assert np.array_equal(media.decode(out.getvalue(), LIMIT, alpha), whole)
    assert len(np.unique(whole)) > 1
