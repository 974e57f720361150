"""Tiny checkpoints that take prompts, and image encoders, with random weights."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

WORDS = ("cat", "dog", "car", "red", "a", "person", "é")


def _redraw(model: Any, seed: int = 0) -> None:
    import torch

    torch.manual_seed(seed)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() > 1:
                weight.normal_(std=max(1, weight[0].numel()) ** -0.5)


def _words_tokenizer() -> Any:
    from transformers import BertTokenizer

    letters = "abcdefghijklmnopqrstuvwxyz0123456789"
    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".", ",", "?", *WORDS, *letters]
    names += [f"##{letter}" for letter in letters]
    ids = {name: index for index, name in enumerate(dict.fromkeys(names))}
    return BertTokenizer(vocab=ids, model_max_length=256)


def grounding(path: Path, tiny: Any, *, family: str = "GroundingDino") -> None:
    """Grounding DINO, or MM Grounding DINO; it reads 32 tokens."""
    import torch
    import transformers

    tokenizer = _words_tokenizer()
    backbone = transformers.SwinConfig(
        embed_dim=8,
        depths=[1, 1, 1, 1],
        num_heads=[1, 1, 2, 2],
        window_size=4,
        image_size=64,
        out_indices=[2, 3, 4],
    )
    text = transformers.BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=64,
    )
    config = getattr(transformers, f"{family}Config")(
        backbone_config=backbone,
        text_config=text,
        num_queries=10,
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
    model = getattr(transformers, f"{family}ForObjectDetection")(config)
    _redraw(model, 5)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "class_embed" in name and name.endswith("bias"):
                weight.zero_()  # made for training: every probability starts next to 0
        model.model.query_position_embeddings.weight.mul_(10)  # or else queries are alike
    size = {"shortest_edge": 64, "longest_edge": 96}
    processor = transformers.GroundingDinoImageProcessorPil(size=size)
    tiny._save(path, model, processor, tokenizer)


def owl(path: Path, tiny: Any, *, family: str) -> None:
    """OWL-ViT or OWLv2; it reads 16 tokens."""
    import torch
    import transformers

    torch.manual_seed(2)  # the biases too: a test needs several labels among the detections

    tokenizer = tiny.letters_tokenizer(16)
    config = getattr(transformers, f"{family}Config")(
        text_config={
            **tiny.SMALL_ENCODER,
            "vocab_size": len(tokenizer),
            "max_position_embeddings": 16,
            "bos_token_id": tokenizer.bos_token_id,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
        },
        vision_config={**tiny.SMALL_ENCODER, "image_size": 64, "patch_size": 16},
        projection_dim=32,
    )
    model = getattr(transformers, f"{family}ForObjectDetection")(config)
    _redraw(model, 1)
    processor = getattr(transformers, f"{family}ImageProcessorPil")(
        size={"height": 64, "width": 64}
    )
    tiny._save(path, model, processor, tokenizer)


def clipseg(path: Path, tiny: Any) -> None:
    """CLIPSeg; it reads 32 tokens."""
    import torch
    from transformers import CLIPSegConfig, CLIPSegForImageSegmentation, ViTImageProcessorPil

    tokenizer = tiny.letters_tokenizer(32)
    config = CLIPSegConfig(
        text_config={
            **tiny.SMALL_ENCODER,
            "vocab_size": len(tokenizer),
            "max_position_embeddings": 32,
            "bos_token_id": tokenizer.bos_token_id,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
        },
        vision_config={
            **tiny.SMALL_ENCODER,
            "num_hidden_layers": 3,
            "image_size": 64,
            "patch_size": 16,
        },
        projection_dim=32,
        extract_layers=[0, 1, 2],
        reduce_dim=16,
        decoder_num_attention_heads=2,
        decoder_intermediate_size=32,
    )
    model = CLIPSegForImageSegmentation(config)
    _redraw(model, 2)
    with torch.no_grad():  # or else prompts hardly matter
        model.decoder.film_mul.weight.mul_(6)
        model.decoder.film_add.weight.mul_(6)
        model.decoder.transposed_convolution.weight.mul_(3)
    tiny._save(path, model, ViTImageProcessorPil(size={"height": 64, "width": 64}), tokenizer)


def dinov2(path: Path, tiny: Any, *, family: str = "Dinov2") -> None:
    """DINOv2, or one with registers, in its usual preparation: resize, then crop the middle."""
    import transformers

    config = getattr(transformers, f"{family}Config")(
        **tiny.SMALL_ENCODER, image_size=56, patch_size=14
    )
    model = getattr(transformers, f"{family}Model")(config)
    _redraw(model)
    processor = transformers.BitImageProcessorPil(
        size={"shortest_edge": 64}, crop_size={"height": 56, "width": 56}
    )
    tiny._save(path, model, processor)


def dinov3(path: Path, tiny: Any, *, family: str = "DINOv3ViT") -> None:
    """DINOv3, a transformer or a convolutional network, and the settings of its preparation."""
    import json

    import transformers

    shape: dict[str, Any] = {**tiny.SMALL_ENCODER, "image_size": 64, "patch_size": 16}
    if family == "DINOv3ConvNext":
        shape = {"hidden_sizes": [8, 8, 16, 32], "depths": [1, 1, 1, 1]}
    model = getattr(transformers, f"{family}Model")(
        getattr(transformers, f"{family}Config")(**shape)
    )
    _redraw(model)
    model.eval().save_pretrained(path)
    settings = {
        "image_processor_type": "DINOv3ViTImageProcessorFast",
        "do_resize": True,
        "size": {"height": 64, "width": 64},
        "resample": 2,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [0.485, 0.456, 0.406],
        "image_std": [0.229, 0.224, 0.225],
    }
    (path / "preprocessor_config.json").write_text(json.dumps(settings))


def builders(tiny: Any) -> dict[str, Callable[[Path], None]]:
    """Return every builder of this module; ``tiny`` is the module of the common parts."""
    return {
        "grounding_dino": partial(grounding, tiny=tiny),
        "mm_grounding_dino": partial(grounding, tiny=tiny, family="MMGroundingDino"),
        "owlvit": partial(owl, tiny=tiny, family="OwlViT"),
        "owlv2": partial(owl, tiny=tiny, family="Owlv2"),
        "clipseg": partial(clipseg, tiny=tiny),
        "dinov2": partial(dinov2, tiny=tiny),
        "dinov2_with_registers": partial(dinov2, tiny=tiny, family="Dinov2WithRegisters"),
        "dinov3_vit": partial(dinov3, tiny=tiny),
        "dinov3_convnext": partial(dinov3, tiny=tiny, family="DINOv3ConvNext"),
    }
