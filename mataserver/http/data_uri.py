"""Images encoded in text: base64, optionally as a data URI (RFC 2397).

Strict base64 is decoded directly. Only if that fails, common variants are tried: with line breaks,
the URL-safe alphabet (RFC 4648, section 5), without padding, percent-encoded.
"""

from __future__ import annotations

import binascii
import re

import pybase64

from mataserver.errors import BadRequest

_MAX_HEADER = 1_024
_HEADER = re.compile(r'\s*data:((?:[^",]|"[^"]*")*),', re.IGNORECASE)
_URL_SAFE = bytes.maketrans(b"-_", b"+/")
_SPACES = b" \t\r\n\f\v"
_ESCAPED = {b"%%%02X" % letter: bytes((letter,)) for letter in b"+/=-_" + _SPACES}
"""Percent-encoded characters of base64; letters and digits never are (RFC 3986, section 2.3)."""


def decode(text: str, field: str = "image") -> bytes:
    """Decode base64. ``field`` is its name in errors. Raises ``BadRequest``."""
    data = text[_data_offset(text, field) :]
    try:
        found = pybase64.b64decode(data, validate=True)
    except (binascii.Error, ValueError):
        found = _decode_lenient(data, field)
    if not found:
        raise BadRequest(f"{field} is empty")
    return found


def _data_offset(text: str, field: str) -> int:
    """Return the offset of the data: after a data URI's comma, whatever its media type."""
    if ":" not in text[:_MAX_HEADER]:  # base64 never contains a colon
        return 0
    head = _HEADER.match(text, 0, _MAX_HEADER)
    if head is None:
        return 0
    if "base64" not in (each.strip().lower() for each in head[1].split(";")):
        raise BadRequest(f"{field} is a data URI without base64: write data:image/...;base64,...")
    return head.end()


def _decode_lenient(text: str, field: str) -> bytes:
    try:
        data = text.encode("ascii")
        if "%" in text:
            data = _percent_decode(data)
        data = data.translate(_URL_SAFE, _SPACES)
        if b"=" not in data[-2:]:
            data += b"=" * (-len(data) % 4)
        return pybase64.b64decode(data, validate=True)
    except (binascii.Error, ValueError):
        raise BadRequest(f"{field} is not valid base64") from None


def _percent_decode(data: bytes) -> bytes:
    """Undo percent-encoding, one kind of character at a time: each occurrence would be an object.

    Raises ``ValueError`` for a character outside of the base64 alphabet.
    """
    while (at := data.find(b"%")) >= 0:
        code = data[at : at + 3]
        plain = _ESCAPED.get(code.upper())
        if plain is None:
            raise ValueError("no character of base64")
        data = data.replace(code, plain)
    return data
