"""PaddleOCR: PP-OCR models on PaddlePaddle, a line detector and a recogniser per script.

The models for a language are PaddleOCR 3.7's own choice: PP-OCRv6 for Chinese, Japanese and Latin
letters, PP-OCRv5 for other scripts. Its package does not contain them. Their presence is checked
before PaddleOCR is called, which would try four servers for half a minute; without the setting
``download`` nothing accesses the network. Its steps for rotated and warped pages are not used.
"""

from __future__ import annotations

import logging
import os
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

from msgspec import Meta

from mataserver import (
    Confidence,
    InvalidParams,
    Params,
    TextRegion,
    Unavailable,
    physical_cores,
)
from mataserver_ocr import languages, regions
from mataserver_ocr.page_model import PageModel

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import numpy as np
    from numpy.typing import NDArray

    from mataserver import LoadContext, ModelSpec, OcrResult
    from mataserver_ocr.options import PaddleOcrSettings

    Image = NDArray[np.uint8]

ENVIRONMENT = (
    # Without it PaddleX checks whether its servers are reachable when a model is missing.
    ("PADDLE_PDX_DISABLE_MODEL_SOURCE_CHECK", "True"),
    # With a lower limit, which the server may inherit from a shell, Paddle's CPU kernels skip the
    # work of the threads that they were refused: occasionally a line is not found.
    ("OMP_THREAD_LIMIT", "2147483647"),
)

CACHE = "PADDLE_PDX_CACHE_HOME"


class PaddleOcrParams(Params, frozen=True):
    """What to read; the settings say it where it is missing.

    language:   one code, or several of one script (English goes with all) as ``"kor+eng"``.
    confidence: lines below it are left out; the setting ``min_confidence``.
    """

    language: Annotated[str, Meta(min_length=1, max_length=64)] | None = None
    confidence: Confidence | None = None


class Models(NamedTuple):
    """The names of PaddleOCR's models for a script."""

    detector: str
    recogniser: str


def models_of(recogniser: str, size: str) -> Models:
    """Return the models of a script; ``recogniser`` is the language table's name for it."""
    if recogniser == languages.MULTILINGUAL:
        return Models(f"PP-OCRv6_{size}_det", f"PP-OCRv6_{size}_rec")
    detector = "server" if size == "medium" else "mobile"
    return Models(f"PP-OCRv5_{detector}_det", f"{recogniser}_PP-OCRv5_mobile_rec")


def recogniser_for(codes: str) -> str:
    """Return the one recogniser that reads all of ``codes``.

    Raises ``InvalidParams`` for a language that is unknown, that PaddleOCR does not support, or
    that needs another recogniser than the rest. English letters are in every one.
    """
    needed: dict[str, None] = {}
    for code in languages.split_codes(codes):
        language = languages.find(code)
        if language is None:
            raise languages.unknown_language(code)
        if language.paddleocr is None:
            raise InvalidParams(f"params.language: paddleocr does not read {language.name}")
        if language.iso != "en":
            needed[language.paddleocr] = None
    if len(needed) > 1:
        raise InvalidParams(
            "params.language: paddleocr cannot read these languages together; English goes with "
            "every one, others with those of their own script"
        )
    return next(iter(needed), languages.MULTILINGUAL)


def load(spec: ModelSpec, ctx: LoadContext) -> PaddleOcr:
    """Open the models of the configured language on ``ctx.device`` with ``ctx.threads`` threads.

    Raises ``Unavailable`` for a device or a model that is missing.
    """
    del spec  # there is one model
    settings: PaddleOcrSettings = ctx.settings.paddleocr
    wanted = models_of(recogniser_for(settings.language), settings.size)
    _check_present(wanted, settings)  # before the import, which takes seconds
    device = choose_device(ctx.device, import_module("paddle"))
    engine = import_module("paddleocr")
    logging.getLogger("paddlex").setLevel(logging.WARNING)  # it logs each path that it opens
    return PaddleOcr(engine, settings, device, ctx.threads or physical_cores())


