"""AVIFs whose frames are larger than the file says: a frame of any size would be decoded."""

from __future__ import annotations

import io
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from mataserver import media
from mataserver.errors import BadRequest
from mataserver.media import av1, avif

TOO_LARGE = "image is too large: 200x120 pixels, at most 10000 are allowed"
NOTES = Image.Exif()
NOTES[0x010E] = "a description"
SEQUENCE = bytes.fromhex("0a0b000000043cfefc4af90040")
"""A sequence of 320x192 pixels, sides of 9 and 8 bits, as SVT-AV1 writes it."""
FRAMES = {
    "10008c0081450820400000dad8ad46aef7b15efffa34ecd1": False,
    "2802002492491122801c70c308000400af424072ad5bd6e9": False,
    "30020409240022460000008000c000d630325d2fa79276da": False,
    "100085a0041020800000cd998fbff393e3a1d282d09e7b74": False,
    "288200249249006a3fc035001ff113c010408204000400af": True,
    "3102040924000e23c0000008000c00d48509296abad01435": True,
}
"""Beginnings of its frames, with and without its option to resize them: have they a size?"""


def encoded(mode: str = "RGB", frames: int = 1, **options) -> bytes:
    """Return an AVIF of 200x120 pixels."""
    pictures = [Image.new(mode, (200, 120), 40 * number) for number in range(frames)]
    buffer = io.BytesIO()
    pictures[0].save(
        buffer, "AVIF", speed=10, save_all=frames > 1, append_images=pictures[1:], **options
    )
    return buffer.getvalue()


def box(kind: bytes, *contents: bytes) -> bytes:
    """Return a box of a container."""
    data = b"".join(contents)
    return struct.pack(">I4s", 8 + len(data), kind) + data


TABLE = box(b"trak", box(b"mdia", box(b"minf", box(b"stbl", box(b"stsd", b"mp4v")))))
"""A track of another codec."""


def smaller(data: bytes) -> bytes:
    """Return an AVIF that says of itself that it has 64x64 pixels."""
    size = struct.pack(">II", 200, 120)
    assert size in data
    return data.replace(size, struct.pack(">II", 64, 64))


@pytest.mark.parametrize("options", [{}, {"mode": "RGBA"}, {"mode": "L"}, {"frames": 3}])
def test_frames_larger_than_the_file_says(options):
    """They are refused by their own size; before, they were decoded whole, and scaled."""
    data = smaller(encoded(**options))
    with pytest.raises(BadRequest) as error:
        media.decode(data, 10_000)
    assert error.value.detail == TOO_LARGE


@pytest.mark.parametrize(
    "options",
    [{}, {"mode": "RGBA"}, {"mode": "L"}, {"frames": 3}, {"subsampling": "4:4:4"}, {"quality": 9}],
)
def test_honest_ones_are_decoded(options):
    """A picture of exactly the permitted size, of each sort."""
    assert media.decode(encoded(**options), 24_000).shape == (120, 200, 3)


def test_each_track_is_looked_at():
    """Of an animation without a still picture, too: its colours, and its transparency."""
    data = encoded("RGBA", frames=2)
    tracks = data.replace(b"meta", b"free")
    avif.check(tracks, 24_000)
    with pytest.raises(BadRequest, match="200x120"):
        avif.check(tracks, 23_999)
    with pytest.raises(BadRequest, match="200x120"):
        avif.check(tracks.replace(b"stsz", b"free", 1), 23_999)


def with_decoy(data: bytes, kind: bytes) -> bytes:
    """Return an animation without a still picture, with a second box before each of a kind."""
    at, length = data.index(kind) - 4, 0
    for holder in (b"moov", b"trak", b"mdia", b"minf", b"stbl"):
        begin = data.rindex(holder, 0, at) - 4
        length = int.from_bytes(data[begin : begin + 4], "big")
        data = data[:begin] + struct.pack(">I", length + 20) + data[begin + 4 :]
    decoy = box(kind, struct.pack(">III", 0, 1, 4))
    return (data[:at] + decoy + data[at:]).replace(b"meta", b"free")


@pytest.mark.parametrize("kind", [b"stsz", b"stsc", b"stco"])
def test_a_table_before_the_one_that_counts(kind):
    """The library takes some numbers of the first one and some of the second."""
    with pytest.raises(BadRequest, match="a track has two tables of its frames"):
        media.decode(with_decoy(encoded(frames=2), kind), 24_000)


@pytest.mark.parametrize("frames", [1, 2])
def test_where_no_frame_is_found(frames):
    """A file whose frames would be read elsewhere than looked for is refused."""
    data = encoded(frames=frames).replace(b"\x12\x00\x0a", b"\x12\x00\x7a")
    with pytest.raises(BadRequest, match="a frame's size was not found"):
        avif.check(data, 24_000)


@pytest.mark.parametrize("options", [{"exif": NOTES.tobytes()}, {"xmp": b"<x/>"}])
def test_notes_are_no_frames(options):
    """What else is in a file holds no size."""
    assert media.decode(encoded("RGBA", **options), 24_000).shape == (120, 200, 3)


