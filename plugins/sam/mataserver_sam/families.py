"""The families of SAM as backends: SAM 1, 2 and 3, and Grounding DINO with a SAM."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from mataserver import Backend, MataError, Part
from mataserver_sam import installation
from mataserver_sam.params import GroundedParams, SegmentParams

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping
    from pathlib import Path

    from mataserver import LoadContext, ModelFiles, ModelSpec
    from mataserver_sam.grounded import GroundedSegmenter
    from mataserver_sam.model import Segmenter
    from mataserver_sam.settings import Settings

SAM3 = frozenset({"sam3_video"})
SAM2 = frozenset({"sam2", "sam2_video"})
SAM1 = frozenset({"sam"})
GROUNDING = frozenset({"grounding-dino", "mm-grounding-dino"})
"""The values of ``model_type`` that each backend serves."""


def load_sam3(spec: ModelSpec, ctx: LoadContext) -> Segmenter[Any]:
    """Load SAM3.

    Raises ``MataError`` for a checkpoint that is incomplete or unreadable, and ``Unavailable`` for
    a missing package or device.
    """
    path, ctx = _prepare_load(spec, ctx)
    from mataserver_sam import loading
    from mataserver_sam.image import Sam3ImageSegmenter
    from mataserver_sam.model import Segmenter

    weights = loading.load_sam3(path, ctx.device, ctx.dtype)
    images = Sam3ImageSegmenter(weights, ctx.settings.text_cache_mb * 1e6)
    return Segmenter(images, weights, ctx)


def load_sam2(spec: ModelSpec, ctx: LoadContext) -> Segmenter[Any]:
    """Load SAM 2; raises what ``load_sam3`` raises."""
    path, ctx = _prepare_load(spec, ctx)
    from mataserver_sam import loading
    from mataserver_sam.model import Segmenter
    from mataserver_sam.prompted import PromptedImageSegmenter

    weights = loading.load_sam2(path, ctx.device, ctx.dtype)
    return Segmenter(PromptedImageSegmenter(weights), weights, ctx)


def load_sam1(spec: ModelSpec, ctx: LoadContext) -> Segmenter[Any]:
    """Load SAM 1; raises what ``load_sam3`` raises."""
    path, ctx = _prepare_load(spec, ctx)
    from mataserver_sam import loading
    from mataserver_sam.model import Segmenter
    from mataserver_sam.prompted import PromptedImageSegmenter

    weights = loading.load_sam1(path, ctx.device, ctx.dtype)
    return Segmenter(PromptedImageSegmenter(weights), weights, ctx)


def load_grounded(_spec: ModelSpec, ctx: LoadContext) -> GroundedSegmenter:
    """Combine the loaded parts, ``detector`` and ``segmenter``.

    Raises ``Unavailable`` when the segmenter is not a model of this plugin.
    """
    from mataserver_sam.grounded import GroundedSegmenter

    return GroundedSegmenter(ctx.parts["detector"], ctx.parts["segmenter"])


def _prepare_load(spec: ModelSpec, ctx: LoadContext) -> tuple[Path, LoadContext]:
    """Return the checkpoint's directory, and the context with the configured device.

    Sets torch's threads (``ctx.threads``, 0 leaves them).
    """
    installation.check()
    import torch

    if spec.path is None:
        raise MataError(f"{spec.name} has no directory to load from")
    if ctx.threads > 0:
        torch.set_num_threads(ctx.threads)
    return spec.path, replace(ctx, device=ctx.settings.device or ctx.device)


def grounded_parts(files: ModelFiles, settings: Settings) -> Mapping[str, Part]:
    """Name this same model as the detector, and the configured SAM as the segmenter."""
    return {
        "detector": Part(files.name, "detect"),
        "segmenter": Part(settings.segmenter, "segment"),
    }


def _of(families: Collection[str]) -> Callable[[ModelFiles], bool]:
    """Return what says whether a checkpoint is one of the families."""
    return lambda files: files.model_type in families


_COMMON: dict[str, Any] = {
    "task": "segment",
    "source": "hf",
    "requires": installation.REQUIRES,
    "gpu": True,
    "packages": installation.PACKAGES,
    "preload": installation.PRELOAD,
    "environment": installation.ENVIRONMENT,
}

BACKENDS = (
    Backend(name="sam3", load=load_sam3, params=SegmentParams, accepts=_of(SAM3), **_COMMON),
    Backend(name="sam2", load=load_sam2, params=SegmentParams, accepts=_of(SAM2), **_COMMON),
    Backend(name="sam", load=load_sam1, params=SegmentParams, accepts=_of(SAM1), **_COMMON),
    Backend(
        name="grounded-sam",
        load=load_grounded,
        params=GroundedParams,
        accepts=_of(GROUNDING),
        parts=grounded_parts,
        **_COMMON,
    ),
)
