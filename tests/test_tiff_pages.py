"""TIFFs of several pages: each directory that is read is checked, and what it says may be false."""

from __future__ import annotations

import struct
import tracemalloc
from typing import NamedTuple

import numpy as np
import pytest

from mataserver import media
from mataserver.errors import BadRequest

LIMIT = 1_000_000
DAMAGED = "metadata are damaged"


class Sort(NamedTuple):
    """A sort of TIFF: how it starts, its byte order, and the forms of its numbers."""

    start: bytes
    order: str
    offset: str
    count: str
    entry: str
    whole: int

    def packed(self, form: str, *numbers: int) -> bytes:
        """Return numbers in the byte order of the file."""
        return struct.pack(self.order + form, *numbers)

    @property
    def head(self) -> int:
        """The size of the header."""
        return len(self.start) + struct.calcsize("=" + self.offset)


SORTS = {
    "little": Sort(b"II*\0", "<", "I", "H", "HHII", 4),
    "big-endian": Sort(b"MM\0*", ">", "I", "H", "HHII", 4),
    "BigTIFF": Sort(b"II+\0\x08\0\0\0", "<", "Q", "Q", "HHQQ", 16),
}
BIG_ENDIAN_BIG_TIFF = Sort(b"MM\0+\0\x08\0\0", ">", "Q", "Q", "HHQQ", 16)
"""Pillow takes one for a small TIFF, whose directory is elsewhere."""
SHARED = [(0x8000 + each, 7, 1_000_000, 8) for each in range(500)]
"""Entries of half a gigabyte in the same megabyte of the file."""
BROAD = [(322, 4, 1, 64), (322, 4, 1, 10_240)]


class Page(NamedTuple):
    """A page of 8x8 pixels: its NewSubfileType, other tags, entries, and the next page."""

    mark: int = 1
    tags: dict[int, int] = {}  # noqa: RUF012 # none changes it
    beside: list[tuple[int, int, int, int]] = []  # noqa: RUF012
    then: int | None = None


def tiff(sort: Sort, *pages: Page, behind: int = 0) -> bytes:
    """Return a TIFF of pages, whose grey pixels all come from the same place."""
    directories: list[list[tuple[int, int, int, int]]] = []
    for page in pages:
        tags = {254: page.mark, 256: 8, 257: 8, 258: 8, 259: 1, 262: 1, 273: sort.head, 277: 1}
        tags |= {278: 8, 279: 64} | page.tags
        own = [(tag, sort.whole, 1, value) for tag, value in tags.items()]
        directories.append(sorted([*own, *page.beside], key=lambda each: each[0]))
    places = [sort.head + 64]
    rest = struct.calcsize("=" + sort.offset + sort.count)
    for entries in directories:
        places.append(places[-1] + rest + struct.calcsize("=" + sort.entry) * len(entries))
    data = sort.start + sort.packed(sort.offset, places[0]) + bytes(range(64))
    for number, (page, entries) in enumerate(zip(pages, directories, strict=True), 1):
        last = 0 if number == len(pages) else places[number]
        data += sort.packed(sort.count, len(entries))
        data += b"".join(sort.packed(sort.entry, *each) for each in entries)
        data += sort.packed(sort.offset, last if page.then is None else places[page.then])
    return data + bytes(behind)


def refused(data: bytes) -> str:
    """Return what is said of a picture that is refused for little memory."""
    tracemalloc.start()
    try:
        with pytest.raises(BadRequest) as error:
            media.decode(data, LIMIT)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 3 * len(data) + 1_000_000, peak
    return error.value.detail


@pytest.mark.parametrize("sort", SORTS.values(), ids=SORTS)
@pytest.mark.parametrize("before", [0, 1, 2, 15])
def test_a_page_whose_entries_share_their_values_is_refused(sort, before):
    """Behind thumbnails as in front: Pillow 11 reads the megabyte once for each entry."""
    pages = [Page()] * before
    assert DAMAGED in refused(tiff(sort, *pages, Page(0, beside=SHARED), behind=1_000_000))
    few = tiff(sort, *pages, Page(0, beside=SHARED[:1]), behind=1_000_000)
    assert media.decode(few, LIMIT).shape == (8, 8, 3)


