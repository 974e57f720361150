"""RapidOCR: PP-OCR models on ONNX Runtime, from the files inside its package (Apache-2.0).

It loads the detector and the recogniser of PP-OCRv6 (small) without any network. The models'
classifier of upside-down lines is left out: on tilted pages it turned lines that stood upright.
So text that stands on its head is not read; lines turned clockwise, up to 90 degrees, are.
The backend runs on the CPU whatever ``device`` says.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from msgspec import Meta

from mataserver import InvalidParams, Params, TextRegion, Unavailable
from mataserver_ocr import languages, regions

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    from mataserver import LoadContext, ModelSpec, OcrResult
    from mataserver_ocr.options import RapidOcrSettings

    Image = NDArray[np.uint8]

DETECTOR = "PP-OCRv6_det_small.onnx"
RECOGNISER = "PP-OCRv6_rec_small.onnx"
MIN_SIDE = 32
MAX_RATIO = 8
"""A picture is padded until its long side is at most this many times the short one."""


class RapidOcrParams(Params, frozen=True):
    """``language``: checked against what the models read; they tell languages apart themselves."""

    language: Annotated[str, Meta(min_length=1, max_length=64)] | None = None


def load(spec: ModelSpec, ctx: LoadContext) -> RapidOcr:
    """Open both networks on the CPU with ``ctx.threads`` threads.

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
    if not all((models / name).is_file() for name in (DETECTOR, RECOGNISER)):
        raise Unavailable("this RapidOCR lacks its models: pip install 'rapidocr>=3.10,<4'")
    settings: RapidOcrSettings = ctx.settings.rapidocr
    engine = rapidocr.RapidOCR(params=_options(models, settings, ctx.threads))
    _open_networks(engine)
    return RapidOcr(engine, settings.max_side)


def _options(models: Path, settings: RapidOcrSettings, threads: int) -> dict[str, Any]:
    return {
        "Global.use_cls": False,
        "Global.log_level": "error",
        "Global.text_score": settings.min_confidence,
        # Sizes are settled in _fitted: RapidOCR's own steps misplace boxes on very long pictures.
        "Global.use_preprocess_img": False,
        "Global.use_vertical_padding": False,
        # A model with a path is opened as it is; one without may be looked for on the network.
        "Det.model_path": str(models / DETECTOR),
        "Det.limit_type": "max",
        "Det.limit_side_len": settings.detection_side,
        "Rec.model_path": str(models / RECOGNISER),
        # One line at a time takes half the memory of six and, on a CPU, no longer.
        "Rec.rec_batch_num": 1,
        "EngineConfig.onnxruntime.intra_op_num_threads": threads or -1,
    }


def _open_networks(engine: Any) -> None:
    """Read an empty picture: RapidOCR opens each network when it is first used."""
    import numpy as np

    blank = np.full((MIN_SIDE, 4 * MIN_SIDE, 3), 255, np.uint8)
    engine(blank, use_det=False)
    engine(blank, use_det=True)  # the switch stays where a call puts it


class RapidOcr:
    """Reads lines of text, also slanted ones; a region is a line or a piece of one."""

    def __init__(self, engine: Any, max_side: int) -> None:
        """Keep ``engine``, a ``rapidocr.RapidOCR``, and the largest side it is given, in pixels."""
        self._engine = engine
        self._max_side = max_side

    def predict(self, images: Sequence[Image], params: Sequence[RapidOcrParams]) -> list[OcrResult]:
        """Return the lines of each image in reading order.

        Raises ``InvalidParams`` for a language that the models do not read.
        """
        for one in params:
            check_language(one.language)
        return [self._read(image) for image in images]

    def _read(self, image: Image) -> OcrResult:
        height, width = image.shape[:2]
        fitted, scale = _fitted(image, self._max_side)
        found = self._engine(fitted)
        if found.boxes is None or not found.txts:
            return regions.result([])
        quads = found.boxes / scale
        order = regions.reading_order(quads.mean(axis=1).tolist(), _heights(quads))
        read = [
            TextRegion(found.txts[i], box, min(max(float(found.scores[i]), 0.0), 1.0))
            for i in order
            if (box := regions.around(quads[i].tolist(), height, width)) is not None
        ]
        return regions.result(read)


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


def _fitted(image: Image, max_side: int) -> tuple[Any, float]:
    """Return the picture as RapidOCR wants it (BGR, bounded, not too narrow) and its scale."""
    import cv2

    height, width = image.shape[:2]
    scale = min(1.0, max_side / max(height, width))
    bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    if scale < 1.0:
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        bgr = cv2.resize(bgr, size, interpolation=cv2.INTER_AREA)
    height, width = bgr.shape[:2]
    least = max(MIN_SIDE, max(height, width) // MAX_RATIO)
    below, beside = max(0, least - height), max(0, least - width)
    if below or beside:  # boxes keep their place: the padding lies below and to the right
        bgr = cv2.copyMakeBorder(bgr, 0, below, 0, beside, cv2.BORDER_REPLICATE)
    return bgr, scale


def _heights(quads: Any) -> list[float]:
    """Return the heights of the letters of ``quads`` ``[n, 4, 2]``, corners in clockwise order."""
    import numpy as np

    sides = np.linalg.norm(quads - np.roll(quads, -1, axis=1), axis=2)
    return [float(value) for value in np.minimum(sides[:, 1], sides[:, 3])]
