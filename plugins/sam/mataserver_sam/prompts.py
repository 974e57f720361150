"""The prompts of a request: texts, boxes and points, relative to the image."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from msgspec import Meta, Struct
from msgspec.structs import force_setattr

from mataserver import InvalidParams

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_PROMPTS = 64
"""The maximum number of prompts of one request."""
MAX_POINTS = 256
"""The maximum number of points on one object of an image or a frame.

Each is a token of the decoder, which compares every token with every other.
"""

Share = Annotated[float, Meta(ge=0.0, le=1.0)]
RelativeBox = tuple[Share, Share, Share, Share]
Words = Annotated[str, Meta(max_length=1_000, extra_json_schema={"pattern": r"\S"})]
"""A text that is not empty, and not of spaces alone."""

_FIELDS = {
    "text": ("text",),
    "box": ("box", "label"),
    "point": ("points", "point_labels", "box"),
}


PointLabel = Annotated[float, Meta(ge=0, le=1, extra_json_schema={"enum": [0, 1]})] | bool
"""A label as arrays have it, too: 1.0 and true."""


class Request(Struct, frozen=True, kw_only=True):
    """The body of a request: a misspelt field is refused, any other unknown one is ignored."""

    refuses_misspelt: ClassVar[bool] = True


class Prompt(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One prompt of a request. All lengths are shares of the image's width and height, 0 to 1.

    type:         "text", "box" or "point", given in any case, kept in small letters.
    text:         of a text prompt: what to look for.
    box:          of a box prompt: ``[cx, cy, w, h]``. A point prompt may have one too: its points
                  then refine the object in that box.
    label:        of a box prompt: whether the box holds what is wanted (true, 1) or what is not
                  (false, 0). Any other prompt is always what is wanted.
    points:       of a point prompt: ``[x, y]`` each, all on or beside one object.
    point_labels: 1 for a point on the object, 0 for one beside it; all 1 if left out.

    A field that is null counts as left out, and so does ``label`` of another type if it is true.
    """

    type: Annotated[str, Meta(max_length=16, extra_json_schema={"enum": [*_FIELDS]})]
    text: Words | None = None
    box: RelativeBox | None = None
    label: bool | Literal[0, 1] | None = None
    points: (
        Annotated[list[tuple[Share, Share]], Meta(min_length=1, max_length=MAX_POINTS)] | None
    ) = None
    point_labels: list[PointLabel] | None = None

    def __post_init__(self) -> None:
        """Check the combination of fields. Raises ``ValueError``."""
        force_setattr(self, "type", self.type.lower())
        if self.type not in _FIELDS:
            raise ValueError("type must be text, box or point")
        if self.label and self.type != "box":
            force_setattr(self, "label", None)  # clients with one class for prompts send defaults
        for name in ("text", "box", "label", "points", "point_labels"):
            if getattr(self, name) is not None and name not in _FIELDS[self.type]:
                raise ValueError(f"a {self.type} prompt has no {name}")
        needed = "points" if self.type == "point" else self.type
        if getattr(self, needed) is None:
            raise ValueError(f"a {self.type} prompt needs {needed}")
        if self.text is not None and not self.text.strip():
            raise ValueError("text is empty")
        if self.box is not None and not (self.box[2] and self.box[3]):
            raise ValueError("box has no width or no height")
        if not {0, 1}.issuperset(self.point_labels or ()):
            raise ValueError("point_labels must be 0 or 1")
        if self.point_labels is not None and len(self.point_labels) != len(self.points or ()):
            raise ValueError("point_labels must be as many as points")

    @property
    def wanted(self) -> bool:
        """Whether a box is a positive example; true by default."""
        return self.label is None or bool(self.label)

    @property
    def labels(self) -> list[int]:
        """A label for each point."""
        return [int(each) for each in self.point_labels or [1] * len(self.points or ())]


Prompts = Annotated[list[Prompt], Meta(min_length=1, max_length=MAX_PROMPTS)]


def check_points(count: int, where: str) -> None:
    """Raise ``InvalidParams`` for too many points on one object; ``where`` names the field."""
    if count > MAX_POINTS:
        raise InvalidParams(f"{where}: at most {MAX_POINTS} points on one object of a frame")


@contextmanager
def prefix_errors(field: str) -> Iterator[None]:
    """Prefix errors about prompts with the field that holds them."""
    try:
        yield
    except InvalidParams as error:
        raise InvalidParams(f"{field}: {error.detail}") from None
