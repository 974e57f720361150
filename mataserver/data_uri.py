"""Encoded images in text: base64, with or without the head of a data URI (RFC 2397)."""

from __future__ import annotations

import binascii
import re

import pybase64

from mataserver.errors import BadRequest

_HEAD = re.compile(r"data:image/[\w.+-]+;base64,")


def decode(text: str) -> bytes:
    """Decode the standard alphabet, strictly. Raises ``BadRequest``."""
    head = _HEAD.match(text[:128])
    if head:
        text = text[head.end() :]
    if not text:
        raise BadRequest("image is empty")
    try:
        return pybase64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise BadRequest("image is not valid base64") from None
