"""Stop sequences: a text ends before the first of them, however it is cut into pieces."""

from __future__ import annotations


class StopSequences:
    """Takes pieces of a text and gives out what is sure to come before every stop sequence."""

    def __init__(self, sequences: tuple[str, ...]) -> None:
        self._sequences = sequences
        self._held_back = ""
        self.reached = False

    def add(self, piece: str) -> str:
        """Take a piece; return the text that can be given out. After a stop there is none."""
        if self.reached:
            return ""
        self._held_back += piece
        # The one that is complete first, as if the text came letter by letter.
        found = [
            (at + len(each), at)
            for each in self._sequences
            if (at := self._held_back.find(each)) >= 0
        ]
        if found:
            self.reached = True
            _, at = min(found)
            return self._held_back[:at]
        kept_length = max((self._partial_match_length(each) for each in self._sequences), default=0)
        given = self._held_back[: len(self._held_back) - kept_length]
        self._held_back = self._held_back[len(given) :]
        return given

    def rest(self) -> str:
        """Return what was held back, once the text is at its end."""
        return "" if self.reached else self._held_back

    def _partial_match_length(self, sequence: str) -> int:
        """Return how many characters at the end may be the beginning of ``sequence``."""
        longest = min(len(sequence) - 1, len(self._held_back))
        fits = (size for size in range(longest, 0, -1) if self._held_back.endswith(sequence[:size]))
        return next(fits, 0)
