"""What Ultralytics' exporters, and YOLOv5's, note in a network's metadata."""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from mataserver_onnx.labels import noted as noted_labels

if TYPE_CHECKING:
    from mataserver_onnx.graph import Graph

    Size = tuple[int, int]

_OWN = frozenset({"stride", "task", "end2end", "kpt_shape"})
_MAKER = "ultralytics"


class Notes(NamedTuple):
    """The facts that metadata states; what it does not state is None or empty.

    own:       whether one of these exporters wrote the file.
    task:      "detect", "segment", "pose", "obb", "classify", or what it says else.
    classes:   how many names of classes there are.
    finished:  whether the network suppresses repeated boxes itself.
    family:    what the description calls it.
    keypoints: how many there are of an instance, and how many numbers each has: (x, y), or with a
               confidence.
    size:      height and width of the input.
    """

    own: bool = False
    task: str = ""
    classes: int | None = None
    finished: bool | None = None
    family: Literal["", "yolo", "rt-detr"] = ""
    keypoints: tuple[int, int] | None = None
    size: Size | None = None

    def __str__(self) -> str:
        """Return what is stated, in words."""
        stated = {
            "task": self.task,
            "names": self.classes and f"{self.classes} classes",
            "kpt_shape": self.keypoints and list(self.keypoints),
            "end2end or nms": self.finished,
            "description": self.family,
        }
        said = (f"{key} {value}" for key, value in stated.items() if value not in (None, ""))
        return ", ".join(said)


def read(graph: Graph) -> Notes:
    """Return what a network's metadata states; what cannot be understood is not stated."""
    given = graph.metadata
    makers = f"{given.get('author', '')} {given.get('description', '')}".lower()
    return Notes(
        own=not _OWN.isdisjoint(given) or _MAKER in makers,
        task=given.get("task", "").strip().lower(),
        classes=len(noted_labels(graph)) or None,
        finished=_finished(_value(given.get("end2end")), _value(given.get("args"))),
        family=_family(given.get("description", "")),
        keypoints=_pair(_value(given.get("kpt_shape"))),
        size=_pair(_value(given.get("imgsz"))),
    )


def _value(text: str | None) -> Any:
    """Return a value in Python's notation, or None."""
    try:
        return ast.literal_eval((text or "None").strip())
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        return None


def _finished(end2end: object, arguments: object) -> bool | None:
    if isinstance(arguments, dict) and arguments.get("nms") is True:
        return True
    return end2end if isinstance(end2end, bool) else None


def _family(description: str) -> Literal["", "yolo", "rt-detr"]:
    words = description.lower().replace("-", "").replace("_", "").replace(" ", "")
    if "rtdetr" in words:
        return "rt-detr"
    return "yolo" if "yolo" in words else ""


def _pair(value: object) -> tuple[int, int] | None:
    if isinstance(value, list | tuple) and len(value) == 2:
        first, second = value
        if isinstance(first, int) and isinstance(second, int) and min(first, second) > 0:
            return first, second
    return None
