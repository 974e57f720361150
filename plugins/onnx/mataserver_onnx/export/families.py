"""The checkpoints that can be exported, and how: those whose export was compared with torch."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mataserver import BadRequest

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

FIXED = 0
"""``Family.step`` of networks whose inputs all have one size."""


@dataclass(frozen=True, slots=True)
class Family:
    """How one family's networks are traced.

    task:       the task that they are served for.
    auto:       the class of transformers that opens them.
    outputs:    those that are kept; the others are removed.
    step:       height and width may be any multiple of it; 0 if there is one size.
    takes_mask: they also take a mask of the pixels that are not padding.
    replaced_builtins: built-in functions that would turn a size of a traced tensor into a
                number, in the module of this family's code: they are replaced there during tracing.
    """

    task: str
    auto: str
    outputs: tuple[str, ...]
    step: int = FIXED
    takes_mask: bool = False
    replaced_builtins: tuple[str, ...] = ()


_BOXES = ("logits", "pred_boxes")
_DETR = Family("detect", "AutoModelForObjectDetection", _BOXES, step=1, takes_mask=True)
_RT_DETR = Family("detect", "AutoModelForObjectDetection", _BOXES, replaced_builtins=("len",))
_CLASSIFY = Family("classify", "AutoModelForImageClassification", ("logits",))
_SEGMENT = Family("segment", "AutoModelForSemanticSegmentation", ("logits",))
_DEPTH = ("depth", "AutoModelForDepthEstimation", ("predicted_depth",))
_POOLED = ("pooler_output",)

FAMILIES: dict[tuple[str, str], Family] = {
    ("conditional_detr", "detect"): _DETR,
    ("detr", "detect"): _DETR,
    ("table-transformer", "detect"): _DETR,
    ("d_fine", "detect"): _RT_DETR,
    ("rt_detr", "detect"): _RT_DETR,
    ("rt_detr_v2", "detect"): _RT_DETR,
    ("yolos", "detect"): Family("detect", "AutoModelForObjectDetection", _BOXES, step=16),
    **dict.fromkeys(
        (
            (name, "classify")
            for name in (
                "beit",
                "convnext",
                "convnextv2",
                "deit",
                "dinov2",
                "dinov2_with_registers",
                "efficientnet",
                "mobilenet_v1",
                "mobilenet_v2",
                "mobilevit",
                "resnet",
                "segformer",
                "swin",
                "swinv2",
                "vit",
            )
        ),
        _CLASSIFY,
    ),
    ("segformer", "segment"): _SEGMENT,
    ("beit", "segment"): _SEGMENT,
    ("upernet", "segment"): _SEGMENT,
    ("depth_anything", "depth"): Family(*_DEPTH, step=14, replaced_builtins=("int",)),
    ("dpt", "depth"): Family(*_DEPTH),
    ("glpn", "depth"): Family(*_DEPTH, step=32),
    ("clip", "embed"): Family("embed", "CLIPVisionModelWithProjection", ("image_embeds",)),
    ("dinov2", "embed"): Family("embed", "AutoModel", _POOLED),
    ("dinov2_with_registers", "embed"): Family("embed", "AutoModel", _POOLED),
    ("siglip", "embed"): Family("embed", "SiglipVisionModel", _POOLED),
}
"""The families by ``model_type`` and task."""

_HEADS = {
    "ForObjectDetection": "detect",
    "ForImageClassification": "classify",
    "ForSemanticSegmentation": "segment",
    "ForDepthEstimation": "depth",
}


def read_config(source: Path) -> dict[str, Any]:
    """Return the ``config.json`` of a checkpoint. Raises ``BadRequest``."""
    try:
        config = json.loads((source / "config.json").read_bytes())
    except (OSError, ValueError) as error:
        raise BadRequest("the model's config.json cannot be read") from error
    return config if isinstance(config, dict) else {}


def find(config: Mapping[str, Any], task: str | None) -> Family:
    """Return the family of a checkpoint by its ``config.json``.

    Without a task it is that of the checkpoint's head. Raises ``BadRequest`` for a family whose
    export has not been compared with torch.
    """
    kind = str(config.get("model_type", ""))
    wanted = task or _trained_for(config)
    family = FAMILIES.get((kind, wanted))
    if family is None:
        tasks = sorted(each for name, each in FAMILIES if name == kind)
        if tasks:
            raise BadRequest(f"a {kind} can be exported for {' and '.join(tasks)}, not {wanted}")
        raise BadRequest(
            f"models of type {kind or 'unknown'!r} are not exported: nobody has compared them "
            "with torch"
        )
    return family


def _trained_for(config: Mapping[str, Any]) -> str:
    for architecture in config.get("architectures") or ():
        for head, task in _HEADS.items():
            if str(architecture).endswith(head):
                return task
    return "embed"
