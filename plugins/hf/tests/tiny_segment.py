"""Tiny segmentation checkpoints: random ones of each family, and one that finds what is bright."""

from __future__ import annotations

import json
from functools import partial
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

STUFF = frozenset({2, 3})
"""The classes that OneFormer's list of classes calls stuff."""
SQUARE = {"height": 64, "width": 64}


def redraw(model: Any, seed: int, *, queries: float, classes: float, masks: float = 1.0) -> None:
    """Redraw the weights; the factors make queries differ and answers neither sure nor empty."""
    import torch

    factors = {
        "query.weight": queries,
        "queries_embedder.weight": queries,
        "queries_features.weight": queries,
        "class_predictor": classes,
        "class_embed": classes,
        "mask_head": masks,
    }
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.dim() > 1:
                weight.normal_(std=max(1, weight[0].numel()) ** -0.5)
                for part, factor in factors.items():
                    if part in name:
                        weight.mul_(factor)


def _swin() -> Any:
    from transformers import SwinConfig

    return SwinConfig(
        embed_dim=8,
        depths=[1, 1, 1, 1],
        num_heads=[1, 1, 2, 2],
        window_size=4,
        image_size=64,
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )


def _segformer(tiny: Any) -> Any:
    from transformers import SegformerConfig, SegformerForSemanticSegmentation

    config = SegformerConfig(
        depths=[1, 1, 1, 1],
        hidden_sizes=[8, 8, 16, 16],
        num_attention_heads=[1, 1, 2, 2],
        decoder_hidden_size=16,
        mlp_ratios=[2, 2, 2, 2],
        **tiny.NAMED,
    )
    return SegformerForSemanticSegmentation(config)


def segformer(path: Path, tiny: Any) -> None:
    """SegFormer with random weights."""
    import torch
    from transformers import SegformerImageProcessorPil

    model = _segformer(tiny)
    redraw(model, 0, queries=1.0, classes=1.0)
    with torch.no_grad():
        model.decode_head.classifier.weight.mul_(6.0)
    tiny._save(path, model, SegformerImageProcessorPil(size=SQUARE))


def bright(path: Path, tiny: Any) -> None:
    """SegFormer that learnt in a second that bright rectangles are dogs and all else is cats."""
    import torch
    from transformers import SegformerImageProcessorPil

    torch.manual_seed(0)
    model = _segformer(tiny).train()
    steps = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(30):
        truth = torch.zeros(4, 64, 64, dtype=torch.long)
        for each in truth:
            top, left = torch.randint(0, 40, (2,)).tolist()
            each[top : top + 24, left : left + 24] = 1
        images = (truth[:, None] * 2.0 - 1.0).expand(-1, 3, -1, -1)
        loss = model(pixel_values=images + 0.1 * torch.randn(4, 3, 64, 64), labels=truth).loss
        steps.zero_grad()
        loss.backward()
        steps.step()
    half = [0.5, 0.5, 0.5]
    processor = SegformerImageProcessorPil(size=SQUARE, image_mean=half, image_std=half)
    tiny._save(path, model, processor)


def upernet(path: Path, tiny: Any) -> None:
    """UPerNet on a ResNet."""
    from transformers import (
        ResNetConfig,
        SegformerImageProcessorPil,
        UperNetConfig,
        UperNetForSemanticSegmentation,
    )

    backbone = ResNetConfig(
        **tiny.SMALL_RESNET, out_features=["stage1", "stage2", "stage3", "stage4"]
    )
    config = UperNetConfig(
        backbone_config=backbone,
        hidden_size=16,
        pool_scales=[1, 2],
        use_auxiliary_head=False,
        **tiny.NAMED,
    )
    model = UperNetForSemanticSegmentation(config)
    tiny.spread(model, 64)
    tiny._save(path, model, SegformerImageProcessorPil(size=SQUARE))


