"""Depth estimation from one image.

Depth Anything (arXiv:2401.10891, arXiv:2406.09414) and DPT (arXiv:2103.13413) return inverse depth
up to scale unless a checkpoint says "metric"; ZoeDepth (arXiv:2302.12288) and GLPN
(arXiv:2201.07436) return metres.
"""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Any

from mataserver import DepthResult, MataError, Params
from mataserver_hf import installation

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    from mataserver import LoadContext, ModelSpec
    from mataserver_hf.network import Network
    from mataserver_hf.preprocessor import Preprocessor

    Size = tuple[int, int]

FAMILIES = frozenset({"depth_anything", "dpt", "glpn", "zoedepth"})
"""The values of ``model_type`` that it serves."""

# The deepest fusion layer has no earlier output to add, so half of it is never used; several
# published DPT checkpoints leave these weights out.
_UNUSED = re.compile(r"(^|\.)fusion_stage\.layers\.0\.residual_layer1\.")


GLPN_PIXELS = 4 * 480 * 640
"""To how many pixels a larger image is reduced for GLPN, which saw 480 by 640 in training.

Its processor keeps any size, and its attention grows with the square of the pixels: 12 megapixels
took 70 GB.
"""


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

    def __init__(self, network: Network, preprocessor: Preprocessor) -> None:
        """Keep the loaded parts."""
        self._network = network
        self._preprocessor = preprocessor
        pads = bool(getattr(preprocessor.processor, "do_pad", False))
        self._mirrored = pads and network.config.model_type == "zoedepth"
        self._padded = pads and not self._mirrored

    def predict(
        self, images: Sequence[NDArray[np.uint8]], params: Sequence[DepthParams]
    ) -> list[DepthResult]:
        """Return a float32 map ``[h, w]`` of each image."""
        found: dict[int, DepthResult] = {}
        for indices, tensors in self._preprocessor.groups(images):
            depths = self._network.finite(self._network.run(tensors).predicted_depth)
            rows, columns = tensors["pixel_values"].shape[-2:]
            for index, depth in zip(indices, depths, strict=True):
                height, width = images[index].shape[:2]
                kept = self._crop_border(depth, (height, width), (rows, columns))
                found[index] = self._result(kept, (height, width), params[index])
        return [found[index] for index in range(len(images))]

    def close(self) -> None:
        """Free the weights."""
        self._network.close()

    def _crop_border(self, depth: Any, source: Size, shown: Size) -> Any:
        """Remove the border that preprocessing added to an image to make it ``shown`` large."""
        if self._mirrored:
            return _crop_mirrored(depth, source)
        if not self._padded:
            return depth
        rows, columns = self._preprocessor.unpadded_size(source)
        return _crop_middle(_resize(depth, shown), (rows, columns))

    @staticmethod
    def _result(depth: Any, source: Size, params: DepthParams) -> DepthResult:
        values = _resize(depth, params.target_size or source).cpu().numpy()
        return DepthResult(_normalize(values) if params.normalize else values)


def _crop_mirrored(depth: Any, source: Size) -> Any:
    """Remove ZoeDepth's mirrored border: 3·√(side/2) pixels on each side of the image."""
    rows, columns = (int(3 * math.sqrt(side / 2)) for side in source)
    height, width = source
    full = _resize(depth, (height + 2 * rows, width + 2 * columns))
    return full[rows : rows + height, columns : columns + width]


