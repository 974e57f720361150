"""RapidOCR: PP-OCR models on ONNX Runtime, from the files inside its package (Apache-2.0).

It loads the detector and the recogniser of PP-OCRv6 (small) and PP-OCR's classifier of upside-down
lines without network access. RapidOCR's own pipeline of the three is not used: it scales a long
page down to the detector's size, and follows the classifier even where it errs, as on tilted pages.
Here ``strips`` finds the lines and ``orientation`` reads them in any direction. The backend runs on
the CPU whatever ``device`` is.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from msgspec import Meta

from mataserver import Confidence, InvalidParams, Params, Unavailable, physical_cores
from mataserver_ocr import languages
from mataserver_ocr.options import step_seconds
from mataserver_ocr.page_model import PageModel
from mataserver_ocr.page_queue import PageQueue

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mataserver import LoadContext, ModelSpec, OcrResult
    from mataserver_ocr.options import RapidOcrSettings
    from mataserver_ocr.page_reader import PageReader
    from mataserver_ocr.quads import Image

DETECTOR = "PP-OCRv6_det_small.onnx"
RECOGNISER = "PP-OCRv6_rec_small.onnx"
CLASSIFIER = "ch_ppocr_mobile_v2.0_cls_mobile.onnx"


class RapidOcrParams(Params, frozen=True):
    """What to read.

    language:   checked against what the models read; they tell languages apart themselves.
    confidence: lines below it are left out; the setting ``min_confidence`` where it is missing.
    """

    language: Annotated[str, Meta(min_length=1, max_length=64)] | None = None
    confidence: Confidence | None = None


def load(spec: ModelSpec, ctx: LoadContext) -> RapidOcr:
    """Open the three networks on the CPU with ``ctx.threads`` threads.

    Raises ``Unavailable`` when the installed RapidOCR does not hold the models.
    """
    del spec  # there is one model
    import cv2
    import onnxruntime
    import rapidocr

    from mataserver_ocr.page_reader import PageReader

    onnxruntime.disable_telemetry_events()
    if ctx.threads:
        cv2.setNumThreads(ctx.threads)
    models = Path(rapidocr.__path__[0]) / "models"
    if not all((models / name).is_file() for name in (DETECTOR, RECOGNISER, CLASSIFIER)):
        raise Unavailable("this RapidOCR lacks its models: pip install 'rapidocr>=3.10,<4'")
    settings: RapidOcrSettings = ctx.settings.rapidocr
    engine = rapidocr.RapidOCR(params=options_of(models, settings, ctx.threads))
    return RapidOcr(PageReader(engine, settings), settings)


def options_of(models: Path, settings: RapidOcrSettings, threads: int) -> dict[str, Any]:
    """Return RapidOCR's options for networks in the folder ``models``; 0 threads are all cores."""
    return {
        "Global.log_level": "error",
        # Models without a path may be downloaded.
        "Det.model_path": str(models / DETECTOR),
        "Det.limit_type": "max",
        "Det.limit_side_len": settings.detection_side,
        "Cls.model_path": str(models / CLASSIFIER),
        "Rec.model_path": str(models / RECOGNISER),
        # One line at a time takes half the memory of six and, on a CPU, no longer.
        "Rec.rec_batch_num": 1,
        # Without a number it pins its threads to cores, which a worker may not be allowed to use.
        "EngineConfig.onnxruntime.intra_op_num_threads": threads or physical_cores(),
    }


class RapidOcr(PageModel[RapidOcrParams]):
    """The model: applies a request's language and confidence; the reader does the rest."""

    def __init__(self, reader: PageReader, settings: RapidOcrSettings) -> None:
        self.step_timeout = step_seconds(settings)
        self._pages = PageQueue(settings.timeout)
        self._reader = reader
        self._min_confidence = settings.min_confidence

    def stream(
        self, image: Callable[[], Image], params: RapidOcrParams
    ) -> Iterator[str | OcrResult]:
        """Yield empty texts while an image is read, and last its lines in reading order.

        Raises ``InvalidParams`` for a language that the models do not read, and ``BadRequest`` for
        an image that takes longer than the setting ``timeout``.
        """
        check_language(params.language)
        least = self._min_confidence if params.confidence is None else params.confidence
        yield from self._pages.stream(
            image, lambda page, clock: self._reader.read(page, least, clock)
        )

    def close(self) -> None:
        """End the page that is being read."""
        self._pages.close()


def check_language(codes: str | None) -> None:
    """Raise ``InvalidParams`` unless the models support every language of ``codes``."""
    for code in languages.split_codes(codes) if codes is not None else ():
        language = languages.find(code)
        if language is None:
            raise languages.unknown_language(code)
        if not language.rapidocr:
            raise InvalidParams(
                f"params.language: rapidocr's models do not read {language.name}; "
                "they read Chinese, Japanese and languages in Latin letters"
            )
