"""The numbers of H.264's frames (ITU-T H.264, 7.3 and 7.4.3): whether one that others need is gone.

FFmpeg's decoder conceals such a gap with a copy of another frame, and says so nowhere.
"""

from __future__ import annotations

import re
from itertools import islice
from typing import TYPE_CHECKING

from mataserver.media.bits import BitReader

if TYPE_CHECKING:
    from collections.abc import Iterator

_START = re.compile(rb"\x00\x00\x01")
_ESCAPED = re.compile(rb"\x00\x00\x03")
_SLICE, _IDR, _SPS = 1, 5, 7
_HEADER_BYTES, _SPS_BYTES = 24, 512
"""What is read of a slice and of a sequence's parameters: their first fields."""
_UNITS = 64
"""What is read of a packet before its first slice: it comes from anybody."""
_WRONG_GROUPS = 3
"""So many in a row with a gap right behind the key frame are no loss: the encoder numbers so."""
_WITH_CHROMA = frozenset({44, 83, 86, 100, 110, 118, 122, 128, 134, 135, 138, 139, 244})
"""The profiles whose parameters begin with those of colour."""


class FrameNumbers:
    """Follows the numbers of the frames of one stream.

    ``extradata`` is the stream's, in either form: with start codes, or MP4's with lengths.
    """

    def __init__(self, extradata: bytes | None) -> None:
        self._length_size = 0  # with start codes
        self._bits: int | None = None  # of a frame's number; None: unknown, or gaps are allowed
        self._last: int | None = None  # of the frames that others need
        self._is_behind_key = False
        self._wrong_groups = 0
        data = extradata or b""
        if data[:1] == b"\x01" and len(data) > 8:
            self._length_size = (data[4] & 3) + 1
            self._read_parameters(data[8 : 8 + int.from_bytes(data[6:8], "big")])
            return
        for unit in islice(_delimited(data), _UNITS):
            self._read(unit)

    def is_behind_gap(self, packet: bytes, *, is_key: bool) -> bool:
        """Whether frames that others need are missing before a packet's frame.

        Some encoders give wrong numbers, or let them begin anew at a key frame that is no IDR
        frame: from the third group on that begins so the numbers say nothing.
        """
        units = _prefixed(packet, self._length_size) if self._length_size else _delimited(packet)
        for unit in islice(units, _UNITS):
            if unit and unit[0] & 31 in {_SLICE, _IDR}:
                is_gap = self._is_behind_gap(unit)  # a frame's slices all have its number
                return self._is_loss(is_gap=is_gap, is_key=is_key)
            self._read(unit)
        self._last = None  # the frame may be behind them
        return False

    def _is_loss(self, *, is_gap: bool, is_key: bool) -> bool:
        if self._is_behind_key and not is_key:
            self._wrong_groups = self._wrong_groups + 1 if is_gap else 0
        self._is_behind_key = is_key
        return is_gap and self._wrong_groups < _WRONG_GROUPS

    def _read(self, unit: bytes) -> None:
        if unit and unit[0] & 31 == _SPS:
            self._read_parameters(unit)

    def _read_parameters(self, unit: bytes) -> None:
        try:
            self._bits = _number_bits(unit)
        except IndexError:
            self._bits = None

    def _is_behind_gap(self, unit: bytes) -> bool:
        """Follow a slice. A damaged one says nothing: the decoder notices it."""
        if self._bits is None:
            return False
        try:
            return self._follow(_slice_number(unit, self._bits), unit[0], self._bits)
        except IndexError:
            return False

    def _follow(self, number: int, head: int, bits: int) -> bool:
        """Compare a slice's number with the last. Only IDR frames are taken to begin anew."""
        last = self._last
        if head & 0x60:  # others need it
            self._last = number
        if head & 31 == _IDR or last is None:
            return False
        return number not in {last, (last + 1) % (1 << bits)}


class _Fields(BitReader):
    """Reads the fields of a unit. Raises ``IndexError`` behind the end."""

    def __init__(self, unit: bytes) -> None:
        super().__init__(_ESCAPED.sub(b"\x00\x00", unit))

    def take(self, count: int) -> int:
        value = super().take(count)
        if self.left < 0:
            raise IndexError
        return value

    def take_golomb(self) -> int:
        """Read a number in Exp-Golomb code; a signed one as its index."""
        zeros = 0
        while not self.take(1):
            zeros += 1
        return (1 << zeros) - 1 + self.take(zeros)


def _number_bits(unit: bytes) -> int | None:
    """Return the bits of a frame's number by a sequence's parameters; None if gaps are allowed."""
    bits = _Fields(unit[1:_SPS_BYTES])
    profile = bits.take(8)
    bits.take(16)
    bits.take_golomb()
    if profile in _WITH_CHROMA:
        chroma = bits.take_golomb()
        if chroma == 3 and bits.take(1):
            return None  # each colour is a picture of its own
        bits.take_golomb()
        bits.take_golomb()
        bits.take(1)
        if bits.take(1):
            _skip_scaling(bits, 12 if chroma == 3 else 8)
    size = bits.take_golomb() + 4
    order = bits.take_golomb()
    if order == 0:
        bits.take_golomb()
    elif order == 1:
        bits.take(1)
        for _ in range(2):
            bits.take_golomb()
        for _ in range(bits.take_golomb()):
            bits.take_golomb()
    bits.take_golomb()
    allows_gaps = bits.take(1)
    return None if allows_gaps else size


def _skip_scaling(bits: _Fields, lists: int) -> None:
    for index in range(lists):
        if not bits.take(1):
            continue
        last = following = 8
        for _ in range(16 if index < 6 else 64):
            if following:
                code = bits.take_golomb()
                following = (last + (code + 1) // 2 * (1 if code % 2 else -1)) % 256
            last = following or last


def _slice_number(unit: bytes, size: int) -> int:
    bits = _Fields(unit[1:_HEADER_BYTES])
    for _ in range(3):  # its first block, its type, its parameters
        bits.take_golomb()
    return bits.take(size)


def _delimited(data: bytes) -> Iterator[bytes]:
    """Yield the units of a stream with start codes, as far as their first fields."""
    for found in _START.finditer(data):
        yield data[found.end() : found.end() + _SPS_BYTES]


def _prefixed(data: bytes, size: int) -> Iterator[bytes]:
    """Yield the units of a stream with lengths, as far as their first fields."""
    at = 0
    while at + size < len(data):
        length = int.from_bytes(data[at : at + size], "big")
        at += size
        yield data[at : at + min(length, _SPS_BYTES)]
        at += length
