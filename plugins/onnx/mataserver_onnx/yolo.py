"""Recognises the outputs of YOLO's families and Ultralytics' RT-DETR by shapes and metadata.

Each predicts an object for many places of a picture, in rows or in columns. The number of places
follows from the input's size and the strides; the length of each answer from the classes and the
extra numbers of an object.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

from mataserver import MataError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mataserver_onnx.exporter_metadata import ExporterMetadata
    from mataserver_onnx.graph import Dim, Graph, Port
    from mataserver_onnx.options import LayoutName

    Size = tuple[int, int]

STRIDES = ((8, 16, 32), (8, 16, 32, 64), (4, 8, 16, 32))
"""The strides of the usual heads, those with one for large objects, and for small ones."""

QUERIES = 300
"""The number of RT-DETR's answers; also the usual number of YOLO's end-to-end networks."""

_MAX_END2END = 1000
COCO_PERSON = (17, 3)
"""COCO's keypoints of a person, and the numbers of each; the default without metadata."""

_DOTA_CLASSES = 15


@dataclass(frozen=True, slots=True)
class Form:
    """How one layout arranges its answers.

    task:          Ultralytics' name of the networks' task.
    places:        "anchors": one answer per place; "three": three; "end2end": those left after the
                   network's own suppression; "queries": RT-DETR's.
    fixed:         the numbers of an answer besides those of classes, masks and keypoints.
    has_classes:   whether each class has a number of its own.
    in_columns:    whether an answer is a column.
    is_foreign:    whether it is not from Ultralytics' exporters, which always write metadata. Such
                   a layout must be stated, as its rows look like those of others.
    """

    task: Literal["detect", "segment", "pose", "obb"]
    places: Literal["anchors", "three", "end2end", "queries"]
    fixed: int
    has_classes: bool = True
    in_columns: bool = False
    is_foreign: bool = False


FORMS: dict[LayoutName, Form] = {
    "yolo-v5": Form("detect", "three", 5),
    "yolo-v5-seg": Form("segment", "three", 5),
    "yolo-v6": Form("detect", "anchors", 5, is_foreign=True),
    "yolox": Form("detect", "anchors", 5, is_foreign=True),
    "yolox-decoded": Form("detect", "anchors", 5, is_foreign=True),
    "yolo-v8": Form("detect", "anchors", 4, in_columns=True),
    "yolo-v8-rows": Form("detect", "anchors", 4, is_foreign=True),
    "yolo-seg": Form("segment", "anchors", 4, in_columns=True),
    "yolo-pose": Form("pose", "anchors", 4, in_columns=True),
    "yolo-obb": Form("obb", "anchors", 5, in_columns=True),
    "yolo-v10": Form("detect", "end2end", 6, has_classes=False),
    "yolo-v26-seg": Form("segment", "end2end", 6, has_classes=False),
    "yolo-v26-pose": Form("pose", "end2end", 6, has_classes=False),
    "yolo-v26-obb": Form("obb", "end2end", 7, has_classes=False),
    "rt-detr-ultralytics": Form("detect", "queries", 4),
}
"""The layouts whose answers are rows or columns of numbers."""

_TASKS = frozenset(form.task for form in FORMS.values())


class YoloOutputs(NamedTuple):
    """The outputs of such a network: the answers, and the prototypes of masks if there are any."""

    port: Port
    prototypes: Port | None

    @property
    def masks(self) -> int:
        """The number of prototypes; 0 without any."""
        side = self.prototypes.dims[1] if self.prototypes is not None else 0
        return side if isinstance(side, int) else 0


def find_outputs(graph: Graph) -> YoloOutputs | None:
    """Return the outputs that hold the answers, or None where there are none.

    YOLOv5's older exports also return the raw maps, of five dimensions, which are ignored.
    """
    ranks = [len(port.dims) for port in graph.outputs]
    rows = [port for port in graph.outputs if len(port.dims) == 3]
    maps = [port for port in graph.outputs if len(port.dims) == 4]
    if len(rows) != 1 or len(maps) > 1 or not set(ranks) <= {3, 4, 5}:
        return None
    found = YoloOutputs(rows[0], maps[0] if maps else None)
    return found if not maps or found.masks > 1 else None


