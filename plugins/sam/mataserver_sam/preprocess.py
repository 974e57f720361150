"""Converts pixels to tensors, and implements torchvision's ``roi_align``, without torchvision.

Everything here computes the same as transformers' own processors with torchvision.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch
from torch.nn import functional

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import numpy as np
    from numpy.typing import NDArray

    Size = tuple[int, int]
    Triple = tuple[float, float, float]

HALF: Triple = (0.5, 0.5, 0.5)
"""Mean and deviation of SAM3: pixels become -1..1."""

IMAGENET_MEAN: Triple = (0.485, 0.456, 0.406)
IMAGENET_STD: Triple = (0.229, 0.224, 0.225)
"""Mean and deviation of SAM 1 and SAM 2."""


class Preparation(Protocol):
    """The preparation of a network's images: a normalised square of ``side`` pixels."""

    @property
    def side(self) -> int:
        """The side of the square in pixels."""

    @property
    def mean(self) -> Triple:
        """The mean that is subtracted from red, green and blue in 0..1."""

    @property
    def std(self) -> Triple:
        """The deviation that they are divided by."""

    def __call__(self, image: NDArray[np.uint8]) -> torch.Tensor:
        """Return an RGB image ``[H, W, 3]`` as float32 ``[1, 3, side, side]``."""

    def extent(self, size: Size) -> Size:
        """Return the height and width of an image of ``size`` (height, width) in the square."""

    def crop_padding(self, logits: torch.Tensor, size: Size) -> torch.Tensor:
        """Return the logits ``[N, h, w]`` of an image of ``size`` without those of the padding."""


@dataclass(frozen=True, slots=True)
class StretchPreparation:
    """SAM 2 and SAM 3: the image fills the square, without keeping its aspect ratio."""

    side: int
    mean: Triple = HALF
    std: Triple = HALF

    def __call__(self, image: NDArray[np.uint8]) -> torch.Tensor:
        """Return an RGB image ``[H, W, 3]`` as float32 ``[1, 3, side, side]``."""
        return normalised(resized(image, (self.side, self.side)), self.mean, self.std)

    def extent(self, size: Size) -> Size:  # noqa: ARG002 - the protocol
        """Return the whole square."""
        return self.side, self.side

    def crop_padding(self, logits: torch.Tensor, size: Size) -> torch.Tensor:  # noqa: ARG002 - the protocol
        """Return the logits unchanged."""
        return logits


@dataclass(frozen=True, slots=True)
class PadPreparation:
    """SAM 1: the longer side fills the square, which is padded with zeros right or below."""

    side: int
    mean: Triple = IMAGENET_MEAN
    std: Triple = IMAGENET_STD

    def __call__(self, image: NDArray[np.uint8]) -> torch.Tensor:
        """Return an RGB image ``[H, W, 3]`` as float32 ``[1, 3, side, side]``."""
        height, width = self.extent((image.shape[0], image.shape[1]))
        pixels = normalised(resized(image, (height, width)), self.mean, self.std)
        return functional.pad(pixels, (0, self.side - width, 0, self.side - height))

    def extent(self, size: Size) -> Size:
        """Return the image's height and width in the square, rounded as SAM does; at least 1."""
        height, width = size
        scale = self.side / max(size)
        return max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))

    def crop_padding(self, logits: torch.Tensor, size: Size) -> torch.Tensor:
        """Resize the logits to the square, as SAM does, and return the image's part of it."""
        height, width = self.extent(size)
        square = functional.interpolate(
            logits[None], size=(self.side, self.side), mode="bilinear", align_corners=False
        )[0]
        return square[:, :height, :width]


def resized(image: NDArray[np.uint8], size: Size) -> torch.Tensor:
    """Return an image ``[H, W, 3]`` as uint8 ``[1, 3, *size]``: bilinear, with antialias.

    Values are rounded to integers, as the processors do.
    """
    pixels = torch.from_numpy(image.copy()).permute(2, 0, 1)[None]
    return functional.interpolate(
        pixels, size=size, mode="bilinear", antialias=True, align_corners=False
    )


def normalised(pixels: torch.Tensor, mean: Triple, std: Triple) -> torch.Tensor:
    """Return uint8 pixels ``[N, 3, H, W]`` as float32, scaled to 0..1 and normalised."""
    middle, spread = (pixels.new_tensor(each, dtype=torch.float32) for each in (mean, std))
    return (pixels.float() / 255 - middle[:, None, None]) / spread[:, None, None]


def roi_align(
    features: torch.Tensor, boxes: Sequence[torch.Tensor], output_size: int
) -> torch.Tensor:
    """Average the features under each box on a grid of ``output_size`` by ``output_size`` cells.

    ``features`` are ``[B, C, H, W]``, ``boxes`` for each of them ``[K, 4]``, corners in the
    coordinates of the features; the answer is ``[sum of K, C, output_size, output_size]``. Mask
    R-CNN (arXiv:1703.06870), as ``torchvision.ops.roi_align`` computes it by default: corners not
    shifted by half a pixel, at least one pixel wide, one sample per pixel of a cell.
    """
    pooled = [
        _pool(plane, corners, output_size)
        for plane, group in zip(features, boxes, strict=True)
        for corners in group.float().tolist()
    ]
    if not pooled:
        return features.new_zeros(0, features.shape[1], output_size, output_size)
    return torch.stack(pooled)


def _pool(plane: torch.Tensor, corners: Sequence[float], cells: int) -> torch.Tensor:
    """Return the cells ``[C, cells, cells]`` of one box on one plane ``[C, H, W]``."""
    left, top, right, bottom = corners
    rows = _Axis(plane, top, bottom, cells, plane.shape[1])
    columns = _Axis(plane, left, right, cells, plane.shape[2])
    upper, lower = ((_interpolate(plane[:, row], columns)) for row in rows.neighbours())
    samples = upper * (1 - rows.weight)[:, None] + lower * rows.weight[:, None]
    samples = samples * rows.inside[:, None] * columns.inside
    return functional.avg_pool2d(samples[None], (rows.samples, columns.samples))[0]


def _interpolate(lines: torch.Tensor, columns: _Axis) -> torch.Tensor:
    """Interpolate ``[C, Y, W]`` along its last axis."""
    left, right = (lines[:, :, column] for column in columns.neighbours())
    return left * (1 - columns.weight) + right * columns.weight


class _Axis:
    """The sampling of one axis of a box: the pixels on both sides of each position, and the weight.

    A position more than one pixel outside counts as zero; closer ones get the border's value.
    """

    def __init__(self, like: torch.Tensor, start: float, end: float, cells: int, size: int) -> None:
        extent = max(end - start, 1.0)
        self.samples = max(int(-(-extent // cells)), 1)
        count = cells * self.samples
        places = torch.arange(count, device=like.device, dtype=torch.float32)
        places = start + (places + 0.5) * extent / count
        self.inside = ((places >= -1) & (places <= size)).to(like.dtype)
        places = places.clamp(min=0)
        self._below = places.floor().long().clamp(max=size - 1)
        self._above = (self._below + 1).clamp(max=size - 1)
        fraction = (places - self._below).to(like.dtype)
        self.weight = torch.where(self._below >= size - 1, torch.zeros_like(fraction), fraction)

    def neighbours(self) -> Iterator[torch.Tensor]:
        """Yield the pixels before, then those after each position."""
        yield self._below
        yield self._above
