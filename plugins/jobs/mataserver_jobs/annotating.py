"""Draws what an ``infer`` job found, from its answers: no model is asked twice."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

from mataserver import BadRequest, decode_image, draw
from mataserver_jobs.film import RATE, Film
from mataserver_jobs.footage import MAX_PIXELS

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from mataserver_jobs.answers import Answers
    from mataserver_jobs.footage import Footage, Item
    from mataserver_jobs.kinds import Job

PART = 100
"""Items of a part: what may have to be drawn once more."""


def annotate(job: Job, footage: Footage, answers: Answers, every: int, target: Path) -> None:
    """Write the video of all items with their answers drawn in, from where an attempt stopped."""
    film = Film(job.work / "film")
    start = film.parts * PART
    pairs = zip(footage.items(start, every), answers.all(start), strict=False)
    numbered = enumerate(pairs, start)
    for number in itertools.count(film.parts):
        first = next(numbered, None)
        if first is None:
            break
        part = itertools.chain([first], itertools.islice(numbered, PART - 1))
        film.add(number, _frames(job, footage, part, answers.count))
    film.join(target)
    film.remove()


def _frames(
    job: Job,
    footage: Footage,
    pairs: Iterator[tuple[int, tuple[Item, dict[str, Any]]]],
    total: int,
) -> Iterator[tuple[NDArray[np.uint8], float]]:
    """Yield the pixels of each item that can be read, drawn in, with its time in seconds."""
    for number, (item, answer) in pairs:
        job.report("drawing", number, total, f"Drew {number} of {total}")
        try:
            pixels = decode_image(item.image, MAX_PIXELS)
        except BadRequest:  # a picture that is none; its answer says so
            continue
        if "result" in answer:
            pixels = draw(pixels, answer["result"])
        at = number / (RATE if footage.moves else 1) if item.time is None else item.time
        yield pixels, at
