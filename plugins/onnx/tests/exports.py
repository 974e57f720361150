"""One small network for each family, with the outputs and the notes that its exporter writes.

Each finds the red rectangle of ``planted`` in an input of 64 x 96.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx

if TYPE_CHECKING:
    from pathlib import Path

    from mataserver_onnx.families import Family

HEIGHT, WIDTH = SIZE = (64, 96)
ANCHORS = 8 * 12 + 4 * 6 + 2 * 3
NAMES = {0: "cat", 1: "crate", 2: "person"}
LABEL, SCORE = 1, 0.9
QUERIES, MASKS, COCO = 300, 32, 91
ANGLE = 0.3
POINTS = [(0, 0), (1, 0), (0.5, 0.5), (0, 1), (1, 1)] + [(0.25, 0.75)] * 12
"""The keypoints, in parts of the rectangle: its corners, its middle, and so on to seventeen."""

_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def network(planted: Any, path: Path, family: Family, layout: str) -> Path:
    """Write the network of a family whose outputs are read as ``layout``."""
    if layout == "rt-detr-deploy":
        return planted.deployed(path, SIZE)
    pixels = {"rf-detr": "imagenet", "rf-detr-seg": "imagenet", "yolox": "bytes"}
    build = _Graph(planted, pixels.get(layout.removesuffix("-decoded")))
    if layout.startswith("rf-detr"):
        build.transformer(masks=layout.endswith("seg"))
        return build.write(path, {})
    build.yolo(layout)
    return build.write(path, notes(family, layout))


def notes(family: Family, layout: str) -> dict[str, str]:
    """What the family's exporter notes in the file."""
    if family.name in {"YOLOv6", "YOLOv7", "YOLOX"}:
        return {}
    noted = {"stride": "32", "names": str(NAMES)}
    if family.name.startswith("YOLOv5"):
        return noted
    kind = family.name.partition("-")[2]
    task = {"seg": "segment", "pose": "pose", "obb": "obb"}.get(kind, "detect")
    finished = layout in {"yolo-v10", "yolo-v26-seg", "yolo-v26-pose", "yolo-v26-obb"}
    stem = family.checkpoint.rpartition(".")[0].replace("yolo", "YOLO")
    noted |= {
        "description": f"Ultralytics {stem} model trained on coco.yaml",
        "author": "Ultralytics",
        "task": task,
        "batch": "1",
        "imgsz": str(list(SIZE)),
        "args": str({"batch": 1, "nms": finished and family.name[:6] not in {"YOLOv1", "YOLO26"}}),
    }
    if task == "pose":
        noted["kpt_shape"] = "[17, 3]"
    if family.name.startswith("YOLO26"):
        noted["end2end"] = str(finished)
    return noted


