"""The answers of an ``infer`` job: a line of JSON for each item, and what they come to.

The file is its own position: a line that is whole has been answered, and what follows the last one
was being written when the process died.
"""

from __future__ import annotations

import itertools
import os
from collections import Counter
from typing import TYPE_CHECKING, Any, Self

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SHOWN = 100
"""How many labels, the commonest first, a summary lists."""
FAILURES = 5
"""How many items that failed, the first ones, a summary names."""
_CHUNK = 1 << 20


class AnswerLog:
    """Lines that are appended, each once. ``count`` is how many there are."""

    def __init__(self, path: Path, *, anew: bool = False) -> None:
        self._path = path
        # Not buffered: what could not be written must not be written later.
        self._file = path.open("w+b" if anew or not path.exists() else "r+b", buffering=0)
        self.count, self._end = self._whole()
        self._back()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._file.close()

    def append(self, answer: object) -> None:
        """Write an answer, whole or not at all; it is on the disk when this returns."""
        line = memoryview(msgspec.json.encode(answer) + b"\n")
        try:
            written = 0
            while written < len(line):
                written += self._file.write(line[written:])
            os.fsync(self._file.fileno())
        except OSError:
            self._back()
            raise
        self.count += 1
        self._end += len(line)

    def _back(self) -> None:
        """Give up what follows the last whole line."""
        self._file.truncate(self._end)
        self._file.seek(self._end)

    def _whole(self) -> tuple[int, int]:
        """Return how many lines are whole, and where the last one ends."""
        count = end = place = 0
        while chunk := self._file.read(_CHUNK):
            count += chunk.count(b"\n")
            if (last := chunk.rfind(b"\n")) >= 0:
                end = place + last + 1
            place += len(chunk)
        return count, end

    def all(self, start: int = 0) -> Iterator[dict[str, Any]]:
        """Yield every answer, from the ``start``-th."""
        with self._path.open("rb") as file:
            for line in itertools.islice(file, start, None):
                yield msgspec.json.decode(line)


def summary(answers: Iterator[dict[str, Any]]) -> dict[str, Any]:
    """Return how many items there are and failed, how often each label was found, and the tracks.

    Of a classification the first, surest label counts. A track's ``frames`` is how many it was
    seen in, ``first`` and ``last`` the numbers of these. ``failures`` are the first lines with an
    ``error``.
    """
    items = failed = 0
    failures: list[dict[str, Any]] = []
    labels: Counter[str] = Counter()
    tracks: dict[int, dict[str, Any]] = {}
    for answer in answers:
        items += 1
        if "error" in answer:
            failed += 1
            if failed <= FAILURES:
                failures.append(answer)
        for found in _found(answer.get("result", {})):
            labels[str(found.get("label", ""))] += 1
            if isinstance(number := found.get("track_id"), int):
                new = {"label": found.get("label"), "frames": 0, "first": answer["index"]}
                track = tracks.setdefault(number, new)
                track["frames"] += 1
                track["last"] = answer["index"]
    return {
        "items": items,
        "failed": failed,
        "failures": failures,
        "labels": dict(labels.most_common(SHOWN)),
        "tracks": {str(number): tracks[number] for number in sorted(tracks)},
    }


def _found(result: dict[str, Any]) -> list[dict[str, Any]]:
    kinds = ("detections", "segments", "keypoints", "entities")
    things = [thing for kind in kinds for thing in result.get(kind, [])]
    return [*things, *result.get("classifications", [])[:1]]
