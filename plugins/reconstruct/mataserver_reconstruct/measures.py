"""Measures a photograph's pixels, for advice and for drift."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from mataserver_reconstruct.features import NAMES

if TYPE_CHECKING:
    from numpy.typing import NDArray

SIDE = 512
"""Longest side in pixels at which photographs are measured."""
_DARK, _BRIGHT = 16, 240


def measure(rgb: NDArray[np.uint8]) -> dict[str, float]:
    """Measure a photograph, uint8 ``[H, W, 3]``.

    brightness and contrast are 0 to 255, sharpness is ``log1p`` of the Laplacian's variance, noise
    a standard deviation by Immerkaer's method (1996), entropy in bits, colourfulness that of
    Hasler and Suesstrunk (2003), saturation and the two shares 0 to 1.
    """
    height, width = rgb.shape[:2]
    small = downscaled(rgb, SIDE)
    grey = cv2.cvtColor(small, cv2.COLOR_RGB2GRAY)
    saturation = cv2.cvtColor(small, cv2.COLOR_RGB2HSV)[..., 1]
    values = (
        float(grey.mean()),
        float(grey.std()),
        float(np.log1p(cv2.Laplacian(grey, cv2.CV_64F).var())),
        _noise(grey),
        _entropy(grey),
        _colourfulness(small),
        float(saturation.mean()) / 255,
        width / height,
        width * height / 1e6,
        float((grey < _DARK).mean()),
        float((grey > _BRIGHT).mean()),
    )
    return dict(zip(NAMES, values, strict=True))


def downscaled(rgb: NDArray[np.uint8], longest: int) -> NDArray[np.uint8]:
    """Return a picture whose longer side is at most ``longest``, by averaging areas."""
    height, width = rgb.shape[:2]
    scale = longest / max(height, width)
    if scale >= 1:
        return rgb
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return np.asarray(cv2.resize(rgb, size, interpolation=cv2.INTER_AREA), np.uint8)


def _noise(grey: Any) -> float:
    if min(grey.shape) < 3:
        return 0.0
    kernel = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]], np.float32)
    residue = cv2.filter2D(grey.astype(np.float32), -1, kernel)[1:-1, 1:-1]
    return float(np.abs(residue).mean() * np.sqrt(np.pi / 2) / 6)


def _entropy(grey: Any) -> float:
    share = np.bincount(grey.ravel(), minlength=256) / grey.size
    share = share[share > 0]
    return float(-(share * np.log2(share)).sum())


def _colourfulness(rgb: NDArray[np.uint8]) -> float:
    red, green, blue = np.moveaxis(rgb.astype(np.float32), 2, 0)
    first, second = red - green, (red + green) / 2 - blue
    spread = np.hypot(first.std(), second.std())
    return float(spread + 0.3 * np.hypot(first.mean(), second.mean()))
