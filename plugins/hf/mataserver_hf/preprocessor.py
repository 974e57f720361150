"""Turns images into the tensors of an image processor, grouped so that a batch needs no padding.

Padding images of several sizes to one size changes the results of models that take no mask (YOLOS)
and, at the border, of those that do (DETR). So each image is prepared separately and only tensors
of equal shapes share a forward pass: a batch gives the same results as its images one by one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.nn.functional import interpolate

from mataserver import BadRequest, MataError
from mataserver_hf.size_limits import check_sizes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

    Size = tuple[int, int]
    Tensors = dict[str, torch.Tensor]

CACHED_SIZES = 64
"""Image sizes whose prepared size is cached: finding it costs as much as preparing an image."""

PROBE_SIZES = ((300, 400), (400, 300))
"""Two image sizes that show whether a processor's output size depends on its input's."""

_LONGEST = 8
"""How many times the pixels of a usual image any image may be enlarged to."""

_UNPREPARED = (
    ArithmeticError,
    AttributeError,
    LookupError,
    RuntimeError,
    TypeError,
    ValueError,
)
_LEVIT_SHARE = 224 / 256
_CONVNEXT_STRETCHED = 384  # from here on ConvNeXt's processor stretches images to a square

_STRIDE = 32
_MOST_SQUARES = 16
"""How often the size that a processor states may fit into an image whose shape it keeps.

