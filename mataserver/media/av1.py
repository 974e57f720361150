"""Headers of AV1: how large frames may be (AV1 bitstream, sections 5.5 and 5.9)."""

from __future__ import annotations

from typing import NamedTuple

from mataserver.media.bits import BitReader

_KEY, _SWITCH, _SELECT = 0, 3, 2


class Sequence(NamedTuple):
    """What a sequence header says about its frames.

    ``bits`` of the sides are those of a frame that has a size of its own; ``time``, ``tools``,
    ``vectors`` and ``number`` are what stands before that in a frame's header.
    """

    width: int
    height: int
    bits: tuple[int, int]
    reduced: bool
    time: int = 0
    tools: int = _SELECT
    vectors: int = _SELECT
    number: int = 0


def sequence_of(data: bytes) -> Sequence:
    """Parse a sequence header."""
    bits = BitReader(data)
    bits.take(4)
    reduced = bool(bits.take(1))
    time = _skip_points(bits, reduced=reduced)
    wide, high = bits.take(4) + 1, bits.take(4) + 1
    width, height = bits.take(wide) + 1, bits.take(high) + 1
    if reduced:
        return Sequence(width, height, (wide, high), reduced=True)
    number = 0
    if bits.take(1):
        difference = bits.take(4) + 2
        number = bits.take(3) + difference + 1
    bits.take(3 + 4)
    ordered = bits.take(1)
    bits.take(2 if ordered else 0)
    tools = _SELECT if bits.take(1) else bits.take(1)
    vectors = _SELECT
    if tools and not bits.take(1):
        vectors = bits.take(1)
    return Sequence(
        width,
        height,
        (wide, high),
        reduced=False,
        time=time,
        tools=tools,
        vectors=vectors,
        number=number,
    )


def _skip_points(bits: BitReader, *, reduced: bool) -> int:
    """Skip times and operating points; return the bits of a frame's time."""
    if reduced:
        bits.take(5)
        return 0
    delay = time = 0
    if bits.take(1):
        bits.take(64)
        equal = bits.take(1)
        if equal:
            zeros = 0
            while zeros < 32 and not bits.take(1):
                zeros += 1
            bits.take(zeros)
        if bits.take(1):
            delay = bits.take(5) + 1
            bits.take(32 + 5)
            time = bits.take(5) + 1
            time = 0 if equal else time
    shown = bits.take(1)
    for _ in range(bits.take(5) + 1):
        bits.take(12)
        bits.take(1 if bits.take(5) > 7 else 0)
        if delay and bits.take(1):
            bits.take(2 * delay + 1)
        if shown and bits.take(1):
            bits.take(4)
    return time


def has_own_size(data: bytes, sequence: Sequence) -> bool:
    """Whether a frame may have another size than the sequence's."""
    bits = BitReader(data)
    if sequence.reduced or bits.take(1):
        return False
    kind, shown = bits.take(2), bits.take(1)
    bits.take(sequence.time if shown else 1)
    if kind != _SWITCH and not (kind == _KEY and shown):
        bits.take(1)
    bits.take(1)
    tools = bits.take(1) if sequence.tools == _SELECT else sequence.tools
    if tools and sequence.vectors == _SELECT:
        bits.take(1)
    bits.take(sequence.number)
    return kind == _SWITCH or bool(bits.take(1))
