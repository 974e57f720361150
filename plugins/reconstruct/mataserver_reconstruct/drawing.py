"""The pictures of the report: keypoints on photographs, a model from above."""

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
_FAR = 5.0  # times the usual distance from the middle: such a camera is not drawn
_SPARSE = 20_000  # points; fewer are drawn larger
_USED, _UNUSED = (60, 230, 90), (255, 90, 60)
_CAMERA, _GROUND, _INK = (215, 40, 60), (250, 250, 248), (60, 60, 60)


def keypoints(file: Path, places: NDArray[np.float32], used: NDArray[np.bool_]) -> bytes:
    """Return a small JPEG of a photograph with its keypoints, pixels ``[n, 2]``.

    Those that became points of the model, ``used``, are green and lie above; the others red.
    """
    with Image.open(file) as whole:
        scale = min(1.0, _WIDTH / whole.width)
        size = (max(1, round(whole.width * scale)), max(1, round(whole.height * scale)))
        picture = whole.convert("L").resize(size, Image.Resampling.BOX).convert("RGB")
    draw = ImageDraw.Draw(picture)
    for wanted, colour in ((False, _UNUSED), (True, _USED)):
        for x, y in (places[used == wanted] * scale).tolist():
            draw.rectangle((x - 1, y - 1, x, y), fill=colour)
    out = io.BytesIO()
    picture.save(out, "JPEG", quality=80)
    return out.getvalue()


def above(model: Model, cloud: Cloud, numbers: dict[str, int]) -> bytes:
    """Return a PNG of a cloud from above, with its cameras, by ``numbers`` of their files."""
    centres = model.centres[:, :2]
    low, high = _frame(cloud.xyz[:, :2], centres)
    scale = (_ABOVE - 2 * _MARGIN) / max(float((high - low).max()), 1e-12)
    size = np.ceil((high - low) * scale).astype(int) + 2 * _MARGIN
    canvas = np.empty((size[1], size[0], 3), np.uint8)
    canvas[:] = _GROUND
    _scatter(canvas, cloud, low, high, scale)
    picture = Image.fromarray(canvas)
    draw = ImageDraw.Draw(picture)
    for view, centre in zip(model.views, centres, strict=True):
        ahead = view.rotation[2, :2] / max(float(np.linalg.norm(view.rotation[2, :2])), 1e-9)
        at = _to_pixel(centre, low, high, scale)
        _camera(draw, at, ahead * [1, -1], str(numbers[view.file]))
    out = io.BytesIO()
    picture.save(out, "PNG")
    return out.getvalue()


def _frame(
    points: NDArray[np.float64], centres: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the corners of what is shown: cameras and points, but for those far from all."""
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


def _scatter(
    canvas: NDArray[np.uint8],
    cloud: Cloud,
    low: NDArray[np.float64],
    high: NDArray[np.float64],
    scale: float,
) -> None:
    order = np.argsort(cloud.xyz[:, 2], kind="stable")  # the upper ones hide the lower
    at = _to_pixel(cloud.xyz[order, :2], low, high, scale).astype(int)
    inside = ((at >= 0) & (at < [canvas.shape[1] - 3, canvas.shape[0] - 3])).all(axis=1)
    x, y, colour = at[inside, 0], at[inside, 1], cloud.rgb[order][inside]
    wide = 3 if len(x) < _SPARSE else 2
    for right, down in np.ndindex(wide, wide):
        canvas[y + down, x + right] = colour


def _camera(
    draw: ImageDraw.ImageDraw, at: NDArray[np.float64], ahead: NDArray[np.float64], label: str
) -> None:
    """Draw a camera: a triangle that opens to where it looks, and its number behind it."""
    aside = np.array([-ahead[1], ahead[0]])
    corners = [at, at + 16 * ahead + 8 * aside, at + 16 * ahead - 8 * aside]
    draw.polygon([tuple(corner) for corner in corners], outline=_CAMERA, width=2)
    x, y = at - 11 * ahead
    draw.text((x, y), label, fill=_INK, anchor="mm")
