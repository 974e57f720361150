"""Sequences: requests of a stateful model, which the server that began them must be sent."""

from __future__ import annotations

import itertools
import zlib
from collections import OrderedDict
from typing import TYPE_CHECKING, NamedTuple

import msgspec
from msgspec import Struct

from mataserver_fleet.gateway.headers import HEADER_LENGTH

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from mataserver_fleet.gateway.snapshot import Target

MOST = 100_000
"""Sequences that are remembered."""
IDLE = 3600.0
"""Seconds after which a sequence that is not continued is forgotten."""
_WORD = b'"sequence_id"'
_INFLATED = 1 << 24
"""Bytes of a compressed body that are looked at."""


class _Parameters(Struct):
    sequence_id: int | str = 0
    sequence_start: bool = False
    sequence_end: bool = False


class _Body(Struct):
    parameters: _Parameters | None = None


class Step(NamedTuple):
    """A request of a sequence."""

    sequence: int | str
    start: bool
    end: bool


class Pin(NamedTuple):
    """What a sequence is bound to."""

    target: Target
    version: str


def step_of(pieces: Sequence[bytes], headers: Mapping[str, str]) -> Step | None:
    """Return what the body of an inference says of a sequence; None for one that is of none."""
    text = _text(pieces, headers)
    if text is None:
        return None
    try:
        found = msgspec.json.decode(text, type=_Body).parameters
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None  # the server says what is wrong with it
    if found is None or found.sequence_id in {0, ""}:
        return None
    return Step(found.sequence_id, found.sequence_start, found.sequence_end)


def _text(pieces: Sequence[bytes], headers: Mapping[str, str]) -> bytes | None:
    """Return the JSON of a body where the word stands in it; most have none, and are not copied."""
    if not pieces:
        return None
    encoding = headers.get("Content-Encoding")
    if encoding is not None and encoding.strip().lower() in {"gzip", "x-gzip", "deflate"}:
        pieces = (_inflated(b"".join(pieces)),)
    said = headers.get(HEADER_LENGTH, "")
    if said.isascii() and said.isdigit() and int(said) <= len(pieces[0]):
        pieces = (pieces[0][: int(said)],)
    return b"".join(pieces) if _has_word(pieces) else None


def _has_word(pieces: Sequence[bytes]) -> bool:
    """Whether the word stands in a body, or over the seam of two pieces."""
    if any(_WORD in piece for piece in pieces):
        return True
    width = len(_WORD) - 1
    return any(
        _WORD in before[-width:] + after[:width] for before, after in itertools.pairwise(pieces)
    )


def _inflated(body: bytes) -> bytes:
    """Return what a compressed body holds; nothing for what is damaged: the server tells of it."""
    try:
        return zlib.decompressobj(32 + zlib.MAX_WBITS).decompress(body, _INFLATED)
    except zlib.error:
        return b""


class Sequences:
    """Remembers which server has which sequence of a route. ``clock`` gives seconds."""

    def __init__(self, clock: Callable[[], float], most: int = MOST) -> None:
        self._clock = clock
        self._most = most
        self._pins: OrderedDict[tuple[str, str, int | str], tuple[Pin, float]] = OrderedDict()

    def find(self, application: str, model: str, step: Step) -> Pin | None:
        """Return what a sequence that goes on is bound to; None for one that begins."""
        if step.start:
            return None
        found = self._pins.get((application, model, step.sequence))
        return found[0] if found is not None and found[1] > self._clock() else None

    def bind(self, application: str, model: str, step: Step, pin: Pin) -> None:
        """Bind a sequence, or forget it where this is its end."""
        key = (application, model, step.sequence)
        self._pins.pop(key, None)
        if step.end:
            return
        self._pins[key] = (pin, self._clock() + IDLE)
        if len(self._pins) > self._most:
            self._pins.popitem(last=False)
