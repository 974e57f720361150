"""A drawn scene, and the truth about it: what is where, at which depth, with which joints."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    Fill = tuple[int, int, int] | int

WIDTH, HEIGHT, HORIZON = 480, 320, 200
JOINTS = {
    "nose": (118, 92),
    "left_eye": (124, 86),
    "right_eye": (112, 86),
    "left_ear": (131, 90),
    "right_ear": (105, 90),
    "left_shoulder": (140, 124),
    "right_shoulder": (96, 124),
    "left_elbow": (156, 158),
    "right_elbow": (74, 104),
    "left_wrist": (154, 194),
    "right_wrist": (84, 64),
    "left_hip": (133, 190),
    "right_hip": (103, 190),
    "left_knee": (136, 234),
    "right_knee": (101, 234),
    "left_ankle": (137, 276),
    "right_ankle": (99, 276),
}
"""COCO's 17 joints of the person, in COCO's order: x and y in pixels."""

BONES = (
    ("left_shoulder", "right_shoulder"), ("left_shoulder", "left_elbow"),
    ("left_elbow", "left_wrist"), ("right_shoulder", "right_elbow"),
    ("right_elbow", "right_wrist"), ("left_shoulder", "left_hip"),
    ("right_shoulder", "right_hip"), ("left_hip", "right_hip"), ("left_hip", "left_knee"),
    ("left_knee", "left_ankle"), ("right_hip", "right_knee"), ("right_knee", "right_ankle"),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Thing:
    """One object: how it is drawn, in which colour, and the row where it stands on the floor."""

    label: str
    draw: Callable[[ImageDraw.ImageDraw, Fill], None]
    colour: tuple[int, int, int]
    foot: int

    @property
    def mask(self) -> NDArray[np.bool_]:
        """Its pixels, ``[HEIGHT, WIDTH]``."""
        picture = Image.new("L", (WIDTH, HEIGHT))
        self.draw(ImageDraw.Draw(picture), 255)
        return np.asarray(picture) > 127

    @property
    def box(self) -> tuple[float, float, float, float]:
        """The box around its pixels."""
        rows, columns = np.nonzero(self.mask)
        x1, y1, x2, y2 = columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
        return float(x1), float(y1), float(x2), float(y2)


def _person(draw: ImageDraw.ImageDraw, fill: Fill) -> None:
    for a, b in BONES:
        draw.line([JOINTS[a], JOINTS[b]], fill, width=17)
    for x, y in JOINTS.values():
        draw.ellipse([x - 8, y - 8, x + 8, y + 8], fill)
    draw.polygon([JOINTS[f"{side}_{part}"] for side, part in _TRUNK], fill)
    draw.ellipse([97, 66, 139, 116], fill)


_TRUNK = (("left", "shoulder"), ("right", "shoulder"), ("right", "hip"), ("left", "hip"))


def _ball(draw: ImageDraw.ImageDraw, fill: Fill) -> None:
    draw.ellipse([222, 236, 276, 290], fill)


def _parcel(draw: ImageDraw.ImageDraw, fill: Fill) -> None:
    draw.rectangle([326, 196, 420, 282], fill)
    draw.polygon([(326, 196), (350, 174), (444, 174), (420, 196)], fill)
    draw.polygon([(420, 196), (444, 174), (444, 260), (420, 282)], fill)


THINGS = (
    Thing("person", _person, (74, 96, 130), 284),
    Thing("ball", _ball, (216, 116, 52), 290),
    Thing("parcel", _parcel, (170, 128, 84), 282),
)


def picture() -> Image.Image:
    """Draw the scene: a wall, a floor, and the things."""
    rows = np.linspace(0, 1, HEIGHT)[:, None, None]
    wall, floor = np.array([206, 212, 214]) - 24 * rows, np.array([150, 142, 132]) + 30 * rows
    ground = np.where(rows * HEIGHT < HORIZON, wall, floor) * np.ones((1, WIDTH, 1))
    drawn = Image.fromarray(ground.astype(np.uint8))
    draw = ImageDraw.Draw(drawn)
    for thing in THINGS:
        thing.draw(draw, thing.colour)
    draw.polygon([(326, 196), (350, 174), (444, 174), (420, 196)], (198, 156, 110))
    draw.polygon([(420, 196), (444, 174), (444, 260), (420, 282)], (140, 104, 68))
    return drawn


def depth() -> NDArray[np.float32]:
    """Return how near each pixel is, ``[HEIGHT, WIDTH]``: 0 is the wall, 1 the nearest floor."""
    rows = np.arange(HEIGHT, dtype=np.float32)
    floor = np.clip((rows - HORIZON) / (HEIGHT - 1 - HORIZON), 0, 1).astype(np.float32)
    near = np.repeat(floor[:, None], WIDTH, axis=1)
    for thing in THINGS:
        near[thing.mask] = floor[thing.foot]
    return near
