"""Tiny checkpoints with random weights, one a task, with as few operators as their family allows.

Tracing takes time by the operator. Frameworks are imported when a builder runs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

LABELS = {0: "cat", 1: "dog", 2: "person", 3: "car"}
NAMED: dict[str, Any] = {
    "id2label": LABELS,
    "label2id": {label: index for index, label in LABELS.items()},
}
SMALL: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 64,
}


def _spread(model: Any, side: int = 0) -> None:
    """Redraw the weights (He, arXiv:1502.01852) so that answers differ from place to place."""
    import torch

    torch.manual_seed(0)
    norms = [part for part in model.modules() if isinstance(part, torch.nn.BatchNorm2d)]
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() > 1:
                weight.normal_(std=(2.0 / max(1, weight[0].numel())) ** 0.5)
        for norm in norms:
            norm.momentum = 1.0
            norm.train()
        if norms:
            model(pixel_values=torch.rand(2, 3, side, side))


def _save(path: Path, model: Any, processor: Any) -> None:
    model.eval().save_pretrained(path)
    processor.save_pretrained(path)


def rt_detr(path: Path) -> None:
    """RT-DETR with one level of features."""
    import transformers

    backbone = transformers.RTDetrResNetConfig(
        embedding_size=8,
        hidden_sizes=[8, 16],
        depths=[1, 1],
        layer_type="basic",
        out_features=["stage2"],
    )
    config = transformers.RTDetrConfig(
        backbone_config=backbone,
        encoder_hidden_dim=16,
        encoder_in_channels=[16],
        feat_strides=[8],
        encode_proj_layers=[0],
        encoder_layers=1,
        encoder_ffn_dim=16,
        encoder_attention_heads=2,
        d_model=16,
        num_queries=10,
        num_feature_levels=1,
        decoder_in_channels=[16],
        decoder_ffn_dim=16,
        decoder_layers=1,
        decoder_attention_heads=2,
        decoder_n_points=2,
        num_denoising=0,
        **NAMED,
    )
    model = transformers.RTDetrForObjectDetection(config)
    _spread(model, 64)
    _save(path, model, transformers.RTDetrImageProcessorPil(size={"height": 64, "width": 64}))


def vit(path: Path) -> None:
    """ViT with a head."""
    import transformers

    config = transformers.ViTConfig(**SMALL, image_size=32, patch_size=8, **NAMED)
    model = transformers.ViTForImageClassification(config)
    _spread(model)
    _save(path, model, transformers.ViTImageProcessorPil(size={"height": 32, "width": 32}))


def segformer(path: Path) -> None:
    """SegFormer with two blocks."""
    import transformers

    config = transformers.SegformerConfig(
        num_encoder_blocks=2,
        depths=[1, 1],
        sr_ratios=[2, 1],
        hidden_sizes=[8, 16],
        patch_sizes=[7, 3],
        strides=[4, 2],
        num_attention_heads=[1, 2],
        mlp_ratios=[2, 2],
        decoder_hidden_size=16,
        **NAMED,
    )
    model = transformers.SegformerForSemanticSegmentation(config)
    _spread(model, 64)
    _save(path, model, transformers.SegformerImageProcessorPil(size={"height": 64, "width": 64}))


def depth_anything(path: Path) -> None:
    """Depth Anything on one layer of DINOv2, with images of any aspect ratio."""
    import transformers

    backbone = transformers.Dinov2Config(
        **SMALL,
        image_size=56,
        patch_size=14,
        out_indices=[1],
        reshape_hidden_states=False,
        apply_layernorm=True,
    )
    config = transformers.DepthAnythingConfig(
        backbone_config=backbone,
        reassemble_hidden_size=32,
        reassemble_factors=[1],
        neck_hidden_sizes=[8],
        fusion_hidden_size=8,
        head_hidden_size=8,
    )
    model = transformers.DepthAnythingForDepthEstimation(config)
    _spread(model)
    processor = transformers.DPTImageProcessorPil(
        size={"height": 56, "width": 56}, keep_aspect_ratio=True, ensure_multiple_of=14
    )
    _save(path, model, processor)


def clip(path: Path) -> None:
    """The half of CLIP that sees, with a text half that is never read."""
    import transformers

    config = transformers.CLIPConfig(
        text_config={**SMALL, "vocab_size": 16, "max_position_embeddings": 8},
        vision_config={**SMALL, "image_size": 32, "patch_size": 8, "projection_dim": 16},
        projection_dim=16,
    )
    model = transformers.CLIPModel(config)
    _spread(model)
    processor = transformers.CLIPImageProcessorPil(
        size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}
    )
    _save(path, model, processor)


BUILDERS: dict[str, Callable[[Path], None]] = {
    "rt_detr": rt_detr,
    "vit": vit,
    "segformer": segformer,
    "depth_anything": depth_anything,
    "clip": clip,
}
