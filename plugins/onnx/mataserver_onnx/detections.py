"""Reads detectors: each layout's outputs as boxes, scores and classes of one image."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mataserver import MataError
from mataserver_onnx.detr_outputs import deployed, detr, rf_detr, rt_detr, rt_detr_ultralytics
from mataserver_onnx.raw_detections import LayoutMismatchError
from mataserver_onnx.yolo_outputs import (
    end2end_obb,
    yolo_obb,
    yolo_v5,
    yolo_v8,
    yolo_v8_rows,
    yolo_v10,
    yolox,
    yolox_decoded,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from mataserver_onnx.options import LayoutName
    from mataserver_onnx.preparation import Placement
    from mataserver_onnx.raw_detections import Detections, ReadOptions

    Array = NDArray[np.float32]


def read(
    layout: LayoutName, outputs: Sequence[Array], place: Placement, options: ReadOptions
) -> Detections:
    """Read one image's outputs as ``layout`` defines them.

    Raises ``MataError`` for numbers that this layout cannot produce.
    """
    try:
        found = _READERS[layout](outputs, place, options)
    except LayoutMismatchError as error:
        raise MataError(
            f"the network's answers are not those of {layout}: {error}; state the layout under "
            "plugins.onnx.models"
        ) from None
    return found._replace(scores=found.scores.clip(0, 1)).without_inverted()


_READERS: dict[str, Callable[[Sequence[Array], Placement, ReadOptions], Detections]] = {
    "detr": detr,
    "rt-detr": rt_detr,
    "rt-detr-deploy": deployed,
    "rt-detr-ultralytics": rt_detr_ultralytics,
    "rf-detr": rf_detr,
    "rf-detr-seg": rf_detr,
    "yolo-v5": yolo_v5,
    "yolo-v5-seg": yolo_v5,
    "yolo-v6": yolo_v5,
    "yolo-v8": yolo_v8,
    "yolo-v8-rows": yolo_v8_rows,
    "yolo-seg": yolo_v8,
    "yolo-pose": yolo_v8,
    "yolo-obb": yolo_obb,
    "yolo-v10": yolo_v10,
    "yolo-v26-seg": yolo_v10,
    "yolo-v26-pose": yolo_v10,
    "yolo-v26-obb": end2end_obb,
    "yolox": yolox,
    "yolox-decoded": yolox_decoded,
}