def recognise(graph: Graph, metadata: ExporterMetadata, size: Size | None) -> LayoutName | None:
    """Return the layout of a network for inputs of a (height, width); None for other networks.

    Raises ``MataError`` where two fit, and where the metadata contradicts the outputs.
    """
    if metadata.is_known_exporter and metadata.task and metadata.task not in _TASKS:
        return None
    fitting = {name for name in FORMS if _fits(name, graph, metadata, size)}
    kept = sorted(name for name in fitting if _metadata_allows(FORMS[name], metadata))
    if len(kept) == 1 and not FORMS[kept[0]].is_foreign:
        return kept[0]
    if kept:
        raise MataError(
            f"{describe_outputs(graph)} may be those of {' or '.join(kept)}; {STATE_HINT}"
        )
    stated = metadata.task or (metadata.classes and find_outputs(graph))
    if fitting or (metadata.is_known_exporter and stated):
        like = f"are those of {' or '.join(sorted(fitting))}" if fitting else "are no such ones"
        raise MataError(
            f"its metadata says {metadata}, but {describe_outputs(graph)} {like}; {STATE_HINT}"
        )
    return None


def describe_outputs(graph: Graph) -> str:
    """Return the outputs of a network in words."""
    return "its outputs " + ", ".join(map(str, graph.outputs[:8]))


STATE_HINT = "state the layout under plugins.onnx.models"
"""What to do where a layout is not recognised."""


def tail(form: Form, found: YoloOutputs, keypoints: tuple[int, int]) -> int:
    """Return how many trailing numbers of an answer belong to its mask or keypoints."""
    if form.task == "segment":
        return found.masks
    return keypoints[0] * keypoints[1] if form.task == "pose" else 0


def answer_width(form: Form, port: Port) -> Dim:
    """Return the number of numbers of an answer."""
    return port.dims[1] if form.in_columns else port.dims[2]


def _fits(name: LayoutName, graph: Graph, metadata: ExporterMetadata, size: Size | None) -> bool:
    """Whether the shapes are those of a layout with the metadata's number of classes."""
    form, found = FORMS[name], find_outputs(graph)
    if found is None or (form.task == "segment") != bool(found.masks):
        return False
    width = answer_width(form, found.port)
    places = found.port.dims[2] if form.in_columns else found.port.dims[1]
    more = tail(form, found, metadata.keypoints or COCO_PERSON)
    if not _fits_places(form, places, metadata, size):
        return False
    if not isinstance(width, int):  # exports of networks of any size leave this side open too
        told = form.places in {"end2end", "queries"} and _metadata_suffices(form, metadata)
        return told and (metadata.classes is not None or not form.has_classes)
    spare = width - form.fixed - more
    if not form.has_classes:
        return spare == 0
    if form.places == "queries" and spare == 2 and not metadata.is_known_exporter:
        # Ultralytics' exports always have metadata: this is another exporter's end-to-end YOLO,
        # whose numbers are checked in every answer (detections).
        return False
    return spare == metadata.classes if metadata.classes else _is_usual_count(form, spare, metadata)


def _is_usual_count(form: Form, classes: int, metadata: ExporterMetadata) -> bool:
    """Whether a network without class names may have so many classes.

    Any detector has the shape of some network for poses or rotated boxes. Without metadata, only
    published ones count: COCO's persons, and the classes of DOTA.
    """
    if metadata.task == form.task or form.task in {"detect", "segment"}:
        return classes >= 1
    return classes == (1 if form.task == "pose" else _DOTA_CLASSES)


def _fits_places(form: Form, places: Dim, metadata: ExporterMetadata, size: Size | None) -> bool:
    """Whether a network for inputs of a size has so many places."""
    if not isinstance(places, int):
        return _metadata_suffices(form, metadata)
    anchors = set(_anchors(size))
    if form.places == "anchors":
        return places in anchors
    triples = {3 * each for each in anchors}
    if form.places == "three":
        return places in triples
    if form.places == "queries" and metadata.family != "rt-detr":
        return places == QUERIES
    return places == QUERIES or (places <= _MAX_END2END and places not in anchors | triples)


def _metadata_suffices(form: Form, metadata: ExporterMetadata) -> bool:
    """Whether the metadata identifies the answers where the shapes leave them open."""
    if form.places == "end2end":
        return metadata.is_known_exporter and metadata.end2end is True
    if form.places == "queries":
        return metadata.is_known_exporter and metadata.family == "rt-detr"
    return metadata.is_known_exporter


def _anchors(size: Size | None) -> Iterator[int]:
    for strides in STRIDES if size else ():
        yield sum((size[0] // each) * (size[1] // each) for each in strides if size)


def _metadata_allows(form: Form, metadata: ExporterMetadata) -> bool:
    """Whether the metadata does not contradict a form."""
    if metadata.is_known_exporter and (form.is_foreign or metadata.task not in {"", form.task}):
        return False
    if metadata.family and (metadata.family == "rt-detr") != (form.places == "queries"):
        return False
    if form.places == "queries":  # end-to-end as well; their metadata may or may not state it
        return bool(metadata.family) or not metadata.end2end
    return metadata.end2end in {None, form.places == "end2end"}