def choose_device(wanted: str, paddle: Any) -> str:
    """Return Paddle's name of "auto", "cpu", "cuda" or "cuda:N".

    Raises ``Unavailable`` for a GPU that ``paddle`` does not find.
    """
    gpus = paddle.device.cuda.device_count() if paddle.is_compiled_with_cuda() else 0
    if wanted == "cpu" or (wanted == "auto" and not gpus):
        return "cpu"
    number = wanted.removeprefix("cuda").removeprefix(":") if wanted != "auto" else ""
    if not (number or "0").isdecimal() or int(number or 0) >= gpus:
        raise Unavailable(f"the device {wanted!r} was asked for, but paddle does not find it here")
    return f"gpu:{number or 0}"


class PaddleOcr(PageModel[PaddleOcrParams]):
    """A few pipelines, one per script, opened when a language is first used."""

    def __init__(self, engine: Any, settings: PaddleOcrSettings, device: str, threads: int) -> None:
        """Open the configured language; ``engine`` is the module ``paddleocr``."""
        self._engine = engine
        self._settings = settings
        self._device = device
        self._threads = threads
        self._pipeline = lru_cache(settings.readers)(self._open)
        self._pipeline(recogniser_for(settings.language))

    def stream(self, image: Callable[[], Image], params: PaddleOcrParams) -> Iterator[OcrResult]:
        """Yield the lines of an image in reading order.

        Raises ``InvalidParams`` for a language that is unknown, unsupported, or cannot be combined
        with another, and ``Unavailable`` when its models are missing.
        """
        script = recogniser_for(params.language or self._settings.language)
        yield self._read(image(), script, self._min_confidence(params))

    def close(self) -> None:
        """Free the models."""
        self._pipeline.cache_clear()

    def _min_confidence(self, params: PaddleOcrParams) -> float:
        return self._settings.min_confidence if params.confidence is None else params.confidence

    def _read(self, image: Image, name: str, least: float) -> OcrResult:
        import numpy as np

        height, width = image.shape[:2]
        [page] = self._pipeline(name).predict(np.ascontiguousarray(image[:, :, ::-1]))
        quads = np.asarray(page["rec_polys"], dtype=float).reshape(-1, 4, 2)
        heights = np.linalg.norm(quads[:, 3] - quads[:, 0], axis=1)
        lengths = np.linalg.norm(quads[:, 1] - quads[:, 0], axis=1)
        middles = quads.mean(axis=1).tolist()
        order = regions.reading_order(
            middles,
            heights.tolist(),
            lengths.tolist(),
            right_to_left=name == languages.ARABIC,
        )
        read = [
            TextRegion(text, box, min(max(float(page["rec_scores"][i]), 0.0), 1.0))
            for i in order
            if (text := page["rec_texts"][i].strip())
            and (box := regions.bounding_box(quads[i].tolist(), height, width)) is not None
        ]
        return regions.result(read, least)

    def _open(self, name: str) -> Any:
        wanted = models_of(name, self._settings.size)
        _check_present(wanted, self._settings)
        places = [_model_directory(each, self._settings) for each in wanted]
        detector, recogniser = (str(each) if each.is_dir() else None for each in places)
        return self._engine.PaddleOCR(
            text_detection_model_name=wanted.detector,
            text_detection_model_dir=detector,
            text_recognition_model_name=wanted.recogniser,
            text_recognition_model_dir=recogniser,
            text_rec_score_thresh=0.0,  # the request's confidence is applied instead
            use_doc_orientation_classify=False,
            use_doc_unwarping=False,
            use_textline_orientation=False,
            device=self._device,
            cpu_threads=self._threads,
        )


def _model_directory(model: str, settings: PaddleOcrSettings) -> Path:
    """Return the directory of a model, whether it exists or not."""
    if settings.directory:
        return Path(settings.directory) / model
    home = os.environ.get(CACHE)
    return (Path(home) if home else Path.home() / ".paddlex") / "official_models" / model


def _check_present(wanted: Models, settings: PaddleOcrSettings) -> None:
    missing = [model for model in wanted if not _model_directory(model, settings).is_dir()]
    if missing and not settings.download:
        raise Unavailable(
            f"paddleocr needs the model {' and '.join(missing)}: set "
            "plugins.ocr.paddleocr.download to true, or put it into the model directory"
        )
