"""Whether a Matroska or WebM file is all there: libav takes what is left for a shorter video."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path
    from typing import BinaryIO

_HEADER, _SEGMENT = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67"
_FIRST_BITS = 8


def ends_early(path: Path) -> bool:
    """Whether the file is Matroska and ends before the segment that holds its frames does.

    A segment that was written without knowing its end, as live ones are, never does. Raises
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
    """Read the length of an element; None where it is not told.

    The zeros before the first one of its bits are how many bytes follow; all ones tell nothing.
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
