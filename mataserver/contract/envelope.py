"""The envelope ``mata.v1`` around a result, encoded without parsing the result.

A body is one object: the head, the fields of the result, and in a stream a few more. The worker
encodes all of it; what only the server knows at the time of sending is appended.
"""

from __future__ import annotations

import time
from typing import Literal

import msgspec

from mataserver.results import SCHEMA_VERSION

Format = Literal["json", "msgpack"]

_MAP16 = 0xDE
_HEAD = 4
"""Fields of the head: three constants, and the time."""


class Envelope:
    """The head of a model's answers; its constant part is encoded once."""

    def __init__(self, task: str, model: str) -> None:
        head = {"schema_version": SCHEMA_VERSION, "task": task, "model": model}
        self._json = msgspec.json.encode(head)[:-1] + b',"timestamp":'
        names_and_values = [part for pair in head.items() for part in pair]
        packed = map(msgspec.msgpack.encode, (*names_and_values, "timestamp"))
        self._msgpack = b"".join(packed)

    def opened(self, form: Format, count: int) -> bytes:
        """Return the beginning of a body, to be followed by ``count`` fields of a result.

        In JSON a closing brace must follow those, in MessagePack nothing.
        """
        now = time.time()
        if form == "json":
            return self._json + msgspec.json.encode(now) + b","
        # The widest map header: ``extended`` can then raise the count in place.
        size = (_HEAD + count).to_bytes(2, "big")
        return b"%c%b%b%b" % (_MAP16, size, self._msgpack, msgspec.msgpack.encode(now))

    def around(self, result: bytes, form: Format) -> tuple[bytes | memoryview, ...]:
        """Return the pieces of a body, given a result encoded as an object of its own."""
        if form == "json":
            return self.opened(form, 0), memoryview(result)[1:]
        count, begin = _map_size(result)
        return self.opened(form, count), memoryview(result)[begin:]


def extended(body: bytes, form: Format, more: msgspec.Struct) -> bytes:
    """Return a body with the fields of ``more`` appended."""
    if form == "json":
        return b"".join((memoryview(body)[:-1], b",", msgspec.json.encode(more)[1:]))
    packed = msgspec.msgpack.encode(more)
    count, begin = _map_size(packed)
    size = int.from_bytes(body[1:3], "big") + count
    return b"".join((body[:1], size.to_bytes(2, "big"), memoryview(body)[3:], packed[begin:]))


def _map_size(packed: bytes) -> tuple[int, int]:
    """Return the number of entries of a MessagePack map, and the offset of the first."""
    if packed[0] == _MAP16:
        return int.from_bytes(packed[1:3], "big"), 3
    return packed[0] & 0x0F, 1
