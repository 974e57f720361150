"""Reads the headers of coded pictures bit by bit."""

from __future__ import annotations


class BitReader:
    """Reads bits; zeros beyond the end, where ``left`` is below 0."""

    def __init__(self, data: bytes) -> None:
        self._value = int.from_bytes(data, "big")
        self.left = len(data) * 8

    def take(self, count: int) -> int:
        """Read a number of ``count`` bits."""
        self.left -= count
        shifted = self._value >> self.left if self.left >= 0 else self._value << -self.left
        return shifted & ((1 << count) - 1)
