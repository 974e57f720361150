"""Text recognition: RapidOCR (its package includes the models), Tesseract, EasyOCR, PaddleOCR."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mataserver import Backend, hookimpl
from mataserver_ocr import easyocr, paddleocr, rapidocr, tesseract
from mataserver_ocr.options import Settings

if TYPE_CHECKING:
    from collections.abc import Iterable


@hookimpl
def settings() -> type[Settings]:
    """Return the type of ``plugins.ocr``."""
    return Settings


@hookimpl
def backends() -> Iterable[Backend]:
    """Return one backend per engine."""
    return (RAPIDOCR, TESSERACT, EASYOCR, PADDLEOCR)


# Nothing is preloaded: onnxruntime starts threads at import, which no fork survives, and one list
# serves all backends of a plugin.
RAPIDOCR = Backend(
    name="rapidocr",
    task="ocr",
    source="pip",
    load=rapidocr.load,
    params=rapidocr.RapidOcrParams,
    requires=("rapidocr", "onnxruntime", "cv2"),
    packages=("rapidocr>=3.10,<4", "onnxruntime>=1.20", "opencv-python-headless>=4.10,<5"),
    # Otherwise onnxruntime records usage in the user's home and may report it.
    environment=(("ORT_DISABLE_TELEMETRY", "1"),),
    default=True,
)

TESSERACT = Backend(
    name="tesseract",
    task="ocr",
    source="pip",
    load=tesseract.load,
    params=tesseract.TesseractParams,
    requires=("pytesseract", "PIL"),
    packages=("pytesseract>=0.3.13",),  # pillow, which it brings along, is the core's already
    system_binary="tesseract",
    # Tesseract's OpenMP threads contend with each other; one is several times faster.
    environment=(("OMP_THREAD_LIMIT", "1"),),
)

EASYOCR = Backend(
    name="easyocr",
    task="ocr",
    source="pip",
    load=easyocr.load,
    params=easyocr.EasyOcrParams,
    requires=("easyocr", "torch", "cv2"),
    gpu=True,
    packages=("easyocr>=1.7.2,<2",),
    confined=False,  # it downloads weights into the user's home
)

PADDLEOCR = Backend(
    name="paddleocr",
    task="ocr",
    source="pip",
    load=paddleocr.load,
    params=paddleocr.PaddleOcrParams,
    requires=("paddle", "paddleocr"),
    gpu=True,
    packages=("paddlepaddle>=3.3,<4", "paddleocr>=3.7,<4"),
    environment=paddleocr.ENVIRONMENT,
    confined=False,  # it downloads weights into the user's home
)