@pytest.mark.parametrize("before", [0, 1])
def test_a_big_endian_big_tiff_is_refused(before):
    """What Pillow would read of it is not what was checked, nor what libtiff decodes."""
    for page in (Page(0, beside=SHARED), Page(0)):
        data = tiff(BIG_ENDIAN_BIG_TIFF, *[Page()] * before, page, behind=1_000_000)
        assert DAMAGED in refused(data)


@pytest.mark.parametrize("sort", SORTS.values(), ids=SORTS)
@pytest.mark.parametrize("before", [0, 1, 15])
def test_a_page_that_tells_its_tiles_twice_is_refused(sort, before):
    """What Pillow goes by is not what libtiff decodes, on any page."""
    assert DAMAGED in refused(tiff(sort, *[Page()] * before, Page(0, beside=BROAD)))


@pytest.mark.parametrize("sort", SORTS.values(), ids=SORTS)
@pytest.mark.parametrize("before", [0, 1])
def test_a_page_of_more_entries_than_libtiff_reads_is_refused(sort, before):
    """So many are not walked once per page."""
    many = [(0x8000 + each, sort.whole, 1, 0) for each in range(5_000)]
    assert DAMAGED in refused(tiff(sort, *[Page()] * before, Page(0, beside=many)))


@pytest.mark.parametrize("sort", SORTS.values(), ids=SORTS)
def test_pages_that_are_not_read_may_be_damaged(sort):
    """Behind the picture, and behind the sixteenth."""
    damaged = Page(0, beside=SHARED)
    for pages in ([Page(0), damaged], [Page(2), damaged], [Page()] * 16 + [damaged]):
        assert media.decode(tiff(sort, *pages), LIMIT).shape == (8, 8, 3)


@pytest.mark.parametrize("start", [b"II\0*", b"MM*\0"])
def test_a_start_whose_version_has_the_other_byte_order_is_refused(start):
    """Pillow reads such files, whose directories would not be checked."""
    sort = SORTS["little" if start[:1] == b"I" else "big-endian"]
    whole = tiff(sort, Page(0, beside=SHARED))
    assert DAMAGED in refused(start + whole[4:])


@pytest.mark.parametrize("sort", SORTS.values(), ids=SORTS)
@pytest.mark.parametrize("then", [0, 1])
def test_pages_in_a_circle_end(sort, then):
    """The next page of the last is the first, or the last itself."""
    assert media.decode(tiff(sort, Page(), Page(then=then)), LIMIT).shape == (8, 8, 3)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
@pytest.mark.parametrize("place", [1 << 40, 1 << 63, (1 << 64) - 1])
def test_a_directory_at_no_place_is_refused(place):
    """An offset of 64 bits may be larger than any place in memory."""
    sort = SORTS["BigTIFF"]
    assert "unknown format" in refused(sort.start + sort.packed("Q", place) + bytes(64))


@pytest.mark.parametrize("sort", SORTS.values(), ids=SORTS)
@pytest.mark.parametrize("before", [0, 1, 15])
def test_the_pixels_are_those_of_the_page(sort, before):
    """They are white where the thumbnails are black."""
    data = tiff(sort, *[Page()] * before, Page(0, {262: 0}))
    assert np.array_equal(media.decode(data, LIMIT)[..., 0].ravel(), 255 - np.arange(64))


@pytest.mark.parametrize("sort", SORTS.values(), ids=SORTS)
@pytest.mark.parametrize("before", [0, 1, 3])
def test_a_page_that_libtiff_cannot_read_is_refused(sort, before):
    """A picture without depth: as a later page it was black for Pillow."""
    assert "truncated or damaged" in refused(tiff(sort, *[Page()] * before, Page(0, {32_998: 0})))


@pytest.mark.parametrize("sort", SORTS.values(), ids=SORTS)
@pytest.mark.parametrize("tags", [{259: 34_712}, {258: 7}, {256: 0}, {262: 9_999}, {277: 1_000}])
@pytest.mark.parametrize("before", [0, 1, 3])
def test_a_picture_that_cannot_be_read_is_refused(sort, tags, before):
    """Behind a thumbnail as in front: its compression, its samples, its size."""
    said = refused(tiff(sort, *[Page()] * before, Page(0, tags)))
    assert said.startswith("image cannot be decoded: ")
