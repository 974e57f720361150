"""Parsing of a request's beginning: the end of its head, and its cache key.

Heads of repeated requests differ in the digits of their length, and in a form's boundary, which
most clients generate anew. The key is all other bytes, prefixed with ``MARK``, which no head starts
with, if a boundary was cut out.
"""

from __future__ import annotations

import re
from typing import NamedTuple

LONGEST = 2_048
"""Maximum bytes of a head that is inspected."""
EARLY = 1 << 16
"""Bytes of following requests that are read while one is being answered."""
MARK = _END = b"\r\n\r\n"
_LENGTH = b"\r\ncontent-length: "
_KIND = b"\r\ncontent-type: "
_FORM = b"multipart/form-data; boundary="
_BOUNDARY = re.compile(rb'([\w-]{8,70})\r\n|"([\w-]{8,70})"\r\n')
"""Common boundaries, restricted to characters without special meaning to any parser."""
_UNSURE = (b"\r\ntransfer-encoding", b"\r\nupgrade", b"\r\ncontent-length")
"""Header lines, in lower case, that may make a message end elsewhere than a plain one."""


class Beginning(NamedTuple):
    """The beginning of a request.

    ``key`` is the head without its variable parts, empty if it must not be looked up; ``end`` and
    ``size`` are the bytes of head and body; ``boundary`` separates the parts of a form. ``unsure``:
    the message may end elsewhere.
    """

    key: bytes
    end: int
    size: int
    boundary: bytes
    unsure: bool


def read(data: bytes) -> Beginning | None:
    """Parse the beginning of a message; None unless it has a complete, short head."""
    end = data.find(_END, 0, LONGEST) + len(_END)
    if end < len(_END):
        return None
    head = data[:end].lower()
    at = head.find(_LENGTH) + len(_LENGTH)
    digits = data[at : head.find(b"\r\n", at)] if at >= len(_LENGTH) else b""
    size = int(digits) if digits.isdigit() and len(digits) < 8 else 0
    key = boundary = b""
    if size and not digits.startswith(b"0"):
        key, boundary = _cut(data[:end], head, at, at + len(digits))
    # Content-Length makes the end uncertain only if it could not be parsed.
    unsure = any(line in head for line in (_UNSURE[:2] if size else _UNSURE))
    # Parsers end a CONNECT at its head, whatever its length says.
    unsure = unsure or head.lstrip().startswith(b"connect ")
    return Beginning(key, end, size, boundary, unsure)


def _cut(head: bytes, lower: bytes, begin: int, end: int) -> tuple[bytes, bytes]:
    """Cut the digits of the length and a form's boundary out of a head; return it and that."""
    kind = lower.find(_KIND) + len(_KIND)
    found = None
    if kind >= len(_KIND) and head.startswith(_FORM, kind):
        found = _BOUNDARY.match(head, kind + len(_FORM))
    if found is None or lower.find(_KIND, kind) >= 0:
        return head[:begin] + head[end:], b""
    first, last = found.span(found.lastindex or 0)
    if first < begin:
        pieces = MARK, head[:first], head[last:begin], head[end:]
    else:
        pieces = MARK, head[:begin], head[end:first], head[last:]
    return b"".join(pieces), head[first:last]


def rest(left: int, data: bytes) -> int:
    """Return the outstanding bytes after ``data``; negative if it contains more."""
    return max(-1, left - len(data))
