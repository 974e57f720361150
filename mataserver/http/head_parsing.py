"""The beginning of a request as it came: where its head ends, and what requests like it share.

Of a head the digits of its length differ from one to the next, and of a form's what separates its
parts, which most clients make anew for each. A head is known by all its other bytes, and behind a
``MARK`` where a boundary was cut out of it: no head begins so.
"""

from __future__ import annotations

import re
from typing import NamedTuple

LONGEST = 2_048
"""Bytes of a head that is looked at."""
EARLY = 1 << 16
"""Bytes behind a request that is being answered which are read before it is."""
MARK = _END = b"\r\n\r\n"
_LENGTH = b"\r\ncontent-length: "
_KIND = b"\r\ncontent-type: "
_FORM = b"multipart/form-data; boundary="
_BOUNDARY = re.compile(rb'([\w-]{8,70})\r\n|"([\w-]{8,70})"\r\n')
"""What clients write: nothing of it means anything else to whatever parses it."""
_UNSURE = (b"\r\ntransfer-encoding", b"\r\nupgrade", b"\r\ncontent-length")
"""Lines of a head, in lower case, with which a message ends elsewhere than a plain one does."""


class Beginning(NamedTuple):
    """What a request begins with.

    ``key`` is the head without what differs, empty where it is not to be looked for; ``end`` and
    ``size`` are the bytes of the head and of the body; ``boundary`` separates the parts of a form.
    ``unsure`` says that the message may end elsewhere.
    """

    key: bytes
    end: int
    size: int
    boundary: bytes
    unsure: bool


def read(data: bytes) -> Beginning | None:
    """Look at the beginning of a message; None where not all of a short head is here."""
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
    # A length of its own is the third of what makes an end unsure only where it is not read.
    unsure = any(line in head for line in (_UNSURE[:2] if size else _UNSURE))
    # A parser ends a CONNECT at its head, whatever length it tells.
    unsure = unsure or head.lstrip().startswith(b"connect ")
    return Beginning(key, end, size, boundary, unsure)


def _cut(head: bytes, lower: bytes, begin: int, end: int) -> tuple[bytes, bytes]:
    """Return a head without the digits that stand there, nor the boundary of a form; and that."""
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
    """Return what is left of a message behind ``data``: less than 0 where that holds more."""
    return max(-1, left - len(data))
