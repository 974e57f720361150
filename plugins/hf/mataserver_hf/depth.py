"""Depth estimation from one image.

Depth Anything (arXiv:2401.10891, arXiv:2406.09414) and DPT (arXiv:2103.13413) return inverse depth
up to scale unless a checkpoint says "metric"; ZoeDepth (arXiv:2302.12288) and GLPN
(arXiv:2201.07436) return metres.
"""

from __future__ import annotations

import math
import re
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from mataserver import Backend, DepthResult, MataError, Params
from mataserver_hf import installation

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    from mataserver import LoadContext, ModelFiles, ModelSpec
    from mataserver_hf.network import Network
    from mataserver_hf.pixels import Pixels

    Size = tuple[int, int]

FAMILIES = frozenset({"depth_anything", "dpt", "glpn", "zoedepth"})
"""The values of ``model_type`` that it serves."""

# The deepest fusion layer has nothing to add to, so half of it is never read; several published
# DPT checkpoints leave these weights out.
_UNUSED = re.compile(r"(^|\.)fusion_stage\.layers\.0\.residual_layer1\.")


REMEMBERED = 64
"""Sizes of images of which is kept how the processor resizes them: asking costs as one of them."""


class DepthParams(Params, frozen=True):
    """How to return the map.

    normalize:   stretch the map to 0..1 (a constant map becomes zeros); false returns the model's
                 own values.
    target_size: ``[height, width]`` of the map; by default the image's.
    """

    normalize: bool = True
    target_size: tuple[int, int] | None = None


class DepthEstimator:
    """A network that predicts one value per pixel."""

    def __init__(self, network: Network, pixels: Pixels) -> None:
        """Keep the loaded parts."""
        self._network = network
        self._pixels = pixels
        pads = bool(getattr(pixels.processor, "do_pad", False))
        self._mirrored = pads and network.config.model_type == "zoedepth"
        self._padded = pads and not self._mirrored
        self._unpadded = lru_cache(REMEMBERED)(pixels.unpadded)

    def predict(
        self, images: Sequence[NDArray[np.uint8]], params: Sequence[DepthParams]
    ) -> list[DepthResult]:
        """Return a float32 map ``[h, w]`` of each image."""
        found: dict[int, DepthResult] = {}
        for indices, tensors in self._pixels.groups(images):
            depths = self._network.finite(self._network.run(tensors).predicted_depth)
            rows, columns = tensors["pixel_values"].shape[-2:]
            for index, depth in zip(indices, depths, strict=True):
                height, width = images[index].shape[:2]
                kept = self._cut(depth, (height, width), (rows, columns))
                found[index] = self._result(kept, (height, width), params[index])
        return [found[index] for index in range(len(images))]

    def close(self) -> None:
        """Free the weights."""
        self._network.close()

    def _cut(self, depth: Any, source: Size, shown: Size) -> Any:
        """Cut off what preprocessing has put around an image to make it ``shown``."""
        if self._mirrored:
            return _without_border(depth, source)
        if not self._padded:
            return depth
        rows, columns = self._unpadded(source)
        return _middle(_resize(depth, shown), (rows, columns))

    @staticmethod
    def _result(depth: Any, source: Size, params: DepthParams) -> DepthResult:
        values = _resize(depth, params.target_size or source).cpu().numpy()
        return DepthResult(_normalize(values) if params.normalize else values)


def _without_border(depth: Any, source: Size) -> Any:
    """Cut off what ZoeDepth's preprocessing mirrored around the image: 3·√(side/2) pixels each."""
    rows, columns = (int(3 * math.sqrt(side / 2)) for side in source)
    height, width = source
    full = _resize(depth, (height + 2 * rows, width + 2 * columns))
    return full[rows : rows + height, columns : columns + width]


def _middle(full: Any, size: Size) -> Any:
    """Return the middle of a map; of an uneven border more lies below and to the right."""
    top, left = ((whole - part) // 2 for whole, part in zip(full.shape, size, strict=True))
    return full[top : top + size[0], left : left + size[1]]


def _resize(depth: Any, size: Size) -> Any:
    """Resize a map ``[h, w]`` with bicubic interpolation, as the models' authors do."""
    if tuple(depth.shape) == size:
        return depth
    from torch.nn.functional import interpolate

    return interpolate(depth[None, None], size=size, mode="bicubic", align_corners=False)[0, 0]


def _normalize(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Stretch to 0..1; a constant map becomes zeros."""
    low, high = values.min(), values.max()
    shifted: NDArray[np.float32] = values - low
    return shifted / (high - low) if high > low else shifted


def load(spec: ModelSpec, ctx: LoadContext) -> DepthEstimator:
    """Load a depth estimator.

    Raises ``MataError`` for a checkpoint that is incomplete or made for another task, and
    ``Unavailable`` for a missing package or device.
    """
    installation.check()
    from transformers import AutoModelForDepthEstimation

    from mataserver_hf.checkpoint import Checkpoint

    checkpoint = Checkpoint(spec, ctx)
    network = checkpoint.network(AutoModelForDepthEstimation, unused=_UNUSED)
    pixels = checkpoint.whole_pixels()
    _tell_patches(network.config, pixels)
    return checkpoint.ready(DepthEstimator(network, pixels), DepthParams())


def _tell_patches(config: Any, pixels: Pixels) -> None:
    """Have a DPT without a backbone of its own lay its patches out as the image has them.

    transformers takes them for a square's there: it fails for others, or mixes them up where their
    number is that of a square. Its code looks at the image where the configuration tells a
    backbone's size of patches. DPT-Hybrid has no such place: raises ``MataError`` where its
    processor does not make the only square that it takes.
    """
    if config.model_type != "dpt":
        return
    if config.is_hybrid:
        given = config.image_size
        side = given if isinstance(given, int) else given[0]
        if pixels.fixed_size != (side, side):
            raise MataError(
                f"a DPT-Hybrid takes images of {side}x{side} pixels alone, and its image processor "
                "makes others"
            )
    elif config.backbone_config is None:
        from transformers import ViTConfig

        config.backbone_config = ViTConfig(patch_size=config.patch_size)


def accepts(files: ModelFiles) -> bool:
    """Whether the checkpoint is one of ``FAMILIES``."""
    return files.model_type in FAMILIES


BACKEND = Backend(
    name="hf-depth",
    task="depth",
    source="hf",
    load=load,
    params=DepthParams,
    accepts=accepts,
    requires=installation.REQUIRES,
    gpu=True,
    compiles=True,
    packages=installation.PACKAGES,
    preload=installation.PRELOAD,
    environment=installation.ENVIRONMENT,
)