Nothing else limits the longer side: 518 by 50000 pixels would be 130,000 tokens of attention.
``max_pixels`` is no limit here: these are 26 million pixels, and its default is 50 million."""


class Preprocessor:
    """An image processor of transformers."""

    def __init__(self, processor: Any, max_pixels: int | None = None) -> None:
        """Keep ``processor``, and to how many pixels an image may be enlarged.

        Raises ``MataError`` for a processor that makes images of sides that are too long.
        """
        check_sizes(getattr(processor, "wrapped", processor))
        self.processor = processor
        self._max_pixels = max_pixels
        self._sides = lru_cache(CACHED_SIZES)(self._prepared_size)

    @property
    def input_size(self) -> tuple[int, int] | None:
        """The smallest ``(height, width)`` that images are resized to; None if they are not.

        For a processor that keeps the aspect ratio, both are its shorter edge.
        """
        size = getattr(self.processor, "size", None)
        if size is None or not getattr(self.processor, "do_resize", False):
            return None
        values = dict(size)
        if values.get("height") and values.get("width"):
            return int(values["height"]), int(values["width"])
        edge = int((values.get("shortest_edge") or 0) / self._kept_share)
        return (edge, edge) if edge else None

    @property
    def _kept_share(self) -> float:
        """The share of the shorter edge that is left when a processor crops what it resized.

        ConvNeXt's and PoolFormer's state it; ConvNeXt's uses it below 384 pixels. LeViT's is fixed.
        """
        if type(self.processor).__name__.startswith("Levit"):
            return _LEVIT_SHARE
        return float(getattr(self.processor, "crop_pct", None) or 1.0)

    @property
    def fixed_size(self) -> tuple[int, int] | None:
        """The ``(height, width)`` of every prepared image; None where it depends on the image."""
        first, second = (self._sides(size, padded=True) for size in PROBE_SIZES)
        return first if first == second else None

    def may_not_fit(self, config: Any) -> bool:
        """Whether ``config`` leaves a doubt that its network takes what this makes of images.

        It states the size of images that many networks take alone; others need sides that can be
        halved five times. There is no doubt of images that keep their shape: some may fit.
        """
        fixed, stated = self.fixed_size, set(stated_sizes(config))
        if fixed is None or fixed in stated:
            return False
        return bool(stated) or any(side % _STRIDE for side in fixed)

    @property
    def crops(self) -> bool:
        """Whether parts of images are cut off, so that the network sees less than the whole."""
        if not getattr(self.processor, "do_center_crop", False):
            return False
        size, crop = (dict(getattr(self.processor, name) or {}) for name in ("size", "crop_size"))
        sides = [(each.get("height"), each.get("width")) for each in (size, crop)]
        return not self.processor.do_resize or None in sides[0] or sides[0] != sides[1]

    @property
    def pads_untold(self) -> bool:
        """Whether images are padded for a detector that was not told so in training."""
        converts = getattr(self.processor, "do_convert_annotations", None)
        pads = getattr(self.processor, "do_pad", False) and self.processor.pad_size is not None
        return pads and converts is False

    def unpadded_size(self, size: Size) -> Size:
        """Return the (height, width) that an image of ``size`` is resized to, before padding."""
        return self._sides(size, padded=False)

    def frame(self, size: Size) -> tuple[float, float]:
        """Return the (height, width), in an image's own pixels, of all that the network sees.

        It is larger than the image's ``size`` where the processor puts a border below and to the
        right of it: ``pad_size``, or a square for OWLv2. What refers to fractions of the input
        refers to those of the frame, boxes of the DETR family too: transformers trains them so
        (``do_convert_annotations``), though its own post-processing takes the image for the frame.
        """
        if type(self.processor).__name__.startswith("Owlv2"):
            longest = float(max(size))
            return (longest, longest) if self.processor.do_pad else size
        if getattr(self.processor, "pad_size", None) is None:
            return size
        seen, kept = self._sides(size, padded=True), self.unpadded_size(size)
        return size[0] * seen[0] / kept[0], size[1] * seen[1] / kept[1]

    def without_border(self, maps: torch.Tensor, size: Size) -> torch.Tensor:
        """Cut what the ``frame`` has around an image of ``size`` off maps ``[N, C, h, w]``."""
        shares = [own / whole for own, whole in zip(size, self.frame(size), strict=True)]
        if min(shares) >= 1:
            return maps
        kept = [side * share for side, share in zip(maps.shape[-2:], shares, strict=True)]
        rows, columns = (max(1, math.ceil(round(each, 6))) for each in kept)
        # The image may end inside of a cell: it is stretched to end with one.
        stretched = interpolate(
            maps,
            scale_factor=(rows / kept[0], columns / kept[1]),
            mode="bilinear",
            align_corners=False,
            recompute_scale_factor=False,
        )
        return stretched[..., :rows, :columns]

    def _prepared_size(self, size: Size, *, padded: bool) -> Size:
        """Return the (height, width) of a blank image of ``size`` once it is prepared."""
        options = {} if padded else {"do_pad": False, "pad_size": None}
        shape = self._prepare(np.zeros((*size, 3), np.uint8), **options)["pixel_values"].shape
        return int(shape[-2]), int(shape[-1])

    def groups(self, images: Sequence[NDArray[np.uint8]]) -> Iterator[tuple[list[int], Tensors]]:
        """Yield the indices of images that can share a forward pass, with their tensors.

        Raises ``BadRequest`` for an image that has no pixel left after resizing, or too many.
        """
        for image in images:
            self.check_enlarged(image)
        prepared = [self._prepare(image) for image in images]
        alike: dict[tuple[object, ...], list[int]] = {}
        for index, tensors in enumerate(prepared):
            shapes = tuple((name, tensor.shape) for name, tensor in tensors.items())
            alike.setdefault(shapes, []).append(index)
        for indices in alike.values():
            names = prepared[indices[0]]
            yield indices, {name: torch.cat([prepared[i][name] for i in indices]) for name in names}

    def check_enlarged(self, image: NDArray[np.uint8]) -> None:
        """Raise ``BadRequest`` for an image that is far longer than wide.

        Its shorter side is enlarged to what the network sees, and the longer one with it: an image
        of 1 by 5000 pixels would take gigabytes before the middle of it is cut out.
        """
        if self._squares(*image.shape[:2]) > _MOST_SQUARES:
            raise too_small_error(image)
        edge, longest = self._shorter_and_longest
        short, long = sorted(image.shape[:2])
        enlarged = min(edge * edge * long / short, longest * longest * short / long)
        check_pixels(image, enlarged, edge * edge, self._max_pixels)

    def _squares(self, height: int, width: int) -> float:
        """Return how often the stated size fits into an image whose shape is kept; else 0.

        Of the two scales that fit a side, processors take the one that changes the image less.
        """
        if not (getattr(self.processor, "keep_aspect_ratio", False) and self.input_size):
            return 0.0
        if type(self.processor).__name__.startswith("ZoeDepth") and self.processor.do_pad:
            height, width = (side + 2 * int(3 * math.sqrt(side / 2)) for side in (height, width))
        rows, columns = self.input_size
        scale = min(rows / height, columns / width, key=lambda each: abs(1 - each))
        return scale * scale * height * width / (rows * columns)

    @property
    def _shorter_and_longest(self) -> tuple[int, float]:
        """What the shorter side becomes, 0 where none is scaled to, and the limit of the longer."""
        wrapped = getattr(self.processor, "wrapped", self.processor)
        size = dict(getattr(wrapped, "size", None) or {})
        edge, longest = int(size.get("shortest_edge") or 0), size.get("longest_edge") or math.inf
        if not getattr(wrapped, "do_resize", False):
            return 0, longest
        if type(wrapped).__name__.startswith("ConvNext") and edge >= _CONVNEXT_STRETCHED:
            return 0, longest
        return int(edge / self._kept_share), longest

    def _prepare(self, image: NDArray[np.uint8], **options: Any) -> Tensors:
        # Without the layout, an image 3 pixels high would be mistaken for a channels-first one.
        def prepare(shown: NDArray[np.uint8]) -> Any:
            return self.processor(
                images=[shown], input_data_format="channels_last", return_tensors="pt", **options
            )

        return dict(prepared(image, prepare).items())


def stated_sizes(config: Any) -> Iterator[Size]:
    """Yield the sizes of images that a network's configuration and those of its parts state.

    transformers lets it be a number, two of them, or a mapping of names; others state nothing.
    """
    for part in ("", "vision_config", "backbone_config", "encoder"):
        size = getattr(getattr(config, part, None) if part else config, "image_size", None)
        if isinstance(size, Mapping):
            size = size.get("height"), size.get("width")
        match (size, size) if isinstance(size, int) else size:
            case int(height), int(width):
                yield height, width


def prepared(image: NDArray[np.uint8], prepare: Callable[[NDArray[np.uint8]], Any]) -> Any:
    """Return what a processor of transformers makes of an image.

    It raises the same errors for an image that it cannot resize and for settings that do not fit
    each other. An image of a usual size tells them apart: raises ``BadRequest`` where that would be
    prepared, else ``MataError``.
    """
    try:
        return prepare(image)
    except _UNPREPARED as error:
        if "DefaultCPUAllocator" in str(error):  # ZoeDepth's resizes with torch
            raise
        try:
            prepare(np.zeros((*PROBE_SIZES[0], 3), np.uint8))
        except _UNPREPARED as fault:
            why = f"{type(fault).__name__}: {fault}".partition("\n")[0][:200]
            raise MataError(f"The processor of this model prepares no image: {why}") from error
        if "Padding dimensions are negative" in str(error):
            raise BadRequest(
                f"an image of {image.shape[1]}x{image.shape[0]} pixels is larger than this model "
                "takes: its processor pads images, and does not make them smaller"
            ) from error
        raise too_small_error(image) from error


def check_pixels(
    image: NDArray[np.uint8], resized: float, usual: float, max_pixels: int | None
) -> None:
    """Raise ``BadRequest`` for an image that would be enlarged to too many pixels.

    resized:    how many the image would have.
    usual:      how many a square one would have: the network needs them, however few pixels an
                image itself may have.
    max_pixels: how many an image itself may have, if that is limited.
    """
    height, width = image.shape[:2]
    if max_pixels is not None and resized > max(max_pixels, height * width, _LONGEST * usual):
        raise too_small_error(image)


def too_small_error(image: NDArray[np.uint8]) -> BadRequest:
    """Return the error for an image that shrinks to nothing inside the network."""
    height, width = image.shape[:2]
    return BadRequest(
        f"an image of {width}x{height} pixels is too small or too narrow for this model"
    )
