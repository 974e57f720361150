"""An archive that unpacks to far more than its directory says."""

from __future__ import annotations

import io
import struct
import tracemalloc
import zipfile
import zlib
from contextlib import contextmanager

STATED = 1_000
"""Bytes that its entry has by the directory."""
UNPACKED = 64_000_000
"""Bytes that it unpacks to."""


def understated(name: str = "a.jpg", method: int = zipfile.ZIP_DEFLATED) -> bytes:
    """Return such an archive; the checksum is that of the stated bytes."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as made:
        made.writestr(name, bytes(UNPACKED))
    data = bytearray(out.getvalue())
    for signature, checksum, size in ((b"PK\3\4", 14, 22), (b"PK\1\2", 16, 24)):
        at = data.rindex(signature)
        struct.pack_into("<I", data, at + checksum, zlib.crc32(bytes(STATED)))
        struct.pack_into("<I", data, at + size, STATED)
    return bytes(data)


@contextmanager
def within(most: int):
    """Fail unless what happens within takes at most so many bytes of memory."""
    tracemalloc.start()
    try:
        yield
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak <= most, f"{peak} bytes"
