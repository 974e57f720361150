"""The metadata that Ultralytics' and YOLOv5's exporters write into a network's file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from mataserver_onnx.graph import printable
from mataserver_onnx.labels import from_metadata as labels_from_metadata
from mataserver_onnx.labels import literal

if TYPE_CHECKING:
    from mataserver_onnx.graph import Graph

    Size = tuple[int, int]

_KEYS = frozenset({"stride", "task", "end2end", "kpt_shape"})
_AUTHOR = "ultralytics"
_MAX_VALUE = 2**14
"""Maximum characters of a value; the arguments of an export have some 3,000."""
_MAX_NUMBER = 8192
"""Maximum side of an image, and number of keypoints, that is believed; the settings' too."""


class ExporterMetadata(NamedTuple):
    """The facts that metadata states; others are None or empty.

    is_known_exporter: whether one of these exporters wrote the file.
    task:      "detect", "segment", "pose", "obb", "classify", or another stated one.
    classes:   the number of class names.
    end2end:   whether the network suppresses repeated boxes itself.
    family:    the family that the description names.
    keypoints: the number of keypoints of an instance, and of numbers for each: (x, y), or with a
               confidence.
    size:      height and width of the input.
    """

    is_known_exporter: bool = False
    task: str = ""
    classes: int | None = None
    end2end: bool | None = None
    family: Literal["", "yolo", "rt-detr"] = ""
    keypoints: tuple[int, int] | None = None
    size: Size | None = None

    def __str__(self) -> str:
        """Return the stated facts in words."""
        stated = {
            "task": self.task,
            "names": self.classes and f"{self.classes} classes",
            "kpt_shape": self.keypoints and list(self.keypoints),
            "end2end or nms": self.end2end,
            "description": self.family,
        }
        facts = (f"{key} {value}" for key, value in stated.items() if value not in (None, ""))
        return ", ".join(facts)


def read(graph: Graph) -> ExporterMetadata:
    """Return the facts in a network's metadata; values that cannot be parsed are left out."""
    given = graph.metadata
    makers = f"{given.get('author', '')} {given.get('description', '')}".lower()
    return ExporterMetadata(
        is_known_exporter=not _KEYS.isdisjoint(given) or _AUTHOR in makers,
        task=printable(given.get("task", "").strip().lower()),
        classes=len(labels_from_metadata(graph)) or None,
        end2end=_end2end(_value(given.get("end2end")), _value(given.get("args"))),
        family=_family(given.get("description", "")),
        keypoints=_pair(_value(given.get("kpt_shape"))),
        size=_pair(_value(given.get("imgsz"))),
    )


def _value(text: str | None) -> Any:
    return literal(text.strip()) if text and len(text) <= _MAX_VALUE else None


def _end2end(end2end: object, arguments: object) -> bool | None:
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
        if isinstance(first, int) and isinstance(second, int):
            return (first, second) if min(value) > 0 and max(value) <= _MAX_NUMBER else None
    return None
