"""QR codes with OpenCV's detectors and decoder, which need no weights.

OpenCV has two detectors. The one that detects the codes' corner marks as ArUco markers finds more
of several codes in one picture; the older one decodes more of the codes found. So the first
searches, and the second decodes, in a crop around the code, those that the first could not: on
drawn pictures of five rotated codes, 145 of 150 instead of 127 or 113.

A decoded code is labelled with its text. ``confidence`` is not a probability here: a decoded text
passed the code's own error correction and has 1.0; a code that was found but not decoded is
labelled "qr" and has 0.5. So ``confidence`` above 0.5 selects decoded codes only.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

from mataserver import Confidence, Detection, DetectResult, Params
from mataserver_opencv.character_sets import character_set
from mataserver_opencv.pixels import clipped

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    from mataserver import LoadContext, ModelSpec

    Image = NDArray[np.uint8]

UNREAD = "qr"
DECODED_CONFIDENCE = 1.0
UNREAD_CONFIDENCE = 0.5
MAX_RATIO = 8
"""The aspect ratio up to which the older detector searches too."""
MULTI_BYTE = ("utf-16-be", "gb18030", "big5", "euc_kr", "cp932")
"""Their characters often have the bytes of others in UTF-8: where stated, they are tried first."""


class QrParams(Params, frozen=True):
    """``confidence`` (0 to 1): above 0.5 leaves out the codes that cannot be read."""

    confidence: Confidence = 0.0


def load(spec: ModelSpec, ctx: LoadContext) -> QrCodes:
    """Create the detectors. They read no file; ``ctx.threads`` limits OpenCV's own threads."""
    del spec  # there is one model
    import cv2

    if ctx.threads:
        cv2.setNumThreads(ctx.threads)
    return QrCodes(cv2.QRCodeDetectorAruco(), cv2.QRCodeDetector())


class QrCodes:
    """Detects every QR code of an image, at any rotation."""

    def __init__(self, finder: Any, reader: Any) -> None:
        """Keep ``finder``, a ``cv2.QRCodeDetectorAruco``, and ``reader``, a ``QRCodeDetector``."""
        self._finder = finder
        self._reader = reader

    def predict(self, images: Sequence[Image], params: Sequence[QrParams]) -> list[DetectResult]:
        """Return the codes of each image, top to bottom; an empty list where there is none."""
        return [self._codes(image, p) for image, p in zip(images, params, strict=True)]

    def _codes(self, image: Image, params: QrParams) -> DetectResult:
        import cv2

        gray = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
        detections = [
            detection
            for text, quad in self._texts(gray)
            if (detection := _detection(text, quad, gray.shape)) is not None
            and detection.confidence >= params.confidence
        ]
        return DetectResult(sorted(detections, key=lambda d: (d.bbox[1], d.bbox[0])))

    def _texts(self, gray: Any) -> list[tuple[str, Any]]:
        """Return text and corners ``[4, 2]`` of each code; no text where it is unreadable."""
        # The older one enlarges a narrow picture to a short side of 512, which takes seconds.
        narrow = max(gray.shape) > MAX_RATIO * min(gray.shape)
        for detector in (self._finder,) if narrow else (self._finder, self._reader):
            found, quads = detector.detectMulti(gray)
            if found:
                texts = _decode(detector, gray, quads)
                return [
                    (text or self._reread(gray, quad), quad)
                    for text, quad in zip(texts, quads, strict=True)
                ]
        return []

    def _reread(self, gray: Any, quad: Any) -> str:
        """Decode one code alone, cropped with a margin, at its own size and then at twice it."""
        import cv2

        piece = _crop(gray, quad)
        if not piece.size:
            return ""
        return self._single(piece) or self._single(
            cv2.resize(piece, None, fx=2, fy=2, interpolation=cv2.INTER_CUBIC)
        )

    def _single(self, piece: Any) -> str:
        import cv2

        try:
            payload, quads, modules = self._reader.detectAndDecodeBytes(piece)
        except cv2.error:  # corners that its geometry checks refuse
            return ""
        return text_of(payload, modules) if payload and _is_central(quads, piece.shape) else ""


def text_of(payload: bytes, modules: Any = None) -> str:
    """Decode the payload of a code with those ``modules``.

    OpenCV returns a code's bytes as UTF-8 (those that are no UTF-8 it takes for ISO 8859-1, the
    standard's default). The characters of the Kanji mode, in Shift JIS, and all bytes of a code
    that states its character set it returns as they are stored. A stated multi-byte set is tried
    before UTF-8; one of single bytes after it, as it refuses hardly any text in UTF-8.
    """
    stated = None if _is_plain(payload) or modules is None else character_set(modules)
    order = (stated, "utf-8") if stated in MULTI_BYTE else ("utf-8", stated or "cp932")
    for encoding in order:
        with contextlib.suppress(UnicodeDecodeError):
            return payload.decode(encoding)
    return payload.decode("iso-8859-1")


def _is_plain(payload: bytes) -> bool:
    return payload.isascii() and b"\0" not in payload  # UTF-16 may have such bytes


def _decode(detector: Any, gray: Any, quads: Any) -> list[str]:
    """Decode every code found, to bytes: the conversion to str fails on other than UTF-8."""
    import cv2

    try:
        _, payloads, squares = detector.decodeBytesMulti(gray, quads)
    except cv2.error:  # corners that its geometry checks refuse
        return [""] * len(quads)
    if len(payloads) != len(quads):
        return [""] * len(quads)
    if len(squares) != len(payloads):  # those of unreadable codes are left out: whose is which?
        return [text_of(payload) if _is_plain(payload) else "" for payload in payloads]
    return [
        text_of(payload, modules) if payload else ""
        for payload, modules in zip(payloads, squares, strict=True)
    ]


def _crop(gray: Any, quad: Any) -> Any:
    """Crop the code from the picture, with a quarter of its size around it (contiguous)."""
    import numpy as np

    low, high = quad.min(axis=0), quad.max(axis=0)
    margin = 0.25 * float((high - low).max()) + 4
    (left, top), (right, bottom) = (
        np.maximum(corner, 0).astype(int) for corner in (low - margin, high + margin + 1)
    )
    return np.ascontiguousarray(gray[top:bottom, left:right])


def _is_central(quads: Any, shape: tuple[int, ...]) -> bool:
    """Whether the code lies in the middle of its crop, and so is not a neighbour."""
    x, y = quads.reshape(-1, 2).mean(axis=0)
    height, width = shape[:2]
    return bool(abs(x - width / 2) < width / 4 and abs(y - height / 2) < height / 4)


def _detection(text: str, quad: Any, shape: tuple[int, ...]) -> Detection | None:
    # OpenCV's corners are the middles of pixels, counted from 0; a box reaches to their edges.
    x1, y1 = (float(v) for v in quad.min(axis=0))
    x2, y2 = (float(v) + 1.0 for v in quad.max(axis=0))
    box = clipped((x1, y1, x2, y2), shape[0], shape[1])
    if box is None:
        return None
    if text:
        return Detection(text, DECODED_CONFIDENCE, box)
    return Detection(UNREAD, UNREAD_CONFIDENCE, box)
