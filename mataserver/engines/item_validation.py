"""The API's contract for the items of one image, and its validation.

Values out of range by rounding only are clipped, and integers become floats; any other violation is
rejected, never repaired.
"""

from __future__ import annotations

import math
from itertools import chain
from operator import countOf, gt
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import UNSET

from mataserver.results import Classification, Detection, Entity, Keypoint, Segment, TextRegion

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    Size = tuple[int, int]

OVERSHOOT = 1.0
"""Pixels by which rounding may move a box beyond the image: such a box is clipped."""
ROUNDING = 1e-3
"""Tolerance of a confidence's range: a 16-bit softmax may sum up to slightly over 1."""
MAX_DEPTH = 16
"""Maximum nesting of ``extra`` and ``attributes``."""

_TEXTS: dict[type, str] = {TextRegion: "text"}
_STRING_TYPE, _INTEGER_TYPES = frozenset({str}), frozenset({int, type(UNSET)})


class InvalidResultError(ValueError):
    """A result violates the contract; the text names the field and the violation."""


class ItemValidator:
    """Validates the items of one image; ``size`` is its (height, width).

    ``raw()`` says whether the request asked for unnormalized scores. Methods raise
    ``InvalidResultError``.
    """

    def __init__(self, size: Size | None, raw: Callable[[], bool]) -> None:
        self._size = size
        self._raw = raw
        sides: tuple[float, float] = size or (math.inf, math.inf)
        self._height, self._width = sides
        self._minimum = -math.inf if size is None else 0

    def are_valid(self, name: str, items: Any, kind: type) -> bool:
        """Whether all items are valid as they are: a fast path, in a third of the time."""
        if not isinstance(items, list):
            raise InvalidResultError(f"{name} must be a list")
        if not items:
            return True
        if not _all_are(kind, items):
            return False
        scores = [item.confidence for item in items]
        try:
            return (
                _all_are(float, scores)
                and min(scores) >= 0.0
                and max(scores) <= 1.0
                and math.isfinite(sum(scores))
                and self._are_plain_fields_valid(items, kind)
                and self._are_boxes_valid(items, kind)
            )
        except TypeError:  # a scalar in place of a sequence
            return False

    @staticmethod
    def _are_plain_fields_valid(items: Sequence[Any], kind: type) -> bool:
        text = _TEXTS.get(kind, "label")
        if not _all_are(str, [getattr(item, text) for item in items]):
            return False
        if kind is Detection:
            extras = [item.extra for item in items]
            if not _all_are(dict, extras) or any(extras):
                return False
            tracks = [item.track_id for item in items]
            if _all_are(int, tracks):
                return _fits_64_bits(min(tracks)) and _fits_64_bits(max(tracks))
            return _all_are(type(UNSET), tracks)
        if kind is Segment:
            return _all_are(type(UNSET), [item.mask for item in items])
        return kind is not Entity

    def _are_boxes_valid(self, items: Sequence[Any], kind: type) -> bool:
        if kind is Classification:
            return True
        if kind is Keypoint and not _are_points_valid(items):
            return False
        boxes = [item.bbox for item in items]
        if kind is TextRegion:
            boxes = [box for box in boxes if box is not None]
        if not boxes:
            return True
        if countOf(map(len, boxes), 4) != len(boxes):
            return False
        numbers = list(chain.from_iterable(boxes))
        if not _all_are(float, numbers):
            return False
        lefts, tops, rights, bottoms = numbers[::4], numbers[1::4], numbers[2::4], numbers[3::4]
        return (
            min(lefts) >= self._minimum
            and min(tops) >= self._minimum
            and max(rights) <= self._width
            and max(bottoms) <= self._height
            and math.isfinite(sum(numbers))
            and not any(map(gt, lefts, rights))
            and not any(map(gt, tops, bottoms))
        )

    # item by item

    def normalize(self, name: str, items: Sequence[Any], kind: type) -> list[Any]:
        """Return the items, normalized. Raises ``InvalidResultError``."""
        return [self._item(f"{name}[{index}]", item, kind) for index, item in enumerate(items)]

    def _item(self, where: str, item: Any, kind: type) -> Any:
        if not isinstance(item, kind):
            raise InvalidResultError(f"{where} is a {type(item).__name__}")
        _check_fields(where, item)
        changed: dict[str, Any] = {"confidence": self._score(f"{where}.confidence", item)}
        box = getattr(item, "bbox", None)
        if box is not None:
            changed["bbox"] = self._box(f"{where}.bbox", box)
        elif isinstance(item, (Detection, Segment, Keypoint)):
            raise InvalidResultError(f"{where}.bbox is not four finite numbers")
        if isinstance(item, Keypoint):
            changed["keypoints"] = _points(f"{where}.keypoints", item.keypoints)
        if isinstance(item, Segment) and item.mask is not UNSET and item.mask is not None:
            self._check_mask(f"{where}.mask", item.mask)
        same = all(getattr(item, name) is value for name, value in changed.items())
        return item if same else msgspec.structs.replace(item, **changed)

    def _score(self, where: str, item: Any) -> float:
        if isinstance(item, Classification) and self._raw():
            if not _finite(item.confidence):
                raise InvalidResultError(
                    f"{where} is not a finite number{_describe_type(item.confidence)}"
                )
            return float(item.confidence)
        return _confidence(where, item.confidence)

    def _box(self, where: str, box: Any) -> tuple[float, float, float, float]:
        if not _are_numbers(box, 4):
            raise InvalidResultError(f"{where} is not four finite numbers{_describe_type(box)}")
        x1, y1, x2, y2 = map(float, box)
        if x1 > x2 or y1 > y2:
            raise InvalidResultError(
                f"{where} is {_format_numbers(x1, y1, x2, y2)}, its corners are not in order"
            )
        if self._size is None:
            return (x1, y1, x2, y2)
        low, right, bottom = -OVERSHOOT, self._width + OVERSHOOT, self._height + OVERSHOOT
        if x1 < low or y1 < low or x2 > right or y2 > bottom:
            image = f"{self._width:g}x{self._height:g}"
            raise InvalidResultError(
                f"{where} is {_format_numbers(x1, y1, x2, y2)}, beyond the image of {image}"
            )
        return (
            min(max(x1, 0.0), float(self._width)),
            min(max(y1, 0.0), float(self._height)),
            min(max(x2, 0.0), float(self._width)),
            min(max(y2, 0.0), float(self._height)),
        )

    def _check_mask(self, where: str, mask: Any) -> None:
        shape = getattr(mask, "shape", None)
        if str(getattr(mask, "dtype", "")) != "bool" or len(shape or ()) != 2:
            raise InvalidResultError(f"{where} must be a boolean array [H, W]")
        if self._size is not None and tuple(shape or ()) != tuple(self._size):
            height, width = shape or (0, 0)
            image = f"{self._width:g}x{self._height:g}"
            raise InvalidResultError(
                f"{where} is of {width}x{height}, not of the image's size, {image}"
            )


