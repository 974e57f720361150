"""Tiny checkpoints with random weights, written the way the hub stores real ones.

Each builder takes the directory to fill. Frameworks are imported when a builder runs, so that
collecting the tests stays fast.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

LABELS = {0: "cat", 1: "dog", 2: "person", 3: "car"}
NAMED: dict[str, Any] = {
    "id2label": LABELS,
    "label2id": {label: index for index, label in LABELS.items()},
}
SMALL_ENCODER: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
}

SMALL_RESNET: dict[str, Any] = {
    "embedding_size": 8,
    "hidden_sizes": [8, 8, 16, 16],
    "depths": [1, 1, 1, 1],
    "layer_type": "basic",
}


def _save(path: Path, model: Any, processor: Any, tokenizer: Any = None) -> None:
    model.eval().save_pretrained(path)
    processor.save_pretrained(path)
    if tokenizer is not None:
        tokenizer.save_pretrained(path)


def spread(model: Any, side: int) -> None:
    """Redraw the weights so that scores differ from query to query.

    The initial weights of these detectors make every query score the same; He's initialisation
    (arXiv:1502.01852) and one pass of noise through the batch norms keep the signal alive.
    """
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
        model(pixel_values=torch.rand(2, 3, side, side))
    model.eval()


def _detr_like(path: Path, family: str, processor: str, stages: list[str]) -> None:
    import transformers

    backbone = transformers.ResNetConfig(**SMALL_RESNET, out_features=stages)
    config = getattr(transformers, f"{family}Config")(
        use_timm_backbone=False,
        use_pretrained_backbone=False,
        backbone=None,
        backbone_config=backbone,
        d_model=32,
        encoder_layers=1,
        decoder_layers=2,
        encoder_ffn_dim=32,
        decoder_ffn_dim=32,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        num_queries=10,
        **NAMED,
    )
    model = getattr(transformers, f"{family}ForObjectDetection")(config)
    spread(model, 64)
    size = {"shortest_edge": 64, "longest_edge": 96}
    _save(path, model, getattr(transformers, f"{processor}ImageProcessorPil")(size=size))


def _rt_detr_like(path: Path, family: str, backbone: Any, points: Any) -> None:
    import torch
    import transformers

    torch.manual_seed(1)  # the biases too: a test needs several classes among the detections
    config = getattr(transformers, f"{family}Config")(
        backbone_config=backbone,
        encoder_hidden_dim=32,
        encoder_in_channels=[16, 16, 16],
        encoder_layers=1,
        encoder_ffn_dim=32,
        encoder_attention_heads=2,
        d_model=32,
        num_queries=10,
        decoder_in_channels=[32, 32, 32],
        decoder_ffn_dim=32,
        decoder_layers=2,
        decoder_attention_heads=2,
        decoder_n_points=points,
        num_denoising=0,
        hidden_expansion=0.5,
        **NAMED,
    )
    model = getattr(transformers, f"{family}ForObjectDetection")(config)
    spread(model, 64)
    _save(path, model, transformers.RTDetrImageProcessorPil(size={"height": 64, "width": 64}))


def rt_detr(path: Path, family: str = "RTDetr") -> None:
    """RT-DETR, or RT-DETRv2, on a ResNet."""
    from transformers import RTDetrResNetConfig

    backbone = RTDetrResNetConfig(
        **{**SMALL_RESNET, "hidden_sizes": [8, 16, 16, 16]},
        out_features=["stage2", "stage3", "stage4"],
    )
    _rt_detr_like(path, family, backbone, 2)


def d_fine(path: Path) -> None:
    """D-FINE on an HGNetV2."""
    from transformers import HGNetV2Config

    ones = [1, 1, 1, 1]
    backbone = HGNetV2Config(
        stem_channels=[3, 8, 8],
        stage_in_channels=[8, 8, 16, 16],
        stage_mid_channels=[8, 8, 8, 8],
        stage_out_channels=[8, 16, 16, 16],
        stage_num_blocks=ones,
        stage_numb_of_layers=ones,
        stage_downsample=[False, True, True, True],
        stage_light_block=[False, False, True, True],
        stage_kernel_size=[3, 3, 3, 3],
        embedding_size=8,
        depths=ones,
        hidden_sizes=[8, 16, 16, 16],
        out_features=["stage2", "stage3", "stage4"],
    )
    _rt_detr_like(path, "DFine", backbone, [2, 2, 2])


def yolos(path: Path) -> None:
    """YOLOS: a plain transformer with detection tokens."""
    from transformers import YolosConfig, YolosForObjectDetection, YolosImageProcessorPil

    config = YolosConfig(
        image_size=[64, 96],
        patch_size=16,
        num_detection_tokens=10,
        use_mid_position_embeddings=False,
        **SMALL_ENCODER,
        **NAMED,
    )
    model = YolosForObjectDetection(config)
    spread(model, 64)
    _save(path, model, YolosImageProcessorPil(size={"shortest_edge": 64, "longest_edge": 96}))


def vit(path: Path, **changes: Any) -> None:
    """ViT with four classes; ``changes`` go into its configuration."""
    from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessorPil

    config = ViTConfig(image_size=32, patch_size=8, **{**SMALL_ENCODER, **NAMED, **changes})
    model = ViTForImageClassification(config)
    spread(model, 32)
    _save(path, model, ViTImageProcessorPil(size={"height": 32, "width": 32}))


def resnet(path: Path) -> None:
    """ResNet with four classes."""
    from transformers import ConvNextImageProcessorPil, ResNetConfig, ResNetForImageClassification

    model = ResNetForImageClassification(ResNetConfig(**SMALL_RESNET, **NAMED))
    spread(model, 64)
    _save(path, model, ConvNextImageProcessorPil(size={"shortest_edge": 64}))


def letters_tokenizer(length: int) -> Any:
    """A byte-level tokenizer without merges: each byte is a token."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    names = [*letters, "<unk>", "<pad>", "<s>", "</s>"]
    ids = {name: index for index, name in enumerate(names)}
    tokenizer = Tokenizer(models.BPE(vocab=ids, merges=[], unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", ids["<s>"]), ("</s>", ids["</s>"])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        model_max_length=length,
    )


def _image_text(path: Path, family: str, vision: dict[str, Any], processor: Any) -> None:
    import torch
    import transformers

    torch.manual_seed(0)
    tokenizer = letters_tokenizer(64)
    text = {
        "vocab_size": len(tokenizer),
        "max_position_embeddings": 64,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        **SMALL_ENCODER,
    }
    if family != "CLIP":
        text["projection_size"] = 32
    config = getattr(transformers, f"{family}Config")(
        text_config=text, vision_config={**SMALL_ENCODER, **vision}
    )
    model = getattr(transformers, f"{family}Model")(config)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() > 1:
                weight.normal_(std=weight[0].numel() ** -0.5)
        model.logit_scale.fill_(3.0)
        if family != "CLIP":
            model.logit_bias.fill_(-1.5)
    _save(path, model, processor, tokenizer)


def _clip_pixels() -> Any:
    from transformers import CLIPImageProcessorPil

    square = {"height": 32, "width": 32}
    return CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size=square)


