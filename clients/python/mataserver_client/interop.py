"""Answers in the forms of other libraries: supervision's ``Detections`` and COCO's JSON.

numpy, Pillow and supervision are imported when they are used.
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, Any

from msgspec import UNSET, UnsetType

from mataserver_client.pixels import mask_array

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    import numpy as np
    import supervision
    from numpy.typing import NDArray

    from mataserver_client.results import Detection, InferResponse, Segment

    Mask = NDArray[np.bool_]

_CLASS_ID_BITS = 0x7FFF_FFFF
_CHUNK, _SIGN, _MORE, _FIRST = 0x1F, 0x10, 0x20, 48


def to_supervision(
    response: InferResponse, classes: Sequence[str] | None = None
) -> supervision.Detections:
    """Return the detections or segments of an answer as ``supervision.Detections`` of length n.

    ``xyxy`` float32 ``[n, 4]`` in pixels, ``confidence`` float32 ``[n]``, ``class_id`` int ``[n]``,
    ``data["class_name"]`` the labels; ``mask`` bool ``[n, H, W]`` where the answer has masks (an
    empty mask for a segment without one), ``tracker_id`` int ``[n]`` where it has ids of tracks
    (-1 without one).

    ``class_id`` is the label's place in ``classes``; without ``classes`` it is a number made of the
    label alone (CRC-32), so that a label has one id, and one colour, in all answers.

    Raises ``ImportError`` when supervision is not installed, and ``ValueError`` for an answer that
    holds neither detections nor segments, or a label that is not in ``classes``.
    """
    try:
        import supervision
    except ImportError as error:
        raise ImportError("to_supervision needs supervision: pip install supervision") from error
    import numpy as np

    items = _items(response)
    labels = [item.label for item in items]
    return supervision.Detections(
        xyxy=np.array([item.bbox for item in items], np.float32).reshape(-1, 4),
        confidence=np.array([item.confidence for item in items], np.float32),
        class_id=np.array([_class_id(label, classes) for label in labels], int),
        mask=_masks(items),
        tracker_id=_track_ids(items),
        data={"class_name": np.array(labels, str)},
    )


def to_coco(
    answers: Iterable[tuple[int, InferResponse]],
    categories: Mapping[str, int] | None = None,
    *,
    compressed: bool = True,
) -> list[dict[str, Any]]:
    """Return what was found on some images as entries of COCO's JSON.

    ``answers`` are pairs of an image's id and its answer, ``categories`` the ids of the labels
    (``coco_categories(answers)`` unless given). Every entry has ``image_id``, ``category_id``,
    ``bbox`` as ``[x, y, width, height]`` and ``score``, as COCO's results do, and also ``id`` (from
    1), ``area`` and ``iscrowd``, as its annotations do. A mask becomes ``segmentation``: run
    lengths, as COCO's text or, with ``compressed`` False, as a list of numbers. The id of a track
    is kept as ``track_id``.

    Raises ``ValueError`` for an answer that holds neither detections nor segments, and for a label
    that is not in ``categories``.
    """
    pairs = list(answers)
    known = coco_categories(pairs) if categories is None else categories
    entries: list[dict[str, Any]] = []
    for image_id, response in pairs:
        for item in _items(response):
            if item.label not in known:
                raise ValueError(f"the label {item.label!r} is not among the categories")
            found = {"id": len(entries) + 1, "image_id": image_id, "category_id": known[item.label]}
            entries.append(found | _coco_shape(item, compressed=compressed))
    return entries


def coco_categories(answers: Iterable[tuple[int, InferResponse]]) -> dict[str, int]:
    """Return the labels of all answers, in alphabetical order, with category ids from 1."""
    labels = {item.label for _, response in answers for item in _items(response)}
    return {label: number for number, label in enumerate(sorted(labels), 1)}


def run_lengths(mask: Mask) -> list[int]:
    """Return COCO's run lengths of a mask ``[H, W]``, read column by column.

    Runs of zeros and ones alternate, zeros first: a mask that begins with a one begins with a run
    of length 0.
    """
    import numpy as np

    pixels = np.asarray(mask, bool).ravel(order="F")
    changes = np.flatnonzero(pixels[1:] != pixels[:-1]) + 1
    runs = np.diff(changes, prepend=0, append=pixels.size)
    return [0] * bool(pixels.size and pixels[0]) + [int(run) for run in runs]


def compress(counts: Sequence[int]) -> str:
    """Return run lengths as the text that COCO's tools read.

    From the fourth on each run is the difference to the one before the last. A number is written in
    pieces of five bits, lowest first; 32 is added to a piece that is not its last, and 48 to every
    one, which makes it a printable character. The fifth bit of the last piece is the sign.
    """
    pieces: list[str] = []
    for place, count in enumerate(counts):
        rest = count - counts[place - 2] if place > 2 else count
        more = True
        while more:
            piece = rest & _CHUNK
            rest >>= 5
            more = rest != (-1 if piece & _SIGN else 0)
            pieces.append(chr(piece + (_MORE if more else 0) + _FIRST))
    return "".join(pieces)


def _items(response: InferResponse) -> Sequence[Detection | Segment]:
    for items in (response.detections, response.segments):
        if not isinstance(items, UnsetType):
            return items
    raise ValueError(f"an answer of the task {response.task} holds no detections and no segments")


def _class_id(label: str, classes: Sequence[str] | None) -> int:
    if classes is None:
        return zlib.crc32(label.encode()) & _CLASS_ID_BITS
    if label not in classes:
        raise ValueError(f"the label {label!r} is not among the classes")
    return classes.index(label)


def _mask(item: Detection | Segment) -> Mask | None:
    mask = getattr(item, "mask", UNSET)
    return None if mask is UNSET else mask_array(item)  # type: ignore[arg-type] # a Segment


def _masks(items: Sequence[Detection | Segment]) -> Mask | None:
    """Return the masks ``[n, H, W]``, or None when no item has one."""
    import numpy as np

    masks = [_mask(item) for item in items]
    first = next((mask for mask in masks if mask is not None), None)
    if first is None:
        return None
    return np.stack([np.zeros_like(first) if mask is None else mask for mask in masks])


def _track_ids(items: Sequence[Detection | Segment]) -> NDArray[np.int_] | None:
    """Return the ids of the tracks ``[n]``, or None when no item has one."""
    import numpy as np

    ids = [getattr(item, "track_id", UNSET) for item in items]
    if all(number is UNSET for number in ids):
        return None
    return np.array([-1 if number is UNSET else number for number in ids], int)


def _coco_shape(item: Detection | Segment, *, compressed: bool) -> dict[str, Any]:
    x1, y1, x2, y2 = item.bbox
    shape = {
        "bbox": [x1, y1, x2 - x1, y2 - y1],
        "score": item.confidence,
        "area": (x2 - x1) * (y2 - y1),
        "iscrowd": 0,
    }
    mask = _mask(item)
    if mask is not None:
        counts = run_lengths(mask)
        shape["area"] = float(mask.sum())
        shape["segmentation"] = {
            "size": [int(side) for side in mask.shape],
            "counts": compress(counts) if compressed else counts,
        }
    track_id = getattr(item, "track_id", UNSET)
    return shape if track_id is UNSET else {**shape, "track_id": track_id}
