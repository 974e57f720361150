"""Answers of a model to tensors. Runs beside the event loop: it walks results."""

from __future__ import annotations

import io
import struct
from functools import cached_property
from itertools import chain, repeat
from typing import TYPE_CHECKING, Any

import msgspec

from mataserver import BadRequest, OutOfMemory
from mataserver_oip import tensor
from mataserver_oip.tensor import Tensor

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

MAX_BYTES = 256_000_000
"""The largest tensor of an answer, in bytes."""

_ITEMS = {
    "classify": "classifications",
    "detect": "detections",
    "ocr": "regions",
    "pose": "keypoints",
    "segment": "segments",
    "track": "detections",
}
_NOWHERE = (0.0, 0.0, 0.0, 0.0)
_NO_ID = -1
_TRUTHS = bytes([0] * 128 + [1] * 128)  # a mask is a PNG of 0 and 255


class ModelOutputs:
    """What a model said about the images of one request, each answer a body in MessagePack."""

    def __init__(self, task: str, bodies: Sequence[bytes]) -> None:
        self._task = task
        self._bodies = bodies

    def tensor(self, name: str) -> Tensor:
        """Return one output. ``name`` must be one of the task's.

        Raises ``BadRequest`` where images of different sizes cannot share a tensor, and
        ``OutOfMemory`` for one that is too large.
        """
        made: Tensor = getattr(self, f"_{name}")()
        return made

    # fields

    @cached_property
    def _values(self) -> list[dict[str, Any]]:
        return [msgspec.msgpack.decode(body) for body in self._bodies]

    @cached_property
    def _items(self) -> list[list[dict[str, Any]]]:
        return [values[_ITEMS[self._task]] for values in self._values]

    @cached_property
    def _width(self) -> int:
        return max(map(len, self._items))

    @property
    def _rows(self) -> tuple[int, int]:
        return (len(self._items), self._width)

    def _column(self, key: str, blank: Any) -> Iterator[Any]:
        """Yield one value of every item, and ``blank`` where an image has fewer than others."""
        for items in self._items:
            yield from (item.get(key, blank) for item in items)
            yield from repeat(blank, self._width - len(items))

    # what is found in images

    def _count(self) -> Tensor:
        return tensor.numbers("count", "INT32", self._rows[:1], map(len, self._items))

    def _boxes(self) -> Tensor:
        boxes = (box or _NOWHERE for box in self._column("bbox", _NOWHERE))
        return tensor.numbers("boxes", "FP32", (*self._rows, 4), chain.from_iterable(boxes))

    def _scores(self) -> Tensor:
        return tensor.numbers("scores", "FP32", self._rows, self._column("confidence", 0.0))

    def _track_ids(self) -> Tensor:
        return tensor.numbers("track_ids", "INT64", self._rows, self._column("track_id", _NO_ID))

    def _labels(self) -> Tensor:
        return _texts("labels", self._rows, self._column("label", ""))

    def _texts(self) -> Tensor:
        return _texts("texts", self._rows, self._column("text", ""))

    def _keypoints(self) -> Tensor:
        """[N, D, K, 3]: K is the largest number of points of one instance."""
        every = list(self._column("keypoints", ()))
        most = max(map(len, every), default=0)
        filled = (chain(points, repeat((0.0, 0.0, 0.0), most - len(points))) for points in every)
        values = chain.from_iterable(chain.from_iterable(filled))
        return tensor.numbers("keypoints", "FP32", (*self._rows, most, 3), values)

    def _masks(self) -> Tensor:
        """[N, D, H, W]; of an item without a mask, all of it false."""
        masks = list(self._column("mask", b""))
        height, width = _one_size("masks", (_png_size(png) for png in masks if png))
        _check_size("masks", len(masks) * height * width)
        blank = bytes(height * width)
        data = b"".join(_truths(png) if png else blank for png in masks)
        return Tensor("masks", "BOOL", (*self._rows, height, width), data)

    # what is said of images

    def _text(self) -> Tensor:
        return _texts("text", (len(self._values),), (values["text"] for values in self._values))

    def _depth(self) -> Tensor:
        size = _one_size("depth", (tuple(values["depth_shape"]) for values in self._values))
        maps = [values["depth_map"] for values in self._values]
        _check_size("depth", sum(map(len, maps)))
        return Tensor("depth", "FP32", (len(maps), *size), b"".join(maps))

    def _embedding(self) -> Tensor:
        every = [values["embedding"] for values in self._values]
        return Tensor("embedding", "FP32", (len(every), len(every[0]) // 4), b"".join(every))

    def _result(self) -> Tensor:
        return Tensor("result", "BYTES", (len(self._values),), [*map(self._json, self._values)])

    def _json(self, values: dict[str, Any]) -> bytes:
        """Return an answer as ``POST /v1/infer`` writes it; bytes become base64."""
        if self._task == "embed":
            vector = memoryview(values["embedding"]).cast("f").tolist()
            values = {**values, "embedding": vector}
        return msgspec.json.encode(values)


def _texts(name: str, shape: Sequence[int], texts: Iterable[str]) -> Tensor:
    return Tensor(name, "BYTES", tuple(shape), [text.encode() for text in texts])


def _png_size(png: bytes) -> tuple[int, ...]:
    """Return height and width as the header of a PNG tells them."""
    width, height = struct.unpack_from(">II", png, 16)
    return (height, width)


def _truths(png: bytes) -> bytes:
    """Decode a mask to a byte of 0 or 1 a pixel."""
    from PIL import Image  # masks alone need it here

    with Image.open(io.BytesIO(png), formats=("PNG",)) as picture:
        return picture.tobytes().translate(_TRUTHS)


def _one_size(name: str, sizes: Iterable[tuple[int, ...]]) -> tuple[int, ...]:
    found = set(sizes)
    if len(found) > 1:
        raise BadRequest(
            f"output '{name}': the images are of different sizes: ask for them one by one, "
            "or for other outputs"
        )
    return found.pop() if found else (0, 0)


def _check_size(name: str, count: int) -> None:
    if count > MAX_BYTES:
        raise OutOfMemory(f"output '{name}' would take {count} bytes: ask for other outputs")