def clip(path: Path) -> None:
    """CLIP whose tokens are bytes."""
    _image_text(path, "CLIP", {"image_size": 32, "patch_size": 8}, _clip_pixels())


def siglip(path: Path) -> None:
    """SigLIP whose tokens are bytes."""
    from transformers import SiglipImageProcessorPil

    processor = SiglipImageProcessorPil(size={"height": 32, "width": 32})
    _image_text(path, "Siglip", {"image_size": 32, "patch_size": 8}, processor)


def siglip2(path: Path) -> None:
    """SigLIP 2 with patches of any aspect ratio."""
    from transformers import Siglip2ImageProcessorPil

    processor = Siglip2ImageProcessorPil(patch_size=8, max_num_patches=16)
    _image_text(path, "Siglip2", {"num_patches": 16, "patch_size": 8}, processor)


def clip_classifier(path: Path) -> None:
    """CLIP's image encoder with a trained head."""
    from transformers import CLIPConfig, CLIPForImageClassification

    config = CLIPConfig(vision_config={**SMALL_ENCODER, "image_size": 32, "patch_size": 8}, **NAMED)
    _save(path, CLIPForImageClassification(config), _clip_pixels())


def depth_anything(path: Path) -> None:
    """Depth Anything on a DINOv2, with images of any aspect ratio."""
    from transformers import (
        DepthAnythingConfig,
        DepthAnythingForDepthEstimation,
        Dinov2Config,
        DPTImageProcessorPil,
    )

    backbone = Dinov2Config(
        **{**SMALL_ENCODER, "num_hidden_layers": 4},
        image_size=56,
        patch_size=14,
        out_indices=[1, 2, 3, 4],
        reshape_hidden_states=False,
        apply_layernorm=True,
    )
    config = DepthAnythingConfig(
        backbone_config=backbone,
        reassemble_hidden_size=32,
        neck_hidden_sizes=[8, 8, 16, 16],
        fusion_hidden_size=8,
        head_hidden_size=8,
    )
    model = DepthAnythingForDepthEstimation(config)
    spread(model, 56)
    processor = DPTImageProcessorPil(
        size={"height": 56, "width": 56}, keep_aspect_ratio=True, ensure_multiple_of=14
    )
    _save(path, model, processor)


