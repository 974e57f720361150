"""Extracts named objects, with scores, boxes and attributes, from a model's JSON answer.

Models use different layouts. The usual ones are read: a list of objects or of names, an object that
holds such a list, a single object, or a mapping of names to scores. The keys are those that models
use when the prompt prescribes none.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

from mataserver import Entity

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

LABELS = ("label", "name", "class", "category", "object")
SCORES = ("confidence", "score", "probability")
BOXES = ("bbox", "bbox_2d", "bounding_box", "box")

Quad = tuple[float, float, float, float]
"""Two corners ``(x1, y1, x2, y2)``, in the unit that the model counts in."""


class Mention(NamedTuple):
    """One object that an answer names.

    attributes: the answer's other members for this object, unchanged.
    corners:    its box, if it was given four numbers as one.
    box_key:    the key in ``attributes`` that ``corners`` come from.
    """

    label: str
    confidence: float
    attributes: dict[str, Any]
    corners: Quad | None = None
    box_key: str | None = None

    def entity(self, *, without_box: bool = False) -> Entity:
        """Return it in the wire format; ``without_box`` drops the box from the attributes."""
        dropped = self.box_key if without_box else None
        attributes = {key: value for key, value in self.attributes.items() if key != dropped}
        return Entity(self.label, self.confidence, attributes)


def mentions(value: dict[str, Any] | list[Any]) -> list[Mention]:
    """Return the objects that ``value`` (decoded JSON) names, in order; skip unnamed ones."""
    found = map(_mention, _items(value))
    return [each for each in found if each is not None]


def scores(value: dict[str, Any] | list[Any]) -> list[Mention]:
    """Return the classes that ``value`` names, best first; ``{"cat": 0.9}`` is read as well."""
    found = mentions(value)
    if not found and isinstance(value, dict):
        found = [
            Mention(label, score, {})
            for label, given in value.items()
            if label.strip() and (score := _score(given)) is not None
        ]
    return sorted(found, key=lambda each: -each.confidence)


def _items(value: dict[str, Any] | list[Any]) -> Iterable[Any]:
    if isinstance(value, list):
        return value
    for member in value.values():
        if isinstance(member, list) and any(
            isinstance(item, dict) and _first(item, LABELS, _label) for item in member
        ):
            return member
    return [value]


def _mention(item: object) -> Mention | None:
    if isinstance(item, str):
        return Mention(item.strip(), 1.0, {}) if item.strip() else None
    if not isinstance(item, dict):
        return None
    label_key = _first(item, LABELS, _label)
    if label_key is None:
        return None
    score_key = _first(item, SCORES, _score)
    rest = {key: each for key, each in item.items() if key not in {label_key, score_key}}
    nested = rest.get("attributes")
    if isinstance(nested, dict):
        del rest["attributes"]
        rest = {**nested, **rest}
    box_key = _first(rest, BOXES, _corners)
    return Mention(
        item[label_key].strip(),
        1.0 if score_key is None else float(item[score_key]),
        rest,
        None if box_key is None else _corners(rest[box_key]),
        box_key,
    )


def _first(
    item: dict[str, Any], keys: Iterable[str], read: Callable[[object], object]
) -> str | None:
    """Return the first of ``keys`` whose value ``read`` can read."""
    return next((key for key in keys if read(item.get(key)) is not None), None)


def _label(given: object) -> str | None:
    return given if isinstance(given, str) and given.strip() else None


def _score(given: object) -> float | None:
    if isinstance(given, bool) or not isinstance(given, int | float):
        return None
    return float(given) if 0 <= given <= 1 else None


def _corners(given: object) -> Quad | None:
    if not isinstance(given, list) or len(given) != 4:
        return None
    if not all(_is_number(each) for each in given):
        return None
    x1, y1, x2, y2 = map(float, given)
    return x1, y1, x2, y2


def _is_number(given: object) -> bool:
    if isinstance(given, bool) or not isinstance(given, int | float):
        return False
    return math.isfinite(given)
