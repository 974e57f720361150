"""The directory of a ZIP archive, counted without being read (APPNOTE.TXT, section 4.3).

And its entries, read within the sizes that they have there.
"""

from __future__ import annotations

import os
import struct
import zipfile
from typing import TYPE_CHECKING

from mataserver import BadRequest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from typing import BinaryIO

_END, _LOCATOR, _END_64 = b"PK\5\6", b"PK\6\7", b"PK\6\6"
_END_SIZE, _LOCATOR_SIZE, _END_64_SIZE, _ENTRY_SIZE = 22, 20, 56, 46
_LONGEST_COMMENT = 65_535
MOST_EXTRA = 4_096
"""Bytes of an entry's extra fields: programs write some dozens, and its name. ``zipfile`` copies
what is left behind each of them, and 16,000 empty ones take a tenth of a second."""

PACKED_BY = frozenset({zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED})
"""The methods by which ``zipfile`` unpacks no more than it is asked for. By bzip2 and LZMA it
unpacks all at once, whatever size the directory states: a thousand bytes may be gigabytes."""


def read(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> bytes:
    """Return an entry's bytes, of one packed by ``PACKED_BY``: as many as its directory states.

    ``ZipFile.read`` unpacks all that is there, up to 2 GB, and only then cuts it to that size.
    Raises what ``zipfile`` raises for damage.
    """
    with archive.open(entry) as packed:
        return packed.read(entry.file_size)


def check(file: Path, most_entries: int) -> None:
    """Raise ``BadRequest`` for an archive that ``zipfile`` may not read; not for what is none.

    It is asked before: as objects, entries take ten times the bytes that they have in the file.
    """
    if has_more_than(file, most_entries):
        raise BadRequest(f"the archive has over {most_entries} entries, which are too many")
    if longest_extra(file) > MOST_EXTRA:
        raise BadRequest(f"the archive has an entry with over {MOST_EXTRA} bytes of extra fields")


def has_more_than(file: Path, most: int) -> bool:
    """Whether an archive has more than ``most`` entries; False for what is none."""
    with file.open("rb") as opened:
        place = _place(opened)
        if place is None:
            return False
        return any(number >= most for number, _ in enumerate(_entries(opened, *place)))


def longest_extra(file: Path) -> int:
    """Return the bytes of the longest extra fields of an entry; 0 for what is no archive."""
    with file.open("rb") as opened:
        place = _place(opened)
        return 0 if place is None else max(_entries(opened, *place), default=0)


def _place(opened: BinaryIO) -> tuple[int, int] | None:
    """Return where the directory begins and ends, by the record at the archive's end.

    It ends where that record begins, whatever the record says: there ``zipfile`` reads it too.
    """
    whole = opened.seek(0, os.SEEK_END)
    begin = max(0, whole - _END_SIZE - _LONGEST_COMMENT - _LOCATOR_SIZE - _END_64_SIZE)
    opened.seek(begin)
    tail = opened.read()
    at = tail.rfind(_END)
    if at < 0 or len(tail) < at + _END_SIZE:
        return None
    (size,) = struct.unpack_from("<L", tail, at + 12)
    end = begin + at
    if tail[max(0, at - _LOCATOR_SIZE) : at].startswith(_LOCATOR):
        record = at - _LOCATOR_SIZE - _END_64_SIZE
        if record >= 0 and tail[record:].startswith(_END_64):
            (size,) = struct.unpack_from("<Q", tail, record + 40)
            end = begin + record
    return (end - size, end) if end - size >= 0 else None


def _entries(opened: BinaryIO, begin: int, end: int) -> Iterator[int]:
    """Yield the bytes of extra fields of each entry of the directory."""
    opened.seek(begin)
    while begin < end:
        head = opened.read(_ENTRY_SIZE)
        if len(head) < _ENTRY_SIZE:
            return
        name, extra, comment = struct.unpack_from("<HHH", head, 28)
        more = name + extra + comment
        opened.seek(more, os.SEEK_CUR)
        begin += _ENTRY_SIZE + more
        yield extra
