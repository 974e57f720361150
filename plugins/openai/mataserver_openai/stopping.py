"""Stop sequences: a text ends before the first of them, however it is cut into pieces."""

from __future__ import annotations


class Stops:
    """Takes pieces of a text and gives out what is sure to come before every stop sequence."""

    def __init__(self, sequences: tuple[str, ...]) -> None:
        self._sequences = sequences
        self._held = ""
        self.reached = False

    def add(self, piece: str) -> str:
        """Take a piece; return the text that can be given out. After a stop there is none."""
        if self.reached:
            return ""
        self._held += piece
        found = [at for each in self._sequences if (at := self._held.find(each)) >= 0]
        if found:
            self.reached = True
            return self._held[: min(found)]
        keep = max((self._begun(each) for each in self._sequences), default=0)
        given = self._held[: len(self._held) - keep]
        self._held = self._held[len(given) :]
        return given

    def rest(self) -> str:
        """Return what was held back, once the text is at its end."""
        return "" if self.reached else self._held

    def _begun(self, sequence: str) -> int:
        """Return how many characters at the end may be the beginning of ``sequence``."""
        longest = min(len(sequence) - 1, len(self._held))
        fits = (size for size in range(longest, 0, -1) if self._held.endswith(sequence[:size]))
        return next(fits, 0)
