"""The families of networks that are published as ``.onnx`` files, or exported to them.

``docs/models.md`` prints this table, and the tests build a network of each as its exporter does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from mataserver_onnx.options import LayoutName

_AGPL, _GPL, _APACHE = "AGPL-3.0", "GPL-3.0", "Apache-2.0"


class Family(NamedTuple):
    """One family of networks for one purpose.

    name:       the authors' name for it.
    layouts:    the layouts of its exports: one, or one without and one with non-maximum
                suppression inside.
    licence:    that of its published weights and code.
    checkpoint: a published one, or the definition that it can be trained from.
    stated:     whether the settings must name the layout, because the file does not tell it.
    """

    name: str
    layouts: tuple[LayoutName, ...]
    licence: str
    checkpoint: str
    stated: bool = False


def _ultralytics(name: str, stem: str, *, end2end: bool = False) -> list[Family]:
    """Return the four families of one of Ultralytics' generations."""
    kinds: dict[str, tuple[LayoutName, LayoutName]] = {
        "": ("yolo-v10", "yolo-v8"),
        "-seg": ("yolo-v26-seg", "yolo-seg"),
        "-pose": ("yolo-v26-pose", "yolo-pose"),
        "-obb": ("yolo-v26-obb", "yolo-obb"),
    }
    ends = {kind: both if end2end else both[::-1] for kind, both in kinds.items()}
    # Only detectors of YOLO12 were published.
    suffix = {kind: "yaml" if stem == "yolo12n" and kind else "pt" for kind in kinds}
    return [
        Family(name + kind, layouts, _AGPL, f"{stem}{kind}.{suffix[kind]}")
        for kind, layouts in ends.items()
    ]


FAMILIES: tuple[Family, ...] = (
    Family("YOLOv5", ("yolo-v5",), _AGPL, "yolov5s.pt"),
    Family("YOLOv5-seg", ("yolo-v5-seg",), _AGPL, "yolov5s-seg.pt"),
    Family("YOLOv6", ("yolo-v6",), _GPL, "yolov6s.pt", stated=True),
    Family("YOLOv7", ("yolo-v5",), _GPL, "yolov7.pt"),
    *_ultralytics("YOLOv8", "yolov8n"),
    Family("YOLOv9", ("yolo-v8", "yolo-v10"), _AGPL, "yolov9c.pt"),
    Family("YOLOv10", ("yolo-v10",), _AGPL, "yolov10n.pt"),
    *_ultralytics("YOLO11", "yolo11n"),
    *_ultralytics("YOLO12", "yolo12n"),
    *_ultralytics("YOLO26", "yolo26n", end2end=True),
    Family("YOLOX", ("yolox", "yolox-decoded"), _APACHE, "yolox_s.pth", stated=True),
    Family("RT-DETR of Ultralytics", ("rt-detr-ultralytics",), _AGPL, "rtdetr-l.pt"),
    Family("RT-DETR, RT-DETRv2", ("rt-detr-deploy",), _APACHE, "rtdetrv2_r18vd_120e_coco.pth"),
    Family("D-FINE", ("rt-detr-deploy",), _APACHE, "dfine_s_coco.pth"),
    Family("RF-DETR", ("rf-detr",), _APACHE, "rf-detr-nano.pth"),
    Family("RF-DETR Seg", ("rf-detr-seg",), _APACHE, "rf-detr-seg-preview.pt"),
)
"""The families, ordered by age within each line."""
