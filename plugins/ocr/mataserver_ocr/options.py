"""The settings of the plugin: ``plugins.ocr`` in the configuration."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from mataserver import Confidence


class RapidOcrSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``plugins.ocr.rapidocr``.

    max_side:       longer images are scaled down to this many pixels before they are read.
    detection_side: the search for lines runs at this size at most; more finds smaller text, slowly.
    min_confidence: lines below it (0 to 1) are left out.
    """

    max_side: Annotated[int, Meta(ge=64, le=8192)] = 2000
    detection_side: Annotated[int, Meta(ge=64, le=4096)] = 960
    min_confidence: Confidence = 0.5


class TesseractSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``plugins.ocr.tesseract``.

    language:     used where a request names none.
    segmentation: Tesseract's page segmentation mode: 3 a page, 6 one block, 7 one line, 11 sparse.
    timeout:      seconds after which one image is given up.
    """

    language: Annotated[str, Meta(min_length=1, max_length=64)] = "eng"
    segmentation: Annotated[int, Meta(ge=3, le=13)] = 3
    timeout: Annotated[float, Meta(gt=0, le=3600)] = 30.0


class Settings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``plugins.ocr``: one section a backend."""

    rapidocr: RapidOcrSettings = RapidOcrSettings()
    tesseract: TesseractSettings = TesseractSettings()
