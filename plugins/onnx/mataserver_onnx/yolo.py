"""The outputs of YOLO's families, and of Ultralytics' RT-DETR, told apart by shapes and metadata.

Each says for many places of a picture what is there, in rows or in columns. How many places there
are follows from the input's size and the strides; how many numbers each has, from the classes and
from what else is told of an object.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

from mataserver import MataError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mataserver_onnx.graph import Dim, Graph, Port
    from mataserver_onnx.notes import Notes
    from mataserver_onnx.options import LayoutName

    Size = tuple[int, int]

STRIDES = ((8, 16, 32), (8, 16, 32, 64), (4, 8, 16, 32))
"""The strides of the families' usual heads, those with one for large things, and for small ones."""

QUERIES = 300
"""How many answers RT-DETR gives; also how many YOLO's finished networks are exported to give."""

_MOST_FINISHED = 1000
COCO_PERSON = (17, 3)
"""The keypoints of a person in COCO, and the numbers of each; what is assumed if nothing says."""

_DOTA_CLASSES = 15


@dataclass(frozen=True, slots=True)
class Form:
    """How one layout writes its answers.

    task:    Ultralytics' name of what the networks do.
    places:  "anchors": one answer for each place; "three": three; "finished": those that are left
             after the network's own suppression; "queries": RT-DETR's.
    fixed:   how many numbers an answer has beside those of classes, masks and keypoints.
    classes: whether each class has a number of its own.
    columns: whether an answer is a column.
    others:  whether it is no export of Ultralytics', which note what they are.
    """

    task: Literal["detect", "segment", "pose", "obb"]
    places: Literal["anchors", "three", "finished", "queries"]
    fixed: int
    classes: bool = True
    columns: bool = False
    others: bool = False


FORMS: dict[LayoutName, Form] = {
    "yolo-v5": Form("detect", "three", 5),
    "yolo-v5-seg": Form("segment", "three", 5),
    "yolo-v6": Form("detect", "anchors", 5, others=True),
    "yolox": Form("detect", "anchors", 5, others=True),
    "yolox-decoded": Form("detect", "anchors", 5, others=True),
    "yolo-v8": Form("detect", "anchors", 4, columns=True),
    "yolo-seg": Form("segment", "anchors", 4, columns=True),
    "yolo-pose": Form("pose", "anchors", 4, columns=True),
    "yolo-obb": Form("obb", "anchors", 5, columns=True),
    "yolo-v10": Form("detect", "finished", 6, classes=False),
    "yolo-v26-seg": Form("segment", "finished", 6, classes=False),
    "yolo-v26-pose": Form("pose", "finished", 6, classes=False),
    "yolo-v26-obb": Form("obb", "finished", 7, classes=False),
    "rt-detr-ultralytics": Form("detect", "queries", 4),
}
"""The layouts whose answers are rows or columns of numbers."""

_TASKS = frozenset(form.task for form in FORMS.values())


class Answers(NamedTuple):
    """The outputs of such a network: the answers, and the prototypes of masks if there are any."""

    port: Port
    prototypes: Port | None

    @property
    def masks(self) -> int:
        """How many prototypes there are; 0 where there are none."""
        side = self.prototypes.dims[1] if self.prototypes is not None else 0
        return side if isinstance(side, int) else 0


def answers(graph: Graph) -> Answers | None:
    """Return the outputs that hold the answers, or None where there are none.

    YOLOv5's older exports also give the raw maps, of five dimensions, which nobody reads.
    """
    ranks = [len(port.dims) for port in graph.outputs]
    rows = [port for port in graph.outputs if len(port.dims) == 3]
    maps = [port for port in graph.outputs if len(port.dims) == 4]
    if len(rows) != 1 or len(maps) > 1 or not set(ranks) <= {3, 4, 5}:
        return None
    found = Answers(rows[0], maps[0] if maps else None)
    return found if not maps or found.masks > 1 else None


