"""Detects truncated Matroska or WebM files, which libav takes for shorter videos."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path
    from typing import BinaryIO

_HEADER, _SEGMENT = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67"
_FIRST_BITS = 8


def is_truncated(path: Path) -> bool:
    """Whether the file is Matroska and ends before the segment that holds its frames does.

    A segment of unknown length, as in live recordings, never counts as truncated. Raises
    ``OSError``.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        if file.read(len(_HEADER)) != _HEADER:
            return False
        header = _length(file)
        if header is None:
            return False
        file.seek(header, 1)
        if file.read(len(_SEGMENT)) != _SEGMENT:
            return False
        segment = _length(file)
        return segment is not None and file.tell() + segment > size


def _length(file: BinaryIO) -> int | None:
    """Read the length of an element; None where it is unknown.

    The number of leading zero bits is how many bytes follow; all ones mean unknown.
    """
    first = file.read(1)
    if not first or not first[0]:
        return None
    more = _FIRST_BITS - first[0].bit_length()
    rest = file.read(more)
    if len(rest) < more:
        return None
    bits = 7 * (more + 1)
    value = int.from_bytes(first + rest, "big") & ((1 << bits) - 1)
    return None if value == (1 << bits) - 1 else value
