"""The settings of the plugin: ``plugins.ocr`` in the configuration."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

from mataserver import Confidence

Codes = Annotated[str, Meta(min_length=1, max_length=64)]
_LONGEST_STEP, _SPARE = 3_600.0, 10.0
"""Seconds: what a model may ask for at most, and what it needs beside its picture."""
Readers = Annotated[int, Meta(ge=1, le=32)]


class RapidOcrSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``plugins.ocr.rapidocr``.

    max_side:       longer images, and longer strips of long pages, are scaled down to this many
                    pixels before they are read; large pages are also searched in tiles.
    detection_side: the search for lines runs at this size at most; more finds smaller text, slowly.
    min_confidence: lines below it (0 to 1) are left out where a request does not say.
    timeout:        seconds after which one image is given up.
    """

    max_side: Annotated[int, Meta(ge=64, le=8192)] = 2000
    detection_side: Annotated[int, Meta(ge=64, le=4096)] = 960
    min_confidence: Confidence = 0.5
    timeout: Annotated[float, Meta(gt=0, le=3600)] = 45.0


class TesseractSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``plugins.ocr.tesseract``.

    language:     used where a request names none.
    segmentation: Tesseract's page segmentation mode: 3 a page, 6 one block, 7 one line, 11 sparse.
    timeout:      seconds after which one image is given up.
    in_process:   use tesserocr, which runs the engine inside the worker: faster, above all for
                  small pictures, but a crash of the engine takes the worker with it.
    data:         tesserocr's directory of language data; the program's where it is empty.
    """

    language: Codes = "eng"
    segmentation: Annotated[int, Meta(ge=3, le=13)] = 3
    timeout: Annotated[float, Meta(gt=0, le=3600)] = 30.0
    in_process: bool = False
    data: str = ""


class EasyOcrSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``plugins.ocr.easyocr``.

    language:   used where a request names none.
    directory:  where ``model`` and ``user_network`` lie; EasyOCR's own (~/.EasyOCR) if empty.
    download:   fetch missing model files, also for a language that a request names. EasyOCR
                unpickles what it fetched, after comparing its MD5 sum.
    recogniser: "standard", or the name of one in ``user_network``: code of your own, which is run.
    readers:    how many languages stay loaded at a time.
    """

    language: Codes = "eng"
    directory: str = ""
    download: bool = False
    recogniser: Annotated[
        str, Meta(pattern="^[A-Za-z0-9_]+$", description="letters, digits and '_'")
    ] = "standard"
    readers: Readers = 3


class PaddleOcrSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``plugins.ocr.paddleocr``.

    language:       used where a request names none.
    directory:      where a directory for each model lies; PaddleX's own cache if empty.
    download:       fetch missing models, also for a language that a request names.
    size:           of the models: "medium" is PaddleOCR's own choice, smaller ones are faster.
    min_confidence: lines below it (0 to 1) are left out where a request does not say.
    readers:        how many scripts stay loaded at a time.
    """

    language: Codes = "eng"
    directory: str = ""
    download: bool = False
    size: Literal["medium", "small", "tiny"] = "medium"
    min_confidence: Confidence = 0.5
    readers: Readers = 2


class Settings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``plugins.ocr``: one section a backend."""

    rapidocr: RapidOcrSettings = RapidOcrSettings()
    tesseract: TesseractSettings = TesseractSettings()
    easyocr: EasyOcrSettings = EasyOcrSettings()
    paddleocr: PaddleOcrSettings = PaddleOcrSettings()


def step_seconds(settings: RapidOcrSettings | TesseractSettings) -> float:
    """Return how many seconds a step may take even if ``infer_timeout`` is less; 0 for no such.

    A model that is composed of an engine reads a page in one step. Only a ``timeout`` above the
    default wants more: otherwise ``infer_timeout`` could not be short.
    """
    raised = settings.timeout > type(settings)().timeout
    return min(_LONGEST_STEP, settings.timeout + _SPARE) if raised else 0.0
