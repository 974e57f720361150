"""Tesseract: the system's ``tesseract`` program runs once per image, through pytesseract.

The program and its language data are the system's (Debian: ``tesseract-ocr``,
``tesseract-ocr-deu``). The setting ``in_process`` runs the engine inside the worker instead.
Regions are lines; a confidence is the mean of the words' own, which the engine returns in per cent.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Annotated, Protocol

from msgspec import Meta

from mataserver import BadRequest, Confidence, Params, TextRegion, Unavailable
from mataserver_ocr import languages, regions, tesseract_program
from mataserver_ocr.options import step_seconds
from mataserver_ocr.page_model import PageModel
from mataserver_ocr.page_queue import PageQueue
from mataserver_ocr.tesseract_program import Program

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from mataserver import LoadContext, ModelSpec, OcrResult
    from mataserver_ocr.options import TesseractSettings
    from mataserver_ocr.page_queue import Clock
    from mataserver_ocr.tesseract_words import Word

    Image = NDArray[np.uint8]

MAX_SIDE = 32_767
"""Tesseract's own limit, in pixels."""
NO_LANGUAGES = frozenset({"equ", "osd"})
"""Data that Tesseract lists among its languages: for formulas, and for the direction of a page.

Read as a language, "osd" mixes the letters of all scripts.
"""
LOW_CONFIDENCE, MIN_GAIN = 0.75, 0.15
"""A page with a lower mean confidence (0 to 1) is read rotated by 180 degrees too; that result is
returned if it gains ``MIN_GAIN``. Tesseract detects lines of four directions and reads two."""


class TesseractParams(Params, frozen=True):
    """What to read.

    language:   one code, or several as in ``"eng+deu"``; the setting's where it is missing.
    confidence: lines below it are left out; all are told where it is missing.
    """

    language: Annotated[str, Meta(min_length=1, max_length=64)] | None = None
    confidence: Confidence = 0.0


class Engine(Protocol):
    """Runs Tesseract on one picture."""

    def words(self, image: Image, codes: str, clock: Clock) -> list[Word]:
        """Return the words of a picture in reading order.

        Raises ``TimeoutError`` when ``clock`` has no time left.
        """


def load(spec: ModelSpec, ctx: LoadContext) -> Tesseract:
    """Open the engine and list its languages.

    Raises ``Unavailable`` when the program, tesserocr where the settings select it, or the data of
    the configured language is missing.
    """
    del spec  # there is one model
    settings: TesseractSettings = ctx.settings.tesseract
    engine: Engine
    if settings.in_process:
        from mataserver_ocr import tesserocr

        engine, installed = tesserocr.open_engine(settings)
    else:
        engine, installed = Program(settings), tesseract_program.installed()
    model = Tesseract(settings, installed, engine)
    model.codes(settings.language)
    return model


class Tesseract(PageModel[TesseractParams]):
    """Reads text line by line with the system's Tesseract."""

    def __init__(
        self, settings: TesseractSettings, installed: frozenset[str], engine: Engine
    ) -> None:
        """Keep the parts; ``installed`` are the names of the engine's language data."""
        self.step_timeout = step_seconds(settings)
        self._pages = PageQueue(settings.timeout)
        self._settings = settings
        self._installed = installed - NO_LANGUAGES
        self._engine = engine

    def stream(
        self, image: Callable[[], Image], params: TesseractParams
    ) -> Iterator[str | OcrResult]:
        """Yield empty texts while an image is read, and last its lines in the engine's order.

        An upside-down or sideways page is read rotated; its boxes are the image's.

        Raises ``InvalidParams`` for an unknown language, ``Unavailable`` for one whose data is not
        installed, ``BadRequest`` for a picture longer than 32,767 pixels, and for one that takes
        longer than the setting ``timeout``.
        """
        codes, least = self.codes(params.language or self._settings.language), params.confidence
        yield from self._pages.stream(
            image, lambda page, clock: self._read(page, codes, least, clock)
        )

    def close(self) -> None:
        """End the page that is being read."""
        self._pages.close()

    def codes(self, given: str) -> str:
        """Return Tesseract's name of the languages ``given``, each of them installed."""
        return "+".join(dict.fromkeys(self._code(part) for part in languages.split_codes(given)))

    def _code(self, given: str) -> str:
        if given in self._installed:  # includes the user's own data, which no table contains
            return given
        language = languages.find(given)
        if language is None:
            raise languages.unknown_language(given)
        if language.tesseract not in self._installed:
            package = "tesseract-ocr-" + language.tesseract.replace("_", "-")
            raise Unavailable(
                f"Tesseract's data for {language.name} is not installed; "
                f"on Debian: apt install {package}"
            )
        return language.tesseract

    def _read(self, image: Image, codes: str, least: float, clock: Clock) -> OcrResult:
        height, width = image.shape[:2]
        if max(height, width) > MAX_SIDE:
            raise BadRequest(f"image: tesseract reads at most {MAX_SIDE} pixels a side")
        try:
            found = _lines(self._engine.words(image, codes, clock), height, width)
        except TimeoutError:
            limit = f"{self._settings.timeout:g} s"
            raise BadRequest(f"tesseract did not finish this image within {limit}") from None
        if found and clock.left and _mean_confidence(found) < LOW_CONFIDENCE:
            turned = self._read_turned(image, codes, clock)
            if _mean_confidence(turned) > _mean_confidence(found) + MIN_GAIN:
                found = turned
        return regions.result(found, least)

    def _read_turned(self, image: Image, codes: str, clock: Clock) -> list[TextRegion]:
        """Return the lines of an image read upside down; none if there is no time."""
        height, width = image.shape[:2]
        with contextlib.suppress(TimeoutError):
            words = self._engine.words(image[::-1, ::-1].copy(), codes, clock)
            return [_rotated_back(each, height, width) for each in _lines(words, height, width)]
        return []


def _mean_confidence(lines: Sequence[TextRegion]) -> float:
    """Return the mean confidence of all letters, 0 to 1."""
    letters = sum(len(line.text) for line in lines)
    return sum(len(line.text) * line.confidence for line in lines) / max(1, letters)


def _rotated_back(line: TextRegion, height: int, width: int) -> TextRegion:
    """Map a line of a picture rotated by 180 degrees to the original picture."""
    if line.bbox is None:
        return line
    x1, y1, x2, y2 = line.bbox
    return TextRegion(
        line.text, (width - x2, height - y2, width - x1, height - y1), line.confidence
    )


def _lines(words: Sequence[Word], height: int, width: int) -> list[TextRegion]:
    """Join Tesseract's words to lines."""
    lines: dict[tuple[str, ...], list[Word]] = {}
    for word in words:
        lines.setdefault(word.line, []).append(word)
    read = []
    for members in lines.values():
        corners = [corner for word in members for corner in (word.box[:2], word.box[2:])]
        box = regions.bounding_box(corners, height, width)
        if box is not None:
            text = "".join(" " * word.spaced + word.text for word in members).strip()
            mean = sum(word.confidence for word in members) / len(members)
            read.append(TextRegion(text, box, mean))
    return read