class _Graph:
    """A graph that is being built."""

    def __init__(self, planted: Any, pixels: str | None) -> None:
        self._planted = planted
        self._build = build = planted.Builder(SIZE)
        self._pixels = pixels
        if pixels == "imagenet":
            wide = build.op("Mul", "pixels", build.constant(np.reshape(_STD, (1, 3, 1, 1))))
            build.op("Add", wide, build.constant(np.reshape(_MEAN, (1, 3, 1, 1))))
        elif pixels == "bytes":
            turned = build.op("Gather", "pixels", build.constant([2, 1, 0], np.int64), axis=1)
            build.op("Mul", turned, build.constant(1 / 255))
        if pixels:
            build.nodes[-1].output[0] = "images"
        self._red = build.red()
        self._corners, self._there = build.rectangle(self._red)
        self._middle = build.centred(self._corners)

    def write(self, path: Path, metadata: dict[str, str]) -> Path:
        """Write the file."""
        saved: Path = self._build.save(path, **metadata)
        if self._pixels:
            model = onnx.load(saved)
            model.graph.input[0].name = "pixels"
            onnx.save(model, saved)
        return saved

    def yolo(self, layout: str) -> None:
        """Add the outputs of one of YOLO's layouts, or of Ultralytics' RT-DETR."""
        finished = layout in {"yolo-v10", "yolo-v26-seg", "yolo-v26-pose", "yolo-v26-obb"}
        turned, masks = layout.endswith("obb"), layout.endswith("seg")
        values = [self._box(layout, corners=finished and not turned)]
        if finished:
            values += [self._numbers([SCORE]), self._label()]
        else:
            first = [0.95] if self._rows(layout) and layout != "rt-detr-ultralytics" else []
            values.append(self._numbers([*first, *self._scores(bool(first))]))
        if layout.endswith("pose"):
            values.append(self._keypoints())
        if masks:
            values.append(self._numbers([1.0] + [0.25] * (MASKS - 1)))
        if turned:
            values.append(self._numbers([ANGLE]))
        row = self._build.op("Concat", *values, axis=1)
        self._answers(layout, row, finished=finished)
        if masks:
            self._prototypes(MASKS)

    def transformer(self, *, masks: bool) -> None:
        """Add the outputs of RF-DETR: boxes in parts, logits of 91 classes, and masks."""
        build = self._build
        logits = np.full(COCO, -6.0)
        logits[LABEL] = np.log(SCORE / (1 - SCORE))
        low = build.constant([[-6.0] * COCO])
        rise = build.op("Mul", self._there, build.constant([logits + 6.0]))
        empty = np.full((QUERIES - 1, COCO), -6.0)
        build.give(
            "dets", build.rows(self._parts(), np.full((QUERIES - 1, 4), 0.1)), ["batch", QUERIES, 4]
        )
        build.give(
            "labels", build.rows(build.op("Add", low, rise), empty), ["batch", QUERIES, COCO]
        )
        if masks:
            self._prototypes(QUERIES, "masks")

    def _box(self, layout: str, *, corners: bool) -> str:
        if layout == "rt-detr-ultralytics":
            return self._parts()
        if layout != "yolox":
            return self._corners if corners else self._middle
        build = self._build
        middle, size = (
            build.op("Gather", self._middle, build.constant(places, np.int64), axis=1)
            for places in ([0, 1], [2, 3])
        )
        steps = [build.op("Mul", each, build.constant(1 / 8)) for each in (middle, size)]
        return build.op("Concat", steps[0], build.op("Log", steps[1]), axis=1)

    def _parts(self) -> str:
        sides = [[WIDTH, HEIGHT, WIDTH, HEIGHT]]
        return self._build.op("Div", self._middle, self._build.constant(sides))

    def _numbers(self, values: list[float]) -> str:
        """Return numbers ``[batch, k]``, which are 0 where there is no rectangle."""
        return self._build.op("Mul", self._there, self._build.constant([values]))

    def _label(self) -> str:
        zero = self._numbers([0.0])
        return self._build.op("Add", zero, self._build.constant([[float(LABEL)]]))

    @staticmethod
    def _scores(shared: bool) -> list[float]:
        best = SCORE / 0.95 if shared else SCORE
        return [best if label == LABEL else 0.05 for label in NAMES]

    def _keypoints(self) -> str:
        """Return (x, y, 0.8) of each keypoint, ``[batch, 51]``."""
        turn = np.zeros((5, 3 * len(POINTS)))
        for number, (x, y) in enumerate(POINTS):
            turn[[0, 2], 3 * number] = 1 - x, x
            turn[[1, 3], 3 * number + 1] = 1 - y, y
            turn[4, 3 * number + 2] = 0.8
        both = self._build.op("Concat", self._corners, self._there, axis=1)
        return self._build.op("MatMul", both, self._build.constant(turn))

    @staticmethod
    def _rows(layout: str) -> bool:
        return layout not in {"yolo-v8", "yolo-seg", "yolo-pose", "yolo-obb"}

    def _answers(self, layout: str, row: str, *, finished: bool) -> None:
        build, width = self._build, self._width(layout)
        count = QUERIES if finished or layout == "rt-detr-ultralytics" else ANCHORS
        count *= 3 if layout.startswith("yolo-v5") else 1
        # Behind the others: what is read of it by its place is then more than the first of all.
        # YOLOX's boxes are told from their place, so there it is the first.
        rows = build.rows(row, np.zeros((count - 1, width)), last=layout != "yolox")
        name = {"yolox": "output", "yolo-v6": "outputs"}.get(layout, "output0")
        if self._rows(layout):
            build.give(name, rows, ["batch", count, width])
        else:
            columns = build.op("Transpose", rows, perm=[0, 2, 1])
            build.give(name, columns, ["batch", width, count])

    @staticmethod
    def _width(layout: str) -> int:
        kind = layout.rpartition("-")[2]
        more = {"seg": MASKS, "pose": 3 * len(POINTS), "obb": 1}.get(kind, 0)
        if layout in {"yolo-v10", "yolo-v26-seg", "yolo-v26-pose", "yolo-v26-obb"}:
            return 6 + more
        objectness = layout in {"yolo-v5", "yolo-v5-seg", "yolo-v6", "yolox", "yolox-decoded"}
        return 4 + objectness + len(NAMES) + more

    def _prototypes(self, count: int, name: str = "output1") -> None:
        """Add maps of which the first is above 0 where the input is red, and below around it."""
        build = self._build
        red = build.op("Unsqueeze", self._red, build.constant([1], np.int64))
        pooled = build.op("AveragePool", red, kernel_shape=[4, 4], strides=[4, 4])
        mask = build.op("Sub", pooled, build.constant(0.38))
        nothing = build.op("Mul", pooled, build.constant(0.0))
        maps = build.op("Concat", mask, *[nothing] * (count - 1), axis=1)
        build.give(name, maps, ["batch", count, HEIGHT // 4, WIDTH // 4])