def beit(path: Path, tiny: Any) -> None:
    """BEiT with a head for semantic segmentation."""
    from transformers import BeitConfig, BeitForSemanticSegmentation, BeitImageProcessorPil

    config = BeitConfig(
        **{**tiny.SMALL_ENCODER, "num_hidden_layers": 4},
        image_size=64,
        patch_size=16,
        use_relative_position_bias=True,
        out_indices=[1, 2, 3, 4],
        pool_scales=[1, 2],
        use_auxiliary_head=False,
        **tiny.NAMED,
    )
    model = BeitForSemanticSegmentation(config)
    tiny.spread(model, 64)
    processor = BeitImageProcessorPil(size=SQUARE, do_center_crop=False)
    tiny._save(path, model, processor)


_SMALL_DECODER: dict[str, Any] = {
    "hidden_dim": 32,
    "encoder_feedforward_dim": 32,
    "encoder_layers": 1,
    "decoder_layers": 2,
    "num_attention_heads": 2,
    "dim_feedforward": 32,
    "num_queries": 8,
}


def mask2former(path: Path, tiny: Any) -> None:
    """Mask2Former on a Swin transformer."""
    from transformers import (
        Mask2FormerConfig,
        Mask2FormerForUniversalSegmentation,
        Mask2FormerImageProcessorPil,
    )

    config = Mask2FormerConfig(
        backbone_config=_swin(),
        feature_size=32,
        mask_feature_size=32,
        **_SMALL_DECODER,
        **tiny.NAMED,
    )
    model = Mask2FormerForUniversalSegmentation(config)
    redraw(model, 1, queries=8.0, classes=3.0)
    processor = Mask2FormerImageProcessorPil(size={"shortest_edge": 64, "longest_edge": 96})
    tiny._save(path, model, processor)


def maskformer(path: Path, tiny: Any) -> None:
    """MaskFormer on a Swin transformer."""
    from transformers import (
        DetrConfig,
        MaskFormerConfig,
        MaskFormerForInstanceSegmentation,
        MaskFormerImageProcessorPil,
    )

    decoder = DetrConfig(
        use_timm_backbone=False,
        d_model=32,
        encoder_layers=1,
        decoder_layers=2,
        encoder_ffn_dim=32,
        decoder_ffn_dim=32,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        num_queries=8,
    )
    config = MaskFormerConfig(
        backbone_config=_swin(),
        decoder_config=decoder,
        fpn_feature_size=32,
        mask_feature_size=32,
        **tiny.NAMED,
    )
    model = MaskFormerForInstanceSegmentation(config)
    redraw(model, 0, queries=40.0, classes=2.0)
    processor = MaskFormerImageProcessorPil(size={"shortest_edge": 64, "longest_edge": 96})
    tiny._save(path, model, processor)


def oneformer(path: Path, tiny: Any, *, listed: bool = True) -> None:
    """OneFormer; with ``listed`` it brings its list of classes, which published ones do not."""
    from transformers import (
        OneFormerConfig,
        OneFormerForUniversalSegmentation,
        OneFormerImageProcessorPil,
    )

    tokenizer = tiny.letters_tokenizer(77)
    config = OneFormerConfig(
        backbone_config=_swin(),
        conv_dim=32,
        mask_dim=32,
        text_encoder_width=32,
        text_encoder_num_layers=1,
        text_encoder_vocab_size=len(tokenizer),
        text_encoder_n_ctx=4,
        query_dec_layers=1,
        is_training=False,
        **_SMALL_DECODER,
        **tiny.NAMED,
    )
    model = OneFormerForUniversalSegmentation(config)
    redraw(model, 3, queries=8.0, classes=3.0)
    processor = OneFormerImageProcessorPil(size=SQUARE, num_text=4)
    tiny._save(path, model, processor, tokenizer)
    settings = json.loads((path / "preprocessor_config.json").read_text())
    settings |= {"class_info_file": "classes.json", "repo_path": "someone/elsewhere"}
    (path / "preprocessor_config.json").write_text(json.dumps(settings))
    if listed:
        classes = {
            str(index): {"isthing": int(index not in STUFF), "name": label}
            for index, label in tiny.LABELS.items()
        }
        (path / "classes.json").write_text(json.dumps(classes))