def _crop_middle(full: Any, size: Size) -> Any:
    """Return the middle of a map; an odd border is larger below and to the right."""
    top, left = ((whole - part) // 2 for whole, part in zip(full.shape, size, strict=True))
    return full[top : top + size[0], left : left + size[1]]


def _resize(depth: Any, size: Size) -> Any:
    """Resize a map ``[h, w]`` with bicubic interpolation, as the reference implementations do."""
    if tuple(depth.shape) == size:
        return depth
    from torch.nn.functional import interpolate

    return interpolate(depth[None, None], size=size, mode="bicubic", align_corners=False)[0, 0]


def _normalize(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Stretch to 0..1; a constant map becomes zeros."""
    low, high = values.min(), values.max()
    shifted: NDArray[np.float32] = values - low
    return shifted / (high - low) if high > low else shifted


class _Reducing:
    """GLPN's image processor, and a bound for the images that it passes on."""

    def __init__(self, processor: Any) -> None:
        self.wrapped = processor

    def __call__(self, images: Sequence[NDArray[np.uint8]], **given: Any) -> Any:
        return self.wrapped(images=[self._reduced(image) for image in images], **given)

    def _reduced(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        import numpy as np
        from PIL import Image

        height, width = image.shape[:2]
        if height * width <= GLPN_PIXELS:
            return image
        rows, columns = reduced_size(height, width, self.wrapped.size_divisor)
        if not rows or not columns:
            return image  # which the processor refuses
        smaller = Image.fromarray(image).resize((columns, rows), self.wrapped.resample)
        return np.asarray(smaller)


def reduced_size(height: int, width: int, step: int) -> Size:
    """Return the (height, width) of at most ``GLPN_PIXELS`` for an image that has more.

    Both are multiples of ``step`` that do not exceed the image's; 0 for a side below ``step``.
    """
    scale = math.sqrt(GLPN_PIXELS / (height * width))
    rows, columns = (
        min(side // step, max(1, int(side * scale) // step)) * step for side in (height, width)
    )
    most = GLPN_PIXELS // max(step, min(rows, columns)) // step * step
    return min(rows, most), min(columns, most)


def load(spec: ModelSpec, ctx: LoadContext) -> DepthEstimator:
    """Load a depth estimator.

    Raises ``MataError`` for a checkpoint that is incomplete or made for another task, and
    ``Unavailable`` for a missing package or device.
    """
    installation.check()
    from transformers import AutoModelForDepthEstimation

    from mataserver_hf.checkpoint import Checkpoint
    from mataserver_hf.preprocessor import Preprocessor

    checkpoint = Checkpoint(spec, ctx)
    network = checkpoint.network(AutoModelForDepthEstimation, unused=_UNUSED)
    preprocessor = checkpoint.uncropped_preprocessor()
    if network.config.model_type == "glpn":
        _check_step(spec.name, network.config, preprocessor.processor)
        preprocessor = Preprocessor(_Reducing(preprocessor.processor), checkpoint.max_pixels)
    _set_patch_size(network.config, preprocessor)
    return checkpoint.compiled(DepthEstimator(network, preprocessor), DepthParams())


def _check_step(name: str, config: Any, processor: Any) -> None:
    """Raise ``MataError`` for a GLPN whose processor makes images that its network cannot take."""
    least, step = math.prod(config.strides), processor.size_divisor
    if processor.do_resize and (not isinstance(step, int) or step % least):
        raise MataError(
            f"the network of {name} takes images whose sides are multiples of {least} pixels, but "
            f"its image processor makes multiples of {step} (size_divisor)"
        )


def _set_patch_size(config: Any, preprocessor: Preprocessor) -> None:
    """Make a DPT without a separate backbone arrange its patches in the image's aspect ratio.

    transformers assumes a square arrangement: it fails for other images, or mixes patches up where
    their number is a square. It uses the image's shape where the configuration states a backbone's
    patch size, so one is set. DPT-Hybrid has no such setting: raises ``MataError`` where its
    processor does not produce the only (square) size that it takes.
    """
    if config.model_type != "dpt":
        return
    if config.is_hybrid:
        given = config.image_size
        side = given if isinstance(given, int) else given[0]
        if preprocessor.fixed_size != (side, side):
            raise MataError(
                f"a DPT-Hybrid takes images of {side}x{side} pixels alone, and its image processor "
                "makes others"
            )
    elif config.backbone_config is None:
        from transformers import ViTConfig

        config.backbone_config = ViTConfig(patch_size=config.patch_size)


BACKEND = installation.backend(
    name="hf-depth",
    task="depth",
    load=load,
    params=DepthParams,
    accepts=FAMILIES,
    compiles=True,
)
