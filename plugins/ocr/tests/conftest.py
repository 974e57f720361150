"""Fixtures of the tests: loading as a worker does, pictures of text, and the error rate."""

from __future__ import annotations

import logging
import os
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

import mataserver_ocr
from mataserver import LoadContext, ModelSpec

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PICTURES = Path(__file__).parents[3] / "examples" / "pictures"

PAGE = """\
The harbour opens at six in the morning, and the first
boats leave before the fog has lifted from the water.
Crates 14 to 27 hold 380 kg of mackerel; the rest is ice.
Please sign both copies (white and yellow) and keep one.
Questions? Call the office: 0931 555 0147, ask for Jonas.
Delivery: Tuesday, 24 November, dock B, before 10:30.
Every pallet carries a label with its number and weight.
Damaged goods go back the same day, without exception."""


def font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Return DejaVu Sans, or the font inside Pillow where it is not installed."""
    try:
        return ImageFont.truetype("DejaVuSans.ttf", size)
    except OSError:
        return ImageFont.load_default(size)


@pytest.fixture(scope="session", autouse=True)
def environment() -> Iterator[None]:
    """Set what the backends that can run here declare, as the server does in a worker."""
    before = dict(os.environ)
    for backend in mataserver_ocr.backends():
        if all(map(find_spec, backend.requires)):
            os.environ.update(backend.environment)
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(scope="session")
def load(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., object]:
    """Load a backend by name, with its settings as keywords."""

    def loaded(name: str, **settings: object) -> object:
        backend = next(b for b in mataserver_ocr.backends() if b.name == name)
        context = LoadContext(
            settings=msgspec.convert({name: settings}, mataserver_ocr.settings()),
            device="cpu",
            dtype="auto",
            threads=1,
            data_dir=tmp_path_factory.getbasetemp(),
            log=logging.getLogger("test"),
        )
        return backend.load(ModelSpec(name, backend.task, backend.source), context)

    return loaded


@pytest.fixture(scope="session")
def write() -> Callable[..., np.ndarray]:
    """Write lines of text on a picture of ``size`` (width, height) and turn it."""

    def written(
        text: str,
        *,
        size: tuple[int, int] = (640, 320),
        letters: int = 36,
        angle: float = 0,
        at: tuple[int, int] = (40, 40),
    ) -> np.ndarray:
        image = Image.new("RGB", size, (248, 248, 244))
        draw = ImageDraw.Draw(image)
        draw.multiline_text(at, text, font=font(letters), fill=(20, 20, 24), spacing=letters // 2)
        if angle:
            image = image.rotate(
                angle, Image.Resampling.BICUBIC, expand=True, fillcolor=(248, 248, 244)
            )
        pixels = np.array(image)
        pixels.flags.writeable = False  # as the frames of a worker may be
        return pixels

    return written


@pytest.fixture(scope="session")
def receipt() -> tuple[np.ndarray, str]:
    """The demo's receipt and its true text."""
    with Image.open(PICTURES / "receipt.jpg") as image:
        pixels = np.asarray(image.convert("RGB"))
    return pixels, (PICTURES / "receipt.txt").read_text(encoding="utf-8").strip()


@pytest.fixture(scope="session")
def error_rate() -> Callable[[str, str], float]:
    """Return the character error rate: edits from the read to the true text, per true letter."""

    def rate(read: str, true: str) -> float:
        row = list(range(len(true) + 1))
        for i, a in enumerate(read, start=1):
            previous, row[0] = row[0], i
            for j, b in enumerate(true, start=1):
                cost = min(previous + (a != b), row[j] + 1, row[j - 1] + 1)
                previous, row[j] = row[j], cost
        return row[-1] / len(true)

    return rate


@pytest.fixture(scope="session")
def page() -> str:
    """Lines of a page: prose, numbers and punctuation."""
    return PAGE
