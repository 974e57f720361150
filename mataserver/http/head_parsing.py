"""Parsing of a request's beginning: the end of its head, and its cache key.

Heads of repeated requests differ in the digits of their length, and in a form's boundary, which
most clients generate anew. The key is all other bytes, prefixed with ``MARK``, which no head starts
with, if a boundary was cut out.
"""

from __future__ import annotations

import re
from typing import NamedTuple

MAX_HEAD = 2_048
"""Maximum bytes of a head that is inspected."""
MAX_EARLY = 1 << 16
"""Bytes of following requests that are read while one is being answered."""
MARK = _END = b"\r\n\r\n"
_LENGTH = b"\r\ncontent-length: "
_KIND = b"\r\ncontent-type: "
_FORM = b"multipart/form-data; boundary="
_BOUNDARY = re.compile(rb'([\w-]{8,70})\r\n|"([\w-]{8,70})"\r\n')
"""Common boundaries, restricted to characters without special meaning to any parser."""
_UNCERTAIN = (b"\r\ntransfer-encoding", b"\r\nupgrade", b"\r\ncontent-length")
"""Header lines, in lower case, that may make a message end elsewhere than a plain one."""


class RequestStart(NamedTuple):
    """The beginning of a request.

    ``key`` is the head without its variable parts, empty if it must not be looked up; ``end`` and
    ``size`` are the bytes of head and body; ``boundary`` separates the parts of a form.
    ``is_uncertain``: the message may end elsewhere.
    """

    key: bytes
    end: int
    size: int
    boundary: bytes
    is_uncertain: bool


def parse_start(data: bytes) -> RequestStart | None:
    """Parse the beginning of a message; None unless it has a complete, short head."""
    end = data.find(_END, 0, MAX_HEAD) + len(_END)
    if end < len(_END):
        return None
    head = data[:end].lower()
    at = head.find(_LENGTH) + len(_LENGTH)
    digits = data[at : head.find(b"\r\n", at)] if at >= len(_LENGTH) else b""
    size = int(digits) if digits.isdigit() and len(digits) < 8 else 0
    key = boundary = b""
    if size and not digits.startswith(b"0"):
        key, boundary = _cut_variable_parts(data[:end], head, at, at + len(digits))
    # Content-Length makes the end uncertain only if it could not be parsed.
    is_uncertain = any(line in head for line in (_UNCERTAIN[:2] if size else _UNCERTAIN))
    # Parsers end a CONNECT at its head, whatever its length says.
    is_uncertain = is_uncertain or head.lstrip().startswith(b"connect ")
    return RequestStart(key, end, size, boundary, is_uncertain)


def _cut_variable_parts(head: bytes, lower: bytes, begin: int, end: int) -> tuple[bytes, bytes]:
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
