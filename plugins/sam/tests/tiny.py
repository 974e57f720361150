"""Tiny checkpoints of SAM 3, 2 and 1 with random weights, written the way the hub stores real ones.

Each builder takes the directory to fill. Frameworks are imported when a builder runs, so that
collecting the tests stays fast.
"""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

SIDE = 112
"""The side of the square that the tiny SAM3 sees: 8 by 8 patches of 14 pixels."""

_GRID = SIDE // 14
_WIDE = (
    128  # the tracker's memory is 64 wide whatever it is told, and needs a wider model around it
)
_NARROW = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
}
_BLOCK = {"hidden_size": _WIDE, "num_attention_heads": 2, "intermediate_size": 64}


def tokenizer() -> Any:
    """CLIP's tokenizer with every byte as a word of its own; it reads 32 tokens."""
    from transformers import CLIPTokenizer
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    letters = list(bytes_to_unicode().values())
    words = [*letters, *(f"{each}</w>" for each in letters), "<|startoftext|>", "<|endoftext|>"]
    ids = {word: index for index, word in enumerate(words)}
    return CLIPTokenizer(vocab=ids, merges=[], model_max_length=32)


def _vision() -> dict[str, Any]:
    backbone = {
        **_NARROW,
        "model_type": "sam3_vit_model",
        "image_size": SIDE,
        "patch_size": 14,
        "window_size": 4,
        "global_attn_indexes": [1],
        "pretrain_image_size": 56,
    }
    return {
        "model_type": "sam3_vision_model",
        "backbone_config": backbone,
        "fpn_hidden_size": _WIDE,
        "backbone_feature_sizes": [[4 * _GRID] * 2, [2 * _GRID] * 2, [_GRID] * 2],
    }


def _detector(words: int) -> Any:
    from transformers import Sam3Config

    text = {
        **_NARROW,
        "model_type": "clip_text_model",
        "vocab_size": words,
        "projection_dim": 16,
        "max_position_embeddings": 32,
        "hidden_act": "gelu",
        "bos_token_id": words - 2,
        "eos_token_id": words - 1,
        "pad_token_id": words - 1,
    }
    return Sam3Config(
        vision_config=_vision(),
        text_config=text,
        geometry_encoder_config={**_BLOCK, "num_layers": 1, "roi_size": 7},
        detr_encoder_config={**_BLOCK, "num_layers": 1},
        detr_decoder_config={**_BLOCK, "num_layers": 2, "num_queries": 12},
        mask_decoder_config={
            "hidden_size": _WIDE,
            "num_upsampling_stages": 3,
            "num_attention_heads": 2,
        },
    )


def _tracker() -> Any:
    from transformers import Sam3TrackerVideoConfig

    return Sam3TrackerVideoConfig(
        image_size=SIDE,
        vision_config=_vision(),
        prompt_encoder_config={"hidden_size": _WIDE, "image_size": SIDE, "patch_size": 14},
        mask_decoder_config={
            "hidden_size": _WIDE,
            "mlp_dim": 64,
            "num_attention_heads": 2,
            "iou_head_hidden_dim": _WIDE,
        },
        memory_attention_hidden_size=_WIDE,
        memory_attention_num_layers=1,
        memory_attention_feed_forward_hidden_size=64,
        memory_attention_rope_feat_sizes=[_GRID, _GRID],
        memory_encoder_hidden_size=_WIDE,
        memory_encoder_output_channels=64,
        mask_downsampler_embed_dim=_WIDE,
        memory_fuser_embed_dim=_WIDE,
        memory_fuser_intermediate_dim=64,
        num_maskmem=3,
    )


def sam3(path: Path, **chosen: Any) -> None:
    """SAM3 in the layout of ``facebook/sam3``; ``chosen`` are settings of its video part.

    Random scores lie about 0.25, so by default everything that it detects in a video counts.
    """
    from transformers import Sam3VideoConfig

    words = len(tokenizer())
    every = {
        "low_res_mask_size": 4 * _GRID,
        "score_threshold_detection": 0.0,
        "new_det_thresh": 0.0,
        "det_nms_thresh": 0.0,
        "hotstart_delay": 0,
        "hotstart_unmatch_thresh": 0,
        "hotstart_dup_thresh": 0,
        "max_num_objects": 3,
        **chosen,
    }
    config = Sam3VideoConfig(
        detector_config=_detector(words).to_dict(), tracker_config=_tracker().to_dict(), **every
    )
    _save_sam3(path, config, SIDE)


def sam3_large(path: Path) -> None:
    """SAM3 of the architecture of ``facebook/sam3``: 3.4 GB of random weights. For benchmarks."""
    from transformers import Sam3VideoConfig

    _save_sam3(path, Sam3VideoConfig(), 1008)