@pytest.mark.parametrize(("head", "own"), FRAMES.items())
def test_frames_with_a_size_of_their_own(head, own):
    """They may be as large as the bits of their sides permit, whatever the sequence says."""
    unit = bytes.fromhex(head)
    found = avif._frames(SEQUENCE + bytes([0x32, len(unit)]) + unit)
    sizes = [size for _, *size in found]
    assert sizes == [[320, 192], [512, 256] if own else [1, 1]]


def test_a_reduced_header():
    """That of a still picture: its frames have no sizes of their own."""
    bits = f"0001100000{15:04b}{15:04b}{9_999:016b}{49:016b}"
    unit = int(bits.ljust(64, "0"), 2).to_bytes(8, "big")
    parsed = av1.sequence_of(unit)
    assert (parsed.width, parsed.height, parsed.reduced) == (10_000, 50, True)
    frame = b"\x32\x02\xff\xff"
    found = list(avif._frames(b"\x0a\x08" + unit + frame))
    assert found == [(1, 10_000, 50), (6, 1, 1)]


@pytest.mark.parametrize(("equal", "time"), [("0", 8), ("1" + "00101", 0)])
def test_all_that_a_sequence_may_say(equal, time):
    """Times, points of operation and numbers of frames stand before what is looked for."""
    model = "1" + f"{9:05b}{0:032b}{0:05b}{7:05b}"
    points = "1" + "00001" + f"{0:012b}{8:05b}1" + "1" + "0" * 21 + "1" + "0000"
    points += f"{0:012b}{4:05b}" + "0" + "0"
    sides = f"{15:04b}{15:04b}{9_999:016b}{49:016b}"
    bits = "00000" + "1" + "0" * 64 + equal + model + points + sides
    bits += "1" + "0011" + "010" + "0" * 7 + "1" + "00" + "01" + "00"
    bits = bits.ljust(-(-len(bits) // 8) * 8, "0")
    parsed = av1.sequence_of(int(bits, 2).to_bytes(len(bits) // 8, "big"))
    assert (parsed.width, parsed.height, parsed.bits) == (10_000, 50, (16, 16))
    for head in ("0" + "001" + "0" * time + "0", "0" + "010" + "1" + "1" + "0"):  # a key, or not
        for own in (False, True):
            frame = (head + "0" * 8 + str(int(own))).ljust(64, str(int(not own)))
            assert av1.has_own_size(int(frame, 2).to_bytes(8, "big"), parsed) == own


def test_a_box_whose_length_has_64_bits():
    """It is one like others: a frame within it is found."""
    bits = f"0001100000{15:04b}{15:04b}{9_999:016b}{49:016b}"
    unit = b"\x0a\x08" + int(bits.ljust(64, "0"), 2).to_bytes(8, "big")
    begin = len(located(1, 1))
    small = located(1, len(unit), begin=begin + 8)
    at = small.index(b"meta") - 4
    content = small[at + 8 :]
    large = small[:at] + struct.pack(">I4sQ", 1, b"meta", 16 + len(content)) + content + unit
    avif.check(large, 500_000)
    with pytest.raises(BadRequest, match="10000x50"):
        avif.check(large, 499_999)


def located(extents: int, size: int, items: int = 1, begin: int = 0) -> bytes:
    """Return an AVIF whose items have so many extents of a size."""
    one = struct.pack(">HHH", 1, 0, extents) + struct.pack(">II", begin, size) * extents
    iloc = box(b"iloc", struct.pack(">IBBH", 0, 0x44, 0, items), one * items)
    entry = box(b"infe", struct.pack(">IHH4s", 2 << 24, 1, 0, b"av01"), b"\0")
    iinf = box(b"iinf", struct.pack(">IH", 0, 1), entry)
    return box(b"ftyp", b"avif\0\0\0\0avif") + box(b"meta", bytes(4), iinf, iloc)


@pytest.mark.parametrize(
    "data",
    [
        located(60_000, 1, 3),
        located(60_000, 30_000),
        box(b"ftyp", b"avif\0\0\0\0avif") + box(b"free") * 70_000,
        box(b"ftyp", b"avis\0\0\0\0avis") + box(b"moov", *[box(b"trak")] * 70_000),
        box(b"ftyp", b"avis\0\0\0\0avis") + box(b"moov", *[TABLE] * 17),
        located(1, 140_000, begin=len(located(1, 1))) + b"\x12\x00" * 70_000,
    ],
    ids=["extents", "what they share", "boxes", "tracks", "tables", "units"],
)
def test_too_many_parts(data):
    """They are refused instead of being looked at one by one."""
    with pytest.raises(BadRequest, match="too many parts"):
        avif.check(data, 10_000)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_damaged_ones(data):
    """Whatever stands in a file, it is passed on to the library or refused."""
    whole = bytearray(encoded(frames=data.draw(st.integers(1, 2))))
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    try:
        avif.check(bytes(whole[: data.draw(st.integers(0, len(whole)))]), 100_000)
    except BadRequest:
        return