def detr(path: Path, tiny: Any) -> None:
    """DETR with a mask head."""
    import torch
    from transformers import DetrConfig, DetrForSegmentation, DetrImageProcessorPil, ResNetConfig

    backbone = ResNetConfig(
        **tiny.SMALL_RESNET, out_features=["stage1", "stage2", "stage3", "stage4"]
    )
    config = DetrConfig(
        use_timm_backbone=False,
        backbone_config=backbone,
        d_model=64,
        encoder_layers=1,
        decoder_layers=2,
        encoder_ffn_dim=32,
        decoder_ffn_dim=32,
        encoder_attention_heads=8,
        decoder_attention_heads=8,
        num_queries=8,
        **tiny.NAMED,
    )
    model = DetrForSegmentation(config)
    tiny.spread(model, 64)
    with torch.no_grad():  # queries differ only in where they look: make that count
        model.detr.model.query_position_embeddings.weight.mul_(20)
        model.mask_head.conv1.conv.weight[:, 64:].mul_(1000)
        model.mask_head.output_conv.weight.mul_(4)
        for name, weight in model.named_parameters():
            if "fpn_adapter" in name:
                weight.mul_(0.3)
            if "bbox_attention" in name and weight.dim() > 1:
                weight.mul_(3)
    size = {"shortest_edge": 64, "longest_edge": 96}
    tiny._save(path, model, DetrImageProcessorPil(size=size, format="coco_panoptic"))


def eomt(path: Path, tiny: Any, *, semantic: bool = False, dinov3: bool = False) -> None:
    """EoMT; semantic ones cut their images into squares, the others pad them."""
    import torch
    import transformers

    torch.manual_seed(0)  # what ``redraw`` leaves must not depend on the tests before
    family = "EomtDinov3" if dinov3 else "Eomt"
    config = getattr(transformers, f"{family}Config")(
        **tiny.SMALL_ENCODER,
        image_size=64,
        patch_size=16,
        num_upscale_blocks=1,
        num_blocks=1,
        num_queries=8,
        num_register_tokens=1,
        **tiny.NAMED,
    )
    model = getattr(transformers, f"{family}ForUniversalSegmentation")(config)
    if dinov3:
        redraw(model, 5, queries=8.0, classes=1.0, masks=0.3)
    else:
        redraw(model, 3, queries=8.0, classes=6.0, masks=1.0 if semantic else 0.6)
    size = {"shortest_edge": 64, "longest_edge": None if semantic else 64}
    processor = transformers.EomtImageProcessorPil(
        size=size, do_split_image=semantic, do_pad=not semantic
    )
    tiny._save(path, model, processor)


def builders(tiny: Any) -> dict[str, Callable[[Path], None]]:
    """Return every builder of this module; ``tiny`` is the module of the common parts."""
    return {
        "segformer": partial(segformer, tiny=tiny),
        "bright_segformer": partial(bright, tiny=tiny),
        "upernet": partial(upernet, tiny=tiny),
        "beit_segmenter": partial(beit, tiny=tiny),
        "mask2former": partial(mask2former, tiny=tiny),
        "maskformer": partial(maskformer, tiny=tiny),
        "oneformer": partial(oneformer, tiny=tiny),
        "oneformer_unlisted": partial(oneformer, tiny=tiny, listed=False),
        "detr_panoptic": partial(detr, tiny=tiny),
        "eomt": partial(eomt, tiny=tiny),
        "eomt_semantic": partial(eomt, tiny=tiny, semantic=True),
        "eomt_dinov3": partial(eomt, tiny=tiny, dinov3=True),
    }
