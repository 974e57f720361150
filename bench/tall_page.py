"""What a page far longer than wide costs ``rapidocr``, beside its strips sent singly.

``python bench/tall_page.py [ROUNDS]`` draws 149 lines on 720 x 9,000 pixels and reads the page, and
then each of the strips that it is searched in as a picture of its own: CPU seconds of one thread,
the least of ROUNDS (3) rounds that take turns.
"""

from __future__ import annotations

import logging
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

import mataserver_ocr
from mataserver import LoadContext, ModelSpec
from mataserver_ocr import strips

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

WIDTH, HEIGHT, PITCH = 720, 9000, 60


def page() -> tuple[NDArray[np.uint8], list[str]]:
    """Return the picture and its lines."""
    image = Image.new("RGB", (WIDTH, HEIGHT), "white")
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(24)
    places = range(20, HEIGHT - 40, PITCH)
    lines = [f"Entry {n:03d} total {n * 7}.50" for n in range(len(places))]
    for y, line in zip(places, lines, strict=True):
        draw.text((20, y), line, fill="black", font=font)
    return np.asarray(image), lines


def load() -> Any:
    """Return the backend as a worker with one thread has it."""
    backend = next(each for each in mataserver_ocr.backends() if each.name == "rapidocr")
    context = LoadContext(
        mataserver_ocr.settings()(), "cpu", "auto", 1, Path(), logging.getLogger("bench")
    )
    return backend.load(ModelSpec("rapidocr", "ocr", "pip"), context)


def seconds(work: Callable[[], object]) -> float:
    """Return the CPU seconds that something takes."""
    before = time.process_time()
    work()
    return time.process_time() - before


def main() -> None:
    """Print both costs and their ratio."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    model, (picture, lines) = load(), page()
    params = mataserver_ocr.RAPIDOCR.params()
    side = mataserver_ocr.settings()().rapidocr.detection_side
    parts = [
        picture[start:end]
        for start, end in strips.spans(HEIGHT, strips.strip_length(HEIGHT, WIDTH, side))
    ]
    told = [region.text for region in model.predict([picture], [params])[0].regions]
    once = sum(told.count(line) == 1 for line in lines)
    whole, single = (
        min(times)
        for times in zip(
            *(
                (
                    seconds(lambda: model.predict([picture], [params])),
                    seconds(lambda: [model.predict([part], [params]) for part in parts]),
                )
                for _ in range(rounds)
            ),
            strict=True,
        )
    )
    print(f"{len(lines)} lines, {once} of them once; {len(told)} regions; {len(parts)} strips")
    print(f"page {whole:.2f} s, strips singly {single:.2f} s: {whole / single:.2f}x")


if __name__ == "__main__":
    main()
