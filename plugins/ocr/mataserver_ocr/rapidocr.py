"""RapidOCR: PP-OCR models on ONNX Runtime, from the files inside its package (Apache-2.0).

It loads the detector and the recogniser of PP-OCRv6 (small) and PP-OCR's classifier of upside-down
lines without any network. RapidOCR's own chain of the three is not used: it squeezes a long page
into the detector's size, and follows the classifier even where it errs, as on tilted pages. Here
``strips`` finds the lines and ``turns`` reads them, whichever way they are turned.
The backend runs on the CPU whatever ``device`` says.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from msgspec import Meta

from mataserver import Confidence, InvalidParams, Params, TextRegion, Unavailable
from mataserver_ocr import languages, quads, regions, strips, turns

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mataserver import LoadContext, ModelSpec, OcrResult
    from mataserver_ocr.options import RapidOcrSettings
    from mataserver_ocr.quads import Image, Quad

DETECTOR = "PP-OCRv6_det_small.onnx"
RECOGNISER = "PP-OCRv6_rec_small.onnx"
CLASSIFIER = "ch_ppocr_mobile_v2.0_cls_mobile.onnx"
MIN_SIDE = 32
MAX_RATIO = 8
"""A picture is padded until its long side is at most this many times the short one."""


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

    onnxruntime.disable_telemetry_events()
    if ctx.threads:
        cv2.setNumThreads(ctx.threads)
    models = Path(rapidocr.__path__[0]) / "models"
    if not all((models / name).is_file() for name in (DETECTOR, RECOGNISER, CLASSIFIER)):
        raise Unavailable("this RapidOCR lacks its models: pip install 'rapidocr>=3.10,<4'")
    settings: RapidOcrSettings = ctx.settings.rapidocr
    engine = rapidocr.RapidOCR(params=_options(models, settings, ctx.threads))
    _open_networks(engine)
    return RapidOcr(engine, settings)


def _options(models: Path, settings: RapidOcrSettings, threads: int) -> dict[str, Any]:
    return {
        "Global.log_level": "error",
        # A model with a path is opened as it is; one without may be looked for on the network.
        "Det.model_path": str(models / DETECTOR),
        "Det.limit_type": "max",
        "Det.limit_side_len": settings.detection_side,
        "Cls.model_path": str(models / CLASSIFIER),
        "Rec.model_path": str(models / RECOGNISER),
        # One line at a time takes half the memory of six and, on a CPU, no longer.
        "Rec.rec_batch_num": 1,
        "EngineConfig.onnxruntime.intra_op_num_threads": threads or -1,
    }


def _open_networks(engine: Any) -> None:
    """Read an empty picture: RapidOCR opens each network when it is first used."""
    blank = np.full((MIN_SIDE, 4 * MIN_SIDE, 3), 255, np.uint8)
    engine(blank, use_det=False)
    engine(blank, use_det=True)  # without a line in it, the other two would not be reached


class RapidOcr:
    """Reads lines of text, also slanted and turned ones; a region is a line or a piece of one."""

    def __init__(self, engine: Any, settings: RapidOcrSettings) -> None:
        """``engine`` is a ``rapidocr.RapidOCR`` whose networks are open."""
        self._engine = engine
        self._settings = settings
        self._side = min(settings.detection_side, settings.max_side)
        self._reader = turns.Reader(self._recognise, self._classify)

    def predict(self, images: Sequence[Image], params: Sequence[RapidOcrParams]) -> list[OcrResult]:
        """Return the lines of each image in reading order.

        Raises ``InvalidParams`` for a language that the models do not read.
        """
        for one in params:
            check_language(one.language)
        return [
            self._read(image, self._settings.min_confidence if least is None else least)
            for image, least in zip(images, (one.confidence for one in params), strict=True)
        ]

    def _read(self, image: Image, least: float) -> OcrResult:
        height, width = image.shape[:2]
        page, scale = _scaled(image, self._side, self._settings.max_side)
        found = quads.pieces(page, strips.search(page, self._find, self._side))
        lines = self._reader.read(page, found)
        sure = [i for i, line in enumerate(lines) if line.text and line.score >= least]
        order = turns.reading_order(found[sure], [lines[i] for i in sure])
        read = [
            TextRegion(lines[i].text, box, min(max(lines[i].score, 0.0), 1.0))
            for i in (sure[each] for each in order)
            if (box := regions.around((found[i] / scale).tolist(), height, width)) is not None
        ]
        return regions.result(read)

    def _find(self, picture: Image) -> Quad:
        """Return the quads ``[n, 4, 2]`` of the lines of a picture (BGR)."""
        boxes = self._engine.text_det(_padded(picture)).boxes
        found = np.array([] if boxes is None else boxes, np.float64).reshape(-1, 4, 2)
        return quads.settled(found)

    def _recognise(self, line: Image) -> tuple[str, float]:
        read = self._engine.recognize_txt([line])
        return read.txts[0], float(read.scores[0])

    def _classify(self, lines: list[Image]) -> list[float]:
        """Return the probability of each line that it stands on its head."""
        said = self._engine.text_cls(lines).cls_res
        return [float(sure if label == "180" else 1 - sure) for label, sure in said]


def check_language(codes: str | None) -> None:
    """Raise ``InvalidParams`` unless every language of ``codes`` is one that the models read."""
    for code in languages.parts(codes) if codes is not None else ():
        language = languages.find(code)
        if language is None:
            raise languages.unknown(code)
        if not language.rapidocr:
            raise InvalidParams(
                f"params.language: rapidocr's models do not read {language.name}; "
                "they read Chinese, Japanese and languages in Latin letters"
            )


def _scaled(image: Image, side: int, max_side: int) -> tuple[Image, float]:
    """Return the picture in BGR, as the networks take it, and its scale.

    It is scaled down until none of its strips, searched at ``side``, is longer than ``max_side``.
    """
    import cv2

    height, width = image.shape[:2]
    longest = strips.length(height, width, side)
    scale = min(1.0, max_side / longest)
    bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    if scale < 1.0:
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        bgr = cv2.resize(bgr, size, interpolation=cv2.INTER_AREA)
    return np.asarray(bgr, np.uint8), scale


def _padded(picture: Image) -> Image:
    """Return a picture that is not too narrow for the detector; boxes keep their place in it."""
    import cv2

    height, width = picture.shape[:2]
    least = max(MIN_SIDE, max(height, width) // MAX_RATIO)
    below, beside = max(0, least - height), max(0, least - width)
    if not below and not beside:
        return picture
    padded = cv2.copyMakeBorder(picture, 0, below, 0, beside, cv2.BORDER_REPLICATE)
    return np.asarray(padded, np.uint8)
