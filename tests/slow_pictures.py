"""Pictures that take long to decode though all their markers are usual."""

from __future__ import annotations

import functools
import io

from PIL import Image


@functools.cache
def slow_jpeg() -> bytes:
    """Return a JPEG of 25 megapixels and 16 scans: some seconds."""
    buffer = io.BytesIO()
    Image.new("L", (5000, 5000), 128).save(buffer, "JPEG", progressive=True, quality=20)
    data = buffer.getvalue()
    last, end = data.rindex(b"\xff\xda"), data.rindex(b"\xff\xd9")
    return data[:end] + data[last:end] * (16 - data.count(b"\xff\xda")) + data[end:]
