"""Draws what an ``infer`` job found, from its answers: no model is asked twice."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

from mataserver import BadRequest, decode_image, draw
from mataserver_jobs.item_sources import MAX_PIXELS
from mataserver_jobs.video_parts import RATE, VideoParts

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from mataserver_jobs.answers import AnswerLog
    from mataserver_jobs.item_sources import Item, ItemSource
    from mataserver_jobs.kinds import Job

PART = 100
"""Items of a part: what may have to be drawn once more."""


def annotate(job: Job, source: ItemSource, answers: AnswerLog, every: int, target: Path) -> None:
    """Write the video of all items with their answers drawn in, from where an attempt stopped."""
    video_parts = VideoParts(job.work / "film")
    start = video_parts.parts * PART
    pairs = zip(source.items(start, every), answers.all(start), strict=False)
    numbered = enumerate(pairs, start)
    for number in itertools.count(video_parts.parts):
        first = next(numbered, None)
        if first is None:
            break
        part = itertools.chain([first], itertools.islice(numbered, PART - 1))
        video_parts.add(number, _frames(job, source, part, answers.count))
    video_parts.join(target)
    video_parts.remove()


def _frames(
    job: Job,
    source: ItemSource,
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
        at = number / (RATE if source.moves else 1) if item.time is None else item.time
        yield pixels, at
