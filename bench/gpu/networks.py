"""Checkpoints of published sizes with random weights, written as the hub stores them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import tiny

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SMALL: dict[str, Any] = tiny.SMALL_ENCODER


def vit(path: Path, *, quick: bool) -> None:
    """ViT-B/16 (arXiv:2010.11929) with a thousand classes."""
    import transformers

    config = transformers.ViTConfig(num_labels=1000, **(SMALL if quick else {}))
    pixels = transformers.ViTImageProcessorPil(size={"height": 224, "width": 224})
    save(path, transformers.ViTForImageClassification(config), pixels)


def rt_detr(path: Path, *, quick: bool) -> None:
    """RT-DETR with a ResNet-50 (arXiv:2304.08069)."""
    import transformers

    if quick:
        tiny.rt_detr(path)
        return
    backbone = transformers.RTDetrResNetConfig(out_features=["stage2", "stage3", "stage4"])
    config = transformers.RTDetrConfig(backbone_config=backbone, num_labels=80)
    pixels = transformers.RTDetrImageProcessorPil(size={"height": 640, "width": 640})
    save(path, transformers.RTDetrForObjectDetection(config), pixels)


def clip(path: Path, *, quick: bool) -> None:
    """CLIP ViT-L/14 (arXiv:2103.00020), asked for two texts."""
    import transformers

    large = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16}
    vision = {**(SMALL if quick else {**large, "intermediate_size": 4096}), "patch_size": 14}
    tokenizer = tiny.letters_tokenizer(77)
    text = {"vocab_size": len(tokenizer), **(SMALL if quick else {"hidden_size": 768})}
    ends = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    config = transformers.CLIPConfig(text_config={**text, **ends}, vision_config=vision)
    pixels = transformers.CLIPImageProcessorPil()
    save(path, transformers.CLIPModel(config), pixels)
    tokenizer.save_pretrained(path)


def depth_anything(path: Path, *, quick: bool) -> None:
    """Depth Anything V2 Large (arXiv:2406.09414)."""
    import transformers

    large = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16}
    indices = [1, 2, 3, 4] if quick else [5, 12, 18, 24]
    backbone = transformers.Dinov2Config(
        **({**SMALL, "num_hidden_layers": 4} if quick else large),
        image_size=518,
        patch_size=14,
        out_indices=indices,
        reshape_hidden_states=False,
        apply_layernorm=True,
    )
    config = transformers.DepthAnythingConfig(
        backbone_config=backbone,
        reassemble_hidden_size=backbone.hidden_size,
        neck_hidden_sizes=[8, 8, 16, 16] if quick else [256, 512, 1024, 1024],
        fusion_hidden_size=8 if quick else 256,
    )
    side = 56 if quick else 518
    pixels = transformers.DPTImageProcessorPil(
        size={"height": side, "width": side}, keep_aspect_ratio=True, ensure_multiple_of=14
    )
    save(path, transformers.DepthAnythingForDepthEstimation(config), pixels)


def save(path: Path, model: Any, pixels: Any) -> None:
    """Write a checkpoint."""
    model.eval().save_pretrained(path)
    pixels.save_pretrained(path)


TASKS = {"vit": "classify", "rt_detr": "detect", "clip": "classify", "depth_anything": "depth"}
BUILDERS: dict[str, Callable[..., None]] = {
    "vit": vit,
    "rt_detr": rt_detr,
    "clip": clip,
    "depth_anything": depth_anything,
}
PARAMS: dict[str, dict[str, Any]] = {
    "vit": {"top_k": 5},
    "rt_detr": {"confidence": 0.0},
    "clip": {"prompts": ["cat", "dog"]},
    "depth_anything": {},
}
"""What each is asked with, so that every answer has something in it."""
