"""The names of a ZIP archive's entries, which programs write in several ways."""

from __future__ import annotations

import contextlib
import struct
import zlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import zipfile

_UTF_8 = 0x800  # the flag of a name in UTF-8; without it, it is in code page 437
_UNICODE_PATH = 0x7075
_FIELD_HEADER = struct.Struct("<HH")  # of an entry's extra fields: kind, size
_UNICODE_HEADER = struct.Struct("<BI")  # version, CRC-32 of the name that it stands for


def decoded_name(entry: zipfile.ZipInfo) -> str:
    """Return an entry's name, with unmarked UTF-8 decoded and backslashes as folder separators.

    macOS writes unmarked UTF-8, old programs for Windows backslashes. Latin letters of code page
    437 are hardly ever valid UTF-8. An extra field may hold the name in UTF-8, too.
    """
    name = entry.orig_filename
    if not entry.flag_bits & _UTF_8:
        packed = name.encode("cp437")  # the original bytes
        with contextlib.suppress(UnicodeError):
            name = (_unicode_path(entry.extra, zlib.crc32(packed)) or packed).decode("utf-8")
    return name.replace("\\", "/")


def _unicode_path(extra: bytes, crc: int) -> bytes:
    """Return the name in an entry's Info-ZIP Unicode Path field, empty without one.

    ``crc`` is that of the entry's own name, which the field replaces. Python reads it from 3.12 on.
    """
    while len(extra) >= _FIELD_HEADER.size:
        kind, size = _FIELD_HEADER.unpack_from(extra)
        field = extra[_FIELD_HEADER.size : _FIELD_HEADER.size + size]
        if kind == _UNICODE_PATH and field[: _UNICODE_HEADER.size] == _UNICODE_HEADER.pack(1, crc):
            return field[_UNICODE_HEADER.size :]
        extra = extra[_FIELD_HEADER.size + size :]
    return b""
