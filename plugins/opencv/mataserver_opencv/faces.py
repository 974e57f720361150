"""Frontal faces with OpenCV's Haar cascade, which its package contains.

The cascade is the stump-based frontal face classifier of Lienhart and Maydt ("An Extended Set of
Haar-like Features for Rapid Object Detection", ICIP 2002) in the framework of Viola and Jones (CVPR
2001). It detects upright frontal faces and does not identify people.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Any

from msgspec import Meta, Struct

from mataserver import Confidence, Detection, DetectResult, Params, Unavailable
from mataserver_opencv.pixels import clipped

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    from mataserver import LoadContext, ModelSpec

    Image = NDArray[np.uint8]

LABEL = "face"
CASCADE = "haarcascade_frontalface_default.xml"


class Settings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``plugins.opencv``: how thoroughly the face detector searches.

    scale_factor:  step between the sizes that are tried; nearer to 1 is slower and finds more.
    min_neighbors: windows that must agree before a face is reported; more means fewer false ones.
    min_size:      side of the smallest face, in pixels of the given image.
    min_share:     the same as a share of the image's longer side; the larger of both counts. What
                   a search takes grows with the pixels over the square of that side: with 0.02 no
                   image takes longer than one of a few megapixels, and the small faces of a crowd
                   are not found. 0 searches for ``min_size`` in any.
    """

    scale_factor: Annotated[float, Meta(gt=1.0, le=2.0)] = 1.1
    min_neighbors: Annotated[int, Meta(ge=1, le=100)] = 5
    min_size: Annotated[int, Meta(ge=1, le=8192)] = 40
    min_share: Annotated[float, Meta(ge=0.0, le=1.0)] = 0.0


class FaceParams(Params, frozen=True):
    """``confidence`` (0 to 1) on the scale of ``confidence_of``, which is no probability."""

    confidence: Confidence = 0.5


def load(spec: ModelSpec, ctx: LoadContext) -> HaarFaces:
    """Read the cascade from OpenCV's package; ``ctx.threads`` limits OpenCV's own threads.

    Raises ``Unavailable`` when the installed OpenCV has no such cascade (version 5 has none).
    """
    del spec  # there is one model
    import cv2
    from cv2.data import haarcascades

    if ctx.threads:
        cv2.setNumThreads(ctx.threads)
    if not hasattr(cv2, "CascadeClassifier"):
        raise Unavailable("opencv-faces needs OpenCV 4: pip install 'opencv-python-headless<5'")
    cascade = cv2.CascadeClassifier(haarcascades + CASCADE)
    if cascade.empty():
        raise Unavailable(f"the installed OpenCV has no {CASCADE}")
    return HaarFaces(cascade, ctx.settings)


class HaarFaces:
    """Detects upright frontal faces; ``confidence`` is ``confidence_of`` the cascade's weight."""

    labels = (LABEL,)

    def __init__(self, cascade: Any, settings: Settings) -> None:
        """Keep ``cascade``, a loaded ``cv2.CascadeClassifier``."""
        self._cascade = cascade
        self._settings = settings

    def predict(self, images: Sequence[Image], params: Sequence[FaceParams]) -> list[DetectResult]:
        """Return the faces of each image, best first; an empty list where there is none."""
        return [self._faces(image, p) for image, p in zip(images, params, strict=True)]

    def _faces(self, image: Image, params: FaceParams) -> DetectResult:
        import cv2

        gray = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
        settings = self._settings
        side = max(settings.min_size, round(settings.min_share * max(gray.shape)))
        boxes, _, weights = self._cascade.detectMultiScale3(
            gray,
            scaleFactor=settings.scale_factor,
            minNeighbors=settings.min_neighbors,
            minSize=(side, side),
            outputRejectLevels=True,
        )
        detections = [
            detection
            for box, weight in zip(boxes, weights, strict=True)
            if (detection := _detection(box, float(weight), gray.shape)) is not None
            and detection.confidence >= params.confidence
        ]
        return DetectResult(sorted(detections, key=lambda d: -d.confidence))


def confidence_of(weight: float) -> float:
    """Map the cascade's weight of a face to 0..1; **not** a calibrated probability.

    ``weight`` is the sum of the votes of the last stage's weak classifiers, about -3 to 10: below
    0 most of them vote against a face, above 0 for one. The logistic function of ``weight / 2``
    keeps its order and puts the undecided vote at 0.5. The weight depends on the search settings
    too, so compare confidences of one configuration only.
    """
    return 1.0 / (1.0 + math.exp(-weight / 2.0))


def _detection(box: Any, weight: float, shape: tuple[int, ...]) -> Detection | None:
    x, y, width, height = (float(value) for value in box)
    inside = clipped((x, y, x + width, y + height), shape[0], shape[1])
    return None if inside is None else Detection(LABEL, confidence_of(weight), inside)
