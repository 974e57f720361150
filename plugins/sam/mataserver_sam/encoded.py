"""Files that arrive as base64 within JSON."""

from __future__ import annotations

import binascii
import re

import pybase64

from mataserver import BadRequest

_DATA_URI = re.compile(r"data:[\w.+-]+/[\w.+-]+;base64,")
_LONGEST_URI = 128


def decoded(text: str, field: str) -> bytes:
    """Return the bytes of base64 with or without ``data:...;base64,`` before it.

    ``field`` is what the request calls it. Raises ``BadRequest`` for nothing and for what is no
    base64.
    """
    prefix = _DATA_URI.match(text[:_LONGEST_URI])
    if prefix:
        text = text[prefix.end() :]
    if not text:
        raise BadRequest(f"{field} is empty")
    try:
        return pybase64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise BadRequest(f"{field} is not valid base64") from None
