"""The options of a reconstruction, and its limits."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, NamedTuple

import msgspec
from msgspec import Meta, Struct

from mataserver import InvalidParams, describe_error

Name = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=200,
        pattern=r"^[^\x00-\x1f\x7f]+$",
        description="text without control characters",
    ),
]
"""A name as every version took it: stored specs hold it. An upload is allowed fewer characters."""

Voxel = Annotated[float, Meta(gt=0, lt=1e9)]
Points = Annotated[int, Meta(ge=1_000, le=20_000_000)]
MaxSize = Annotated[int, Meta(ge=320, le=6_400)]
MaxKeypoints = Annotated[int, Meta(ge=128, le=32_768)]
Exhaustive = Annotated[int, Meta(ge=2, le=1_000)]
Seed = Annotated[int, Meta(ge=0, lt=2**31)]


NONE, GPS = "none", "gps"
"""The sources of a model's scale."""
_NUMBER = r"(\d{1,9}(?:\.\d{1,9})?)"
_MARK = rf"(\S.*):{_NUMBER},{_NUMBER}"
LENGTH = re.compile(rf"{_MARK}\s+{_MARK}\s+{_NUMBER}")


class Mark(NamedTuple):
    """A position in a photograph: its name, and the pixel of the upright original."""

    image: str
    x: float
    y: float


class Length(NamedTuple):
    """The distance between two positions in photographs."""

    first: Mark
    second: Mark
    metres: float


def parse_length(scale: str) -> Length | None:
    """Return the length in a ``Spec.scale``, None without one.

    Raises ``ValueError`` for an invalid value.
    """
    if scale in {NONE, GPS}:
        return None
    found = LENGTH.fullmatch(scale)
    if found is None or not float(found[7]):
        raise ValueError(
            "scale: expected none, gps, or a length as IMAGE:X,Y IMAGE:X,Y METRES, "
            "such as 'a.jpg:120,340 a.jpg:800,350 2.5'"
        )
    one, two = found.groups()[:3], found.groups()[3:6]
    first, second = (Mark(name, float(x), float(y)) for name, x, y in (one, two))
    return Length(first, second, float(found[7]))


class Limits(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What an input may hold.

    max_entries:     files in an archive, of whatever sort.
    max_images:      photographs.
    max_bytes:       bytes of all files of an archive, unpacked.
    max_image_bytes: bytes of one photograph's file.
    max_pixels:      pixels of one photograph.
    max_ratio:       bytes unpacked for one byte packed; more is a bomb and no photograph.
    """

    max_entries: Annotated[int, Meta(ge=1)] = 10_000
    max_images: Annotated[int, Meta(ge=1)] = 1_000
    max_bytes: Annotated[int, Meta(ge=1)] = 8_000_000_000
    max_image_bytes: Annotated[int, Meta(ge=1)] = 300_000_000
    max_pixels: Annotated[int, Meta(ge=1)] = 120_000_000
    max_ratio: Annotated[int, Meta(ge=1)] = 200


class Spec(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What one reconstruction is asked.

    dataset_name, scene_name: stand in the CSV.
    matcher:       who finds and matches features.
    max_size:      longest side in pixels at which photographs are looked at.
    max_keypoints: about how many features of one photograph are used; ``sift`` may use more.
    exhaustive:    photographs up to which every pair is matched; of more the likely ones are.
    camera:        ``auto`` shares one camera among photographs whose EXIF says so, ``single``
                   among all of one size, ``per_image`` among none.
    cluster:       what is one scene: ``components`` of the graph of matched pairs, or its
                   ``louvain`` communities, which part scenes that share a look-alike.
    density:       ``sparse``: the points that were matched; ``semi``: depths of the photographs.
    scale:         what tells how large the model is: ``none``, ``gps``, or a length between two
                   places in photographs; see ``parse_length``.
    voxel:         side in units of the model's; by default a part of the cloud's extent.
    max_points:    points of one cloud at most.
    seed:          of everything that draws.
    threads:       of features and matches; 0 is what the machine gives.
    """

    dataset_name: Name = "custom"
    scene_name: Name = "scene_01"
    matcher: str = "sift"
    max_size: MaxSize = 1_600
    max_keypoints: MaxKeypoints = 4_096
    exhaustive: Exhaustive = 150
    camera: Literal["auto", "single", "per_image"] = "auto"
    cluster: Literal["components", "louvain"] = "components"
    density: Literal["sparse", "semi"] = "sparse"
    scale: Annotated[str, Meta(max_length=1_000)] = NONE
    voxel: Voxel | None = None
    max_points: Points = 500_000
    seed: Seed = 0
    threads: Annotated[int, Meta(ge=0, le=256)] = 0
    limits: Limits = Limits()

    def __post_init__(self) -> None:
        """Raise ``ValueError`` for what ``scale`` cannot be."""
        parse_length(self.scale)

    @property
    def feature_options(self) -> dict[str, Any]:
        """The options that features and matches depend on: a change makes stored ones invalid."""
        names = ("matcher", "max_size", "max_keypoints", "camera", "seed", "limits")
        return {name: msgspec.to_builtins(getattr(self, name)) for name in names}


def read(value: object) -> Spec:
    """Return a spec from one, or from its JSON values. Raises ``InvalidParams``."""
    if isinstance(value, Spec):
        return value
    try:
        return msgspec.convert(value, Spec)
    except msgspec.ValidationError as error:
        raise InvalidParams(describe_error(error, Spec)) from None