def recognise(graph: Graph, notes: Notes, size: Size | None) -> LayoutName | None:
    """Return the layout of a network for inputs of a (height, width); None if it is no such one.

    Raises ``MataError`` where two fit, and where the metadata contradicts the outputs.
    """
    if notes.own and notes.task and notes.task not in _TASKS:
        return None
    fitting = {name for name in FORMS if _fits(name, graph, notes, size)}
    kept = sorted(name for name in fitting if _told(FORMS[name], notes))
    if len(kept) == 1:
        return kept[0]
    if kept:
        raise MataError(f"{said(graph)} may be those of {' or '.join(kept)}; {STATE}")
    stated = notes.task or (notes.classes and answers(graph))
    if fitting or (notes.own and stated):
        like = f"are those of {' or '.join(sorted(fitting))}" if fitting else "are no such ones"
        raise MataError(f"its metadata says {notes}, but {said(graph)} {like}; {STATE}")
    return None


def said(graph: Graph) -> str:
    """Return the outputs of a network in words."""
    return "its outputs " + ", ".join(map(str, graph.outputs[:8]))


STATE = "state the layout under plugins.onnx.models"
"""What to do where a layout is not told."""


def tail(form: Form, found: Answers, keypoints: tuple[int, int]) -> int:
    """Return how many numbers of an answer tell of its mask or keypoints."""
    if form.task == "segment":
        return found.masks
    return keypoints[0] * keypoints[1] if form.task == "pose" else 0


def numbers(form: Form, port: Port) -> Dim:
    """Return how many numbers an answer has."""
    return port.dims[1] if form.columns else port.dims[2]


def _fits(name: LayoutName, graph: Graph, notes: Notes, size: Size | None) -> bool:
    """Whether the shapes are those of a layout, with what the metadata says of classes."""
    form, found = FORMS[name], answers(graph)
    if found is None or (form.task == "segment") != bool(found.masks):
        return False
    width = numbers(form, found.port)
    places = found.port.dims[2] if form.columns else found.port.dims[1]
    more = tail(form, found, notes.keypoints or COCO_PERSON)
    if not _places(form, places, notes, size):
        return False
    if not isinstance(width, int):  # exporters leave this side open too, of networks of any size
        told = form.places in {"finished", "queries"} and _told_all(form, notes)
        return told and (notes.classes is not None or not form.classes)
    spare = width - form.fixed - more
    if not form.classes:
        return spare == 0
    if form.places == "queries" and spare == 2 and not notes.own:
        # Ultralytics always note what they export: this is a finished YOLO of others, whose
        # numbers are looked at in every answer (detections).
        return False
    return spare == notes.classes if notes.classes else _usual(form, spare, notes)


def _usual(form: Form, classes: int, notes: Notes) -> bool:
    """Whether a network without names of classes may tell so many apart.

    Any detector has the shape of some network for poses or turned boxes. Where nothing says that
    it is one, only those count that are published: COCO's persons, and the classes of DOTA.
    """
    if notes.task == form.task or form.task in {"detect", "segment"}:
        return classes >= 1
    return classes == (1 if form.task == "pose" else _DOTA_CLASSES)


def _places(form: Form, places: Dim, notes: Notes, size: Size | None) -> bool:
    """Whether a network for inputs of a size looks at so many places."""
    if not isinstance(places, int):
        return _told_all(form, notes)
    anchors = set(_anchors(size))
    if form.places == "anchors":
        return places in anchors
    triples = {3 * each for each in anchors}
    if form.places == "three":
        return places in triples
    if form.places == "queries" and notes.family != "rt-detr":
        return places == QUERIES
    return places == QUERIES or (places <= _MOST_FINISHED and places not in anchors | triples)


def _told_all(form: Form, notes: Notes) -> bool:
    """Whether the metadata tells how a network answers whose shapes leave that open."""
    if form.places == "finished":
        return notes.own and notes.finished is True
    if form.places == "queries":
        return notes.own and notes.family == "rt-detr"
    return notes.own


def _anchors(size: Size | None) -> Iterator[int]:
    for strides in STRIDES if size else ():
        yield sum((size[0] // each) * (size[1] // each) for each in strides if size)


def _told(form: Form, notes: Notes) -> bool:
    """Whether the metadata, as far as it goes, says that it is of a form."""
    if notes.own and (form.others or notes.task not in {"", form.task}):
        return False
    if notes.family and (notes.family == "rt-detr") != (form.places == "queries"):
        return False
    if form.places == "queries":  # they repeat no box either; their files say so or do not
        return bool(notes.family) or not notes.finished
    return notes.finished in {None, form.places == "finished"}
