"""The pictures of the report: keypoints on photographs, and a model from above."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from mataserver_reconstruct.cloud import Cloud
    from mataserver_reconstruct.model import Model

_WIDTH, _ABOVE, _MARGIN = 400, 900, 40
_FAR = 5.0  # times the median distance from the middle: cameras beyond are not drawn
_SPARSE = 20_000  # points; fewer are drawn larger
_APART = 11  # pixels between two numbers
_USED, _UNUSED = (60, 230, 90), (255, 90, 60)
_CAMERA, _GROUND, _INK = (215, 40, 60), (250, 250, 248), (60, 60, 60)


def keypoints(file: Path, places: NDArray[np.float32], used: NDArray[np.bool_]) -> bytes:
    """Return a small JPEG of a photograph with its keypoints, pixels ``[n, 2]``.

    Those that became points of the model, ``used``, are green and drawn on top; the others red.
    """
    with Image.open(file) as whole:
        scale = min(1.0, _WIDTH / whole.width)
        size = (max(1, round(whole.width * scale)), max(1, round(whole.height * scale)))
        picture = whole.convert("L").resize(size, Image.Resampling.BOX).convert("RGB")
    canvas = np.array(picture)
    for wanted, colour in ((False, _UNUSED), (True, _USED)):
        _dots(canvas, (places[used == wanted] * scale).astype(int), colour)
    out = io.BytesIO()
    Image.fromarray(canvas).save(out, "JPEG", quality=80)
    return out.getvalue()


def _dots(canvas: NDArray[np.uint8], at: NDArray[np.int_], colour: tuple[int, int, int]) -> None:
    """Paint squares of two pixels, with their lower right pixels ``at``, x and y ``[n, 2]``."""
    height, width = canvas.shape[:2]
    for x, y in ((0, 0), (1, 0), (0, 1), (1, 1)):
        columns = np.clip(at[:, 0] - x, 0, width - 1)
        rows = np.clip(at[:, 1] - y, 0, height - 1)
        canvas[rows, columns] = colour


def top_view(model: Model, cloud: Cloud, numbers: dict[str, int]) -> bytes:
    """Return a PNG of a cloud from above, with its cameras, by ``numbers`` of their files.

    The longer side is horizontal. A model with a scale has a scale bar; where GPS provides it,
    north is up.
    """
    turn = _rotation(model, cloud)
    centres, places = model.centres[:, :2] @ turn.T, cloud.xyz[:, :2] @ turn.T
    low, high = _bounds(places, centres)
    scale = (_ABOVE - 2 * _MARGIN) / max(float((high - low).max()), 1e-12)
    size = np.ceil((high - low) * scale).astype(int) + 2 * _MARGIN
    canvas = np.empty((size[1], size[0], 3), np.uint8)
    canvas[:] = _GROUND
    order = np.argsort(cloud.xyz[:, 2], kind="stable")  # higher points hide lower ones
    _scatter(canvas, _to_pixel(places[order], low, high, scale).astype(int), cloud.rgb[order])
    picture = Image.fromarray(canvas)
    draw = ImageDraw.Draw(picture)
    labelled: list[NDArray[np.float64]] = []
    for view, at in zip(model.views, _to_pixel(centres, low, high, scale), strict=True):
        ahead = (turn @ view.rotation[2, :2]) * [1, -1]
        ahead /= max(float(np.linalg.norm(ahead)), 1e-9)
        label = at - 11 * ahead
        free = all(np.abs(label - other).max() > _APART for other in labelled)
        labelled += [label] if free else []  # overlapping numbers are unreadable
        _camera(draw, at, ahead, label, str(numbers[view.file]) if free else "")
    if model.scale is not None:
        _scale_bar(draw, float(scale), picture.height)
    out = io.BytesIO()
    picture.save(out, "PNG")
    return out.getvalue()


def _rotation(model: Model, cloud: Cloud) -> NDArray[np.float64]:
    """Return the rotation of the plan, ``[2, 2]``: by a quarter turn, or none."""
    low, high = _bounds(cloud.xyz[:, :2], model.centres[:, :2])
    by_gps = model.scale is not None and model.scale.by == "GPS"
    tall = not by_gps and (high - low)[1] > (high - low)[0]
    return np.array([[0.0, 1.0], [-1.0, 0.0]]) if tall else np.eye(2)


def _scale_bar(draw: ImageDraw.ImageDraw, scale: float, height: int) -> None:
    """Draw the length of a round number of metres, a tenth to a quarter of the picture's width."""
    power = 10.0 ** np.floor(np.log10(_ABOVE / 10 / scale))
    metres = next(
        part * power for part in (1, 2, 5, 10) if part * power * scale >= _ABOVE / 10 or part == 10
    )
    left, y = _MARGIN / 2, height - _MARGIN / 4
    draw.line((left, y, left + metres * scale, y), fill=_INK, width=3)
    draw.text((left + metres * scale + 8, y), f"{metres:g} m", fill=_INK, anchor="lm")


def _bounds(
    points: NDArray[np.float64], centres: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the corners of the visible area: cameras and points, except those far from all."""
    away = np.linalg.norm(centres - np.median(centres, axis=0), axis=1)
    centres = centres[away <= _FAR * max(float(np.median(away)), 1e-12)]
    low, high = centres.min(axis=0), centres.max(axis=0)
    if len(points):
        near, far = np.percentile(points, [1, 99], axis=0)
        low, high = np.minimum(low, near), np.maximum(high, far)
    return low, high


def _to_pixel(
    place: NDArray[np.float64],
    low: NDArray[np.float64],
    high: NDArray[np.float64],
    scale: float,
) -> NDArray[np.float64]:
    x = (place[..., 0] - low[0]) * scale + _MARGIN
    y = (high[1] - place[..., 1]) * scale + _MARGIN
    return np.stack([x, y], axis=-1)


def _scatter(canvas: NDArray[np.uint8], at: NDArray[np.int64], rgb: NDArray[np.uint8]) -> None:
    inside = ((at >= 0) & (at < [canvas.shape[1] - 3, canvas.shape[0] - 3])).all(axis=1)
    x, y, colour = at[inside, 0], at[inside, 1], rgb[inside]
    wide = 3 if len(x) < _SPARSE else 2
    for right, down in np.ndindex(wide, wide):
        canvas[y + down, x + right] = colour


def _camera(
    draw: ImageDraw.ImageDraw,
    at: NDArray[np.float64],
    ahead: NDArray[np.float64],
    label: NDArray[np.float64],
    number: str,
) -> None:
    """Draw a camera: a triangle open in its viewing direction, and its number at ``label``."""
    aside = np.array([-ahead[1], ahead[0]])
    corners = [at, at + 16 * ahead + 8 * aside, at + 16 * ahead - 8 * aside]
    draw.polygon([tuple(corner) for corner in corners], outline=_CAMERA, width=2)
    draw.text(tuple(label), number, fill=_INK, anchor="mm")