def _save_sam3(path: Path, config: Any, side: int) -> None:
    import torch
    from transformers import Sam3VideoModel

    torch.manual_seed(0)
    Sam3VideoModel(config).eval().save_pretrained(path)
    _single_prefix(path / "model.safetensors")
    tokenizer().save_pretrained(path)
    _write(path, {"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "size": [side, side]})


def _single_prefix(file: Path) -> None:
    """Name the tracker's weights as the hub does: a model that was never loaded says it twice."""
    from safetensors.torch import load_file, save_file

    named = {
        name.replace("tracker_model.tracker_model.", "tracker_model."): weight
        for name, weight in load_file(file).items()
    }
    save_file(named, file, metadata={"format": "pt"})


def _write(path: Path, settings: dict[str, Any]) -> None:
    height, width = settings.pop("size")
    settings["size"] = {"height": height, "width": width}
    (path / "preprocessor_config.json").write_text(json.dumps(settings))


_HIERA: dict[str, Any] = {
    "model_type": "sam2_vision_model",
    "backbone_config": {
        "model_type": "sam2_hiera_det_model",
        "hidden_size": 8,
        "num_attention_heads": 1,
        "image_size": [64, 64],
        "embed_dim_per_stage": [8, 16, 32, 64],
        "num_attention_heads_per_stage": [1, 2, 4, 8],
        "blocks_per_stage": [1, 1, 2, 1],
        "window_size_per_stage": [4, 4, 4, 4],
        "global_attention_blocks": [3],
        "window_positional_embedding_background_size": [7, 7],
    },
    "backbone_channel_list": [64, 32, 16, 8],
    "backbone_feature_sizes": [[16, 16], [8, 8], [4, 4]],
    "fpn_hidden_size": _WIDE,
}
_IMAGENET = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
_DECODER = {"mlp_dim": 64, "num_attention_heads": 2, "iou_head_hidden_dim": 32}


def sam2(path: Path) -> None:
    """SAM 2 with its memory, for images and videos; it sees a square of 64 pixels."""
    import torch
    from transformers import Sam2VideoConfig, Sam2VideoModel

    config = Sam2VideoConfig(
        vision_config=_HIERA,
        prompt_encoder_config={"hidden_size": _WIDE, "image_size": 64, "patch_size": 16},
        mask_decoder_config={"hidden_size": _WIDE, **_DECODER},
        image_size=64,
        memory_attention_hidden_size=_WIDE,
        memory_attention_num_layers=1,
        memory_attention_feed_forward_hidden_size=64,
        memory_attention_rope_feat_sizes=[4, 4],
        memory_encoder_hidden_size=_WIDE,
        memory_encoder_output_channels=64,
        mask_downsampler_embed_dim=_WIDE,
        memory_fuser_embed_dim=_WIDE,
        memory_fuser_intermediate_dim=64,
        num_maskmem=3,
    )
    torch.manual_seed(0)
    Sam2VideoModel(config).eval().save_pretrained(path)
    _write(path, {**_IMAGENET, "size": [64, 64]})


def sam2_image(path: Path) -> None:
    """SAM 2 without a memory."""
    import torch
    from transformers import Sam2Config, Sam2Model

    config = Sam2Config(
        vision_config=_HIERA,
        prompt_encoder_config={"hidden_size": _WIDE, "image_size": 64, "patch_size": 16},
        mask_decoder_config={"hidden_size": _WIDE, **_DECODER},
    )
    torch.manual_seed(0)
    Sam2Model(config).eval().save_pretrained(path)


def sam1(path: Path) -> None:
    """SAM 1; it sees a square of 64 pixels."""
    import torch
    from transformers import SamConfig, SamModel

    vision = {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 64,
        "patch_size": 8,
        "output_channels": 32,
        "window_size": 4,
        "global_attn_indexes": [1],
        "mlp_dim": 64,
        "num_pos_feats": 16,
    }
    prompts = {"hidden_size": 32, "image_size": 64, "patch_size": 8, "mask_input_channels": 4}
    config = SamConfig(
        vision_config=vision,
        prompt_encoder_config=prompts,
        mask_decoder_config={"hidden_size": 32, **_DECODER},
    )
    torch.manual_seed(0)
    SamModel(config).eval().save_pretrained(path)
    _write(path, {**_IMAGENET, "size": [64, 64]})


def grounding(path: Path) -> None:
    """Grounding DINO, which finds boxes by text; it reads 32 tokens."""
    import torch
    from transformers import (
        BertConfig,
        BertTokenizer,
        GroundingDinoConfig,
        GroundingDinoForObjectDetection,
        GroundingDinoImageProcessorPil,
        SwinConfig,
    )

    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".", "cat", "dog", "car"]
    words = BertTokenizer(vocab={name: index for index, name in enumerate(names)})
    backbone = SwinConfig(
        embed_dim=8,
        depths=[1, 1, 1, 1],
        num_heads=[1, 1, 2, 2],
        window_size=4,
        image_size=64,
        out_indices=[2, 3, 4],
    )
    text = BertConfig(
        vocab_size=len(words),
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=64,
    )
    config = GroundingDinoConfig(
        backbone_config=backbone,
        text_config=text,
        num_queries=6,
        d_model=32,
        encoder_layers=1,
        decoder_layers=2,
        encoder_ffn_dim=32,
        decoder_ffn_dim=32,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_n_points=2,
        decoder_n_points=2,
        max_text_len=32,
    )
    torch.manual_seed(0)
    model = GroundingDinoForObjectDetection(config).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "class_embed" in name and name.endswith("bias"):
                weight.zero_()  # made for training: every probability starts next to 0
    model.save_pretrained(path)
    words.save_pretrained(path)
    GroundingDinoImageProcessorPil(size={"shortest_edge": 64, "longest_edge": 96}).save_pretrained(
        path
    )


def without(source: Path, target: Path, prefix: str) -> None:
    """Copy a checkpoint, leaving out the weights whose names begin with ``prefix``."""
    from safetensors.torch import load_file, save_file

    shutil.copytree(source, target)
    file = target / "model.safetensors"
    kept = {name: each for name, each in load_file(file).items() if not name.startswith(prefix)}
    save_file(kept, file, metadata={"format": "pt"})
