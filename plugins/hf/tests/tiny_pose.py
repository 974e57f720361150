"""Tiny pose checkpoints: random ones of both kinds, and one whose joints sit on what is bright."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

JOINTS = 17


def _vitpose(experts: int, *, simple: bool) -> Any:
    import torch
    from transformers import VitPoseBackboneConfig, VitPoseConfig, VitPoseForPoseEstimation

    backbone = VitPoseBackboneConfig(
        image_size=[64, 48],
        patch_size=[16, 16],
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        mlp_ratio=2,
        out_indices=[2],
        num_experts=experts,
        part_features=8,
    )
    config = VitPoseConfig(
        backbone_config=backbone,
        use_simple_decoder=simple,
        id2label={index: f"joint {index}" for index in range(JOINTS)},
    )
    torch.manual_seed(0)
    return VitPoseForPoseEstimation(config)


def _save(path: Path, model: Any) -> None:
    from transformers import VitPoseImageProcessorPil

    model.eval().save_pretrained(path)
    VitPoseImageProcessorPil(size={"height": 64, "width": 48}).save_pretrained(path)


def vitpose(path: Path, experts: int = 1, *, simple: bool = False) -> None:
    """Random weights, large enough to make heatmaps with peaks of both signs."""
    import torch

    model = _vitpose(experts, simple=simple)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() > 1:
                weight.normal_(std=(2.0 / weight[0].numel()) ** 0.5)
    _save(path, model)


def bright(path: Path) -> None:
    """Every joint lies in the middle of the brightest sixteenth of a person's picture.

    The patches' mean brightness, less a threshold, is the one feature; the layers hand it on.
    """
    import torch

    model = _vitpose(1, simple=True)
    embeddings = model.backbone.embeddings
    with torch.no_grad():
        for weight in model.parameters():
            weight.zero_()
        for name, weight in model.named_parameters():
            if "layernorm" in name and name.endswith("weight"):
                weight.fill_(1.0)
        embeddings.patch_embeddings.projection.weight[0].fill_(1.0 / (3 * 16 * 16))
        embeddings.patch_embeddings.projection.bias[0] = -1.0
        model.head.conv.weight[:, 0] = 0.02
        model.head.conv.weight[:, 0, 1, 1] = 0.04
    _save(path, model)


BUILDERS: dict[str, Callable[[Path], None]] = {
    "vitpose": vitpose,
    "vitpose_plus": partial(vitpose, experts=3, simple=True),
    "vitpose_bright": bright,
}