def _all_are(kind: type, values: Sequence[Any]) -> bool:
    """Whether all values are exactly of type ``kind``, without a bytecode step per value."""
    return countOf(map(type, values), kind) == len(values)


def _are_points_valid(items: Sequence[Any]) -> bool:
    points = [point for item in items for point in item.keypoints]
    if not points:
        return True
    if countOf(map(len, points), 3) != len(points):
        return False
    numbers = list(chain.from_iterable(points))
    if not _all_are(float, numbers):
        return False
    scores = numbers[2::3]
    return min(scores) >= 0.0 and max(scores) <= 1.0 and math.isfinite(sum(numbers))


def _points(where: str, points: Any) -> list[tuple[float, float, float]]:
    if not isinstance(points, (list, tuple)) or not all(_are_numbers(each, 3) for each in points):
        raise InvalidResultError(
            f"{where} are not triples of finite numbers{_describe_type(points)}"
        )
    return [
        (float(x), float(y), _confidence(f"{where}[{index}][2]", score))
        for index, (x, y, score) in enumerate(points)
    ]


def _check_fields(where: str, item: Any) -> None:
    """Check an item's text, dict and track id fields."""
    for name in ("label", "text"):
        if not isinstance(getattr(item, name, ""), str):
            raise InvalidResultError(
                f"{where}.{name} is not a string{_describe_type(getattr(item, name))}"
            )
    for name in ("attributes", "extra"):
        more = getattr(item, name, {})
        if not isinstance(more, dict):
            raise InvalidResultError(f"{where}.{name} is not a dict")
        check_plain(f"{where}.{name}", more, MAX_DEPTH)
    number = getattr(item, "track_id", UNSET)
    if type(number) not in _INTEGER_TYPES or not (number is UNSET or _fits_64_bits(number)):
        raise InvalidResultError(
            f"{where}.track_id is not a whole number of 64 bits{_describe_type(number)}"
        )


def check_plain(where: str, value: Any, max_depth: int) -> None:
    """Check that a value is valid JSON for any encoder: numbers are finite and in range."""
    if not max_depth:
        raise InvalidResultError(f"{where} is nested too deeply")
    if isinstance(value, dict):
        if not _STRING_TYPE.issuperset(map(type, value)):
            raise InvalidResultError(f"{where} has a name that is not a string")
        value = value.values()
    elif not isinstance(value, (list, tuple)):
        if not (value is None or isinstance(value, (str, bool)) or _finite(value)):
            raise InvalidResultError(f"{where} holds a {type_name(value)} that is not a JSON value")
        return
    for each in value:
        check_plain(where, each, max_depth - 1)


def _fits_64_bits(number: int) -> bool:
    return -(2**63) <= number < 2**64


def _confidence(where: str, value: Any) -> float:
    """Return a confidence, clipped to 0..1."""
    if not _finite(value):
        raise InvalidResultError(f"{where} is not a finite number{_describe_type(value)}")
    if not -ROUNDING <= value <= 1.0 + ROUNDING:
        raise InvalidResultError(f"{where} is {value:g}, not within 0 to 1")
    return min(max(float(value), 0.0), 1.0)


def _finite(value: object) -> bool:
    """Whether it is a number that JSON and MessagePack can both represent."""
    if isinstance(value, int):
        return not isinstance(value, bool) and _fits_64_bits(value)
    return isinstance(value, float) and math.isfinite(value)


def _are_numbers(values: object, count: int) -> bool:
    several = isinstance(values, (list, tuple)) and len(values) == count
    return several and all(map(_finite, values))  # type: ignore[call-overload]


def _describe_type(value: object) -> str:
    """Return what a value, or the first of several, is in place of a number or text; or "".

    Numbers of numpy look like Python's in every other way.
    """
    others = value if isinstance(value, (list, tuple)) else [value]
    while others and isinstance(others[0], (list, tuple)):
        others = others[0]
    for each in others:
        if not isinstance(each, (int, float)) or isinstance(each, bool):
            return f": it {'is' if others[0] is value else 'holds'} a {type_name(each)}"
    return ""


def type_name(value: object) -> str:
    """Return the name of a value's type, with its module: numpy has a ``bool`` as Python has."""
    kind = type(value)
    return kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__name__}"


def _format_numbers(*numbers: float) -> str:
    return f"[{', '.join(f'{each:g}' for each in numbers)}]"