def dpt(path: Path) -> None:
    """DPT on a plain transformer."""
    from transformers import DPTConfig, DPTForDepthEstimation, DPTImageProcessorPil

    config = DPTConfig(
        **{**SMALL_ENCODER, "num_hidden_layers": 4},
        image_size=64,
        patch_size=16,
        is_hybrid=False,
        backbone_out_indices=[0, 1, 2, 3],
        neck_hidden_sizes=[8, 8, 16, 16],
        fusion_hidden_size=8,
        use_auxiliary_head=False,
    )
    model = DPTForDepthEstimation(config)
    spread(model, 64)
    _save(path, model, DPTImageProcessorPil(size={"height": 64, "width": 64}))


def glpn(path: Path) -> None:
    """GLPN; its processor rounds sides down to a multiple of 32."""
    from transformers import GLPNConfig, GLPNForDepthEstimation, GLPNImageProcessorPil

    config = GLPNConfig(
        hidden_sizes=[8, 8, 16, 16],
        depths=[1, 1, 1, 1],
        num_attention_heads=[1, 1, 2, 2],
        decoder_hidden_size=8,
    )
    model = GLPNForDepthEstimation(config)
    spread(model, 64)
    _save(path, model, GLPNImageProcessorPil(size_divisor=32))


def zoedepth(path: Path) -> None:
    """ZoeDepth on a BEiT, for images that were mirrored at their border."""
    from transformers import (
        BeitConfig,
        ZoeDepthConfig,
        ZoeDepthForDepthEstimation,
        ZoeDepthImageProcessorPil,
    )

    backbone = BeitConfig(
        **{**SMALL_ENCODER, "num_hidden_layers": 4},
        image_size=64,
        patch_size=16,
        use_relative_position_bias=True,
        out_features=["stage1", "stage2", "stage3", "stage4"],
        reshape_hidden_states=False,
    )
    config = ZoeDepthConfig(
        backbone_config=backbone,
        backbone_hidden_size=32,
        neck_hidden_sizes=[8, 8, 16, 16],
        fusion_hidden_size=8,
        bottleneck_features=8,
        num_relative_features=8,
        bin_configurations=[{"n_bins": 8, "min_depth": 0.001, "max_depth": 10.0}],
    )
    model = ZoeDepthForDepthEstimation(config)
    spread(model, 64)
    _save(path, model, ZoeDepthImageProcessorPil(size={"height": 64, "width": 96}))


BUILDERS: dict[str, Callable[[Path], None]] = {
    "detr": partial(_detr_like, family="Detr", processor="Detr", stages=["stage4"]),
    "conditional_detr": partial(
        _detr_like, family="ConditionalDetr", processor="ConditionalDetr", stages=["stage4"]
    ),
    "deformable_detr": partial(
        _detr_like,
        family="DeformableDetr",
        processor="DeformableDetr",
        stages=["stage2", "stage3", "stage4"],
    ),
    "table_transformer": partial(
        _detr_like, family="TableTransformer", processor="Detr", stages=["stage4"]
    ),
    "rt_detr": rt_detr,
    "rt_detr_v2": partial(rt_detr, family="RTDetrV2"),
    "d_fine": d_fine,
    "yolos": yolos,
    "vit": vit,
    "resnet": resnet,
    "clip": clip,
    "siglip": siglip,
    "siglip2": siglip2,
    "clip_classifier": clip_classifier,
    "depth_anything": depth_anything,
    "dpt": dpt,
    "glpn": glpn,
    "zoedepth": zoedepth,
}
