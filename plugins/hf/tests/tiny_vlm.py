"""Tiny vision-language models with random weights, written the way the hub stores real ones."""

from __future__ import annotations

import json
from functools import partial
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

SMALL: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
}
LLAVA_CHAT = (
    "{% for m in messages %}{{ m['role'] | upper }}: {% for c in m['content'] %}"
    "{% if c['type'] == 'image' %}<image>\n{% else %}{{ c['text'] }}{% endif %}"
    "{% endfor %} {% endfor %}{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)
IDEFICS_CHAT = (
    "<|im_start|>{% for m in messages %}{{ m['role'] | capitalize }}: {% for c in m['content'] %}"
    "{% if c['type'] == 'image' %}<image>{% else %}{{ c['text'] }}{% endif %}{% endfor %}"
    "<end_of_utterance>\n{% endfor %}{% if add_generation_prompt %}Assistant:{% endif %}"
)
QWEN_CHAT = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{% for c in m['content'] %}"
    "{% if c['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% else %}{{ c['text'] }}{% endif %}{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
ROPE: dict[str, Any] = {
    "qwen2_vl": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [1, 1, 2]},
    "qwen3_vl": {
        "rope_type": "default",
        "rope_theta": 10000.0,
        "mrope_section": [2, 1, 1],
        "mrope_interleaved": True,
    },
}


def bytes_tokenizer(special: Sequence[str] = (), **named: str) -> Any:
    """Make a tokenizer whose tokens are bytes; ``named`` special tokens become attributes."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={each: i for i, each in enumerate(letters)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    made = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        extra_special_tokens=named,
    )
    made.add_special_tokens({"additional_special_tokens": list(special)})
    return made


def marks(tokenizer: Any) -> dict[str, int]:
    """Return what a text configuration says of the tokenizer."""
    return {
        "vocab_size": len(tokenizer),
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }


def save(path: Path, model_class: Any, config: Any, *parts: Any, **writing: Any) -> None:
    """Draw weights so that what is written varies, and save everything.

    ``writing`` goes into ``generation_config.json``.
    """
    import torch

    torch.manual_seed(1)
    model = model_class(config).eval()
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() > 1:
                weight.normal_(std=1.5 * weight[0].numel() ** -0.5)
    for name, value in writing.items():
        setattr(model.generation_config, name, value)
    model.save_pretrained(path)
    for part in parts:
        part.save_pretrained(path)


def _clip_tower() -> dict[str, Any]:
    return {**SMALL, "image_size": 32, "patch_size": 8, "model_type": "clip_vision_model"}


def llava(path: Path) -> None:
    """LLaVA on a CLIP; its processor keeps the middle square of an image."""
    import transformers as hf

    tokenizer = bytes_tokenizer(["<image>"])
    config = hf.LlavaConfig(
        vision_config=_clip_tower(),
        text_config=hf.LlamaConfig(**SMALL, **marks(tokenizer), max_position_embeddings=512),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        image_seq_length=16,
    )
    pixels = hf.CLIPImageProcessorPil(
        size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}
    )
    processor = hf.LlavaProcessor(
        pixels,
        tokenizer,
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=LLAVA_CHAT,
    )
    save(path, hf.LlavaForConditionalGeneration, config, processor)


def llava_next(path: Path) -> None:
    """LLaVA-NeXT, which adds tiles of an image to the whole of it."""
    import transformers as hf

    tokenizer = bytes_tokenizer(["<image>"])
    grid = [[32, 64], [64, 32], [64, 64]]
    config = hf.LlavaNextConfig(
        vision_config=_clip_tower(),
        text_config=hf.LlamaConfig(**SMALL, **marks(tokenizer), max_position_embeddings=1024),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        image_grid_pinpoints=grid,
        image_seq_length=16,
    )
    pixels = hf.LlavaNextImageProcessorPil(
        size={"shortest_edge": 32},
        crop_size={"height": 32, "width": 32},
        image_grid_pinpoints=grid,
    )
    processor = hf.LlavaNextProcessor(
        pixels,
        tokenizer,
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=LLAVA_CHAT,
    )
    save(path, hf.LlavaNextForConditionalGeneration, config, processor)


def idefics3(path: Path, family: str = "Idefics3") -> None:
    """Idefics3 or SmolVLM, which cut an image into tiles; SmolVLM2's files name a video part."""
    import transformers as hf

    tiles = [f"<row_{row}_col_{column}>" for row in range(1, 5) for column in range(1, 5)]
    tokenizer = bytes_tokenizer(
        ["<image>", "<fake_token_around_image>", "<global-img>", "<end_of_utterance>", *tiles]
    )
    config = getattr(hf, f"{family}Config")(
        text_config=hf.LlamaConfig(**SMALL, **marks(tokenizer), max_position_embeddings=1024),
        vision_config={**SMALL, "image_size": 32, "patch_size": 8},
        scale_factor=2,
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        pad_token_id=tokenizer.pad_token_id,
    )
    pixels = getattr(hf, f"{family}ImageProcessorPil")(
        size={"longest_edge": 64}, max_image_size={"longest_edge": 32}
    )
    processor = hf.Idefics3Processor(pixels, tokenizer, image_seq_len=4, chat_template=IDEFICS_CHAT)
    save(path, getattr(hf, f"{family}ForConditionalGeneration"), config, processor)
    if family == "SmolVLM":
        settings = json.loads((path / "processor_config.json").read_text())
        settings["processor_class"] = "SmolVLMProcessor"
        settings["video_processor"] = {"video_processor_type": "SmolVLMVideoProcessor"}
        (path / "processor_config.json").write_text(json.dumps(settings))


def qwen(path: Path, family: str, model_type: str, **vision: Any) -> None:
    """Make a Qwen-VL, whose image tokens depend on the image's size."""
    import transformers as hf

    special = ["<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]
    tokenizer = bytes_tokenizer([*special, "<|im_start|>", "<|im_end|>"])
    ids = tokenizer.convert_tokens_to_ids
    text = {**SMALL, **marks(tokenizer), "num_key_value_heads": 2, "max_position_embeddings": 512}
    rope = ROPE.get(model_type, ROPE["qwen2_vl"])
    config = getattr(hf, f"{family}Config")(
        text_config={**text, "rope_parameters": rope, "head_dim": 8},
        vision_config={"depth": 2, "num_heads": 2, **vision},
        image_token_id=ids("<|image_pad|>"),
        video_token_id=ids("<|video_pad|>"),
        vision_start_token_id=ids("<|vision_start|>"),
        vision_end_token_id=ids("<|vision_end|>"),
    )
    side = vision.get("patch_size", 14) * 2
    pixels = hf.Qwen2VLImageProcessorPil(
        patch_size=side // 2, min_pixels=4 * side**2, max_pixels=16 * side**2
    )
    tokenizer.chat_template = QWEN_CHAT
    # As published: sampling that a request does not ask for.
    save(
        path,
        getattr(hf, f"{family}ForConditionalGeneration"),
        config,
        tokenizer,
        pixels,
        do_sample=True,
        temperature=0.9,
        top_k=5,
        top_p=0.5,
        repetition_penalty=1.05,
    )


def paligemma(path: Path) -> None:
    """PaliGemma, whose location tokens are words like any other."""
    import transformers as hf

    tokenizer = bytes_tokenizer(image_token="<image>")
    pixels = hf.SiglipImageProcessorPil(size={"height": 32, "width": 32})
    pixels.image_seq_length = 16
    processor = hf.PaliGemmaProcessor(pixels, tokenizer)
    text = hf.GemmaConfig(
        **SMALL,
        **marks(tokenizer),
        num_key_value_heads=1,
        head_dim=8,
        max_position_embeddings=256,
    )
    config = hf.PaliGemmaConfig(
        text_config=text,
        vision_config=hf.SiglipVisionConfig(
            **SMALL, image_size=32, patch_size=8, vision_use_head=False
        ),
        image_token_index=tokenizer.image_token_id,
        hidden_size=32,
        projection_dim=32,
        vocab_size=len(tokenizer),
    )
    save(path, hf.PaliGemmaForConditionalGeneration, config, processor)


def florence2(path: Path) -> None:
    """Florence-2: an encoder and a decoder; its location tokens are special ones."""
    import transformers as hf

    places = [f"<loc_{place}>" for place in range(1000)]
    tokenizer = bytes_tokenizer(places, image_token="<image>")
    text = hf.BartConfig(
        d_model=32,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=64,
        decoder_ffn_dim=64,
        max_position_embeddings=128,
        decoder_start_token_id=tokenizer.eos_token_id,
        forced_eos_token_id=None,
        **marks(tokenizer),
    )
    vision = {
        "depths": [1, 1, 1, 1],
        "embed_dim": [8, 8, 16, 16],
        "num_heads": [1, 1, 2, 2],
        "num_groups": [1, 1, 2, 2],
        "window_size": 4,
        "projection_dim": 32,
    }
    config = hf.Florence2Config(
        text_config=text.to_dict(),
        vision_config=vision,
        image_token_id=tokenizer.image_token_id,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=tokenizer.bos_token_id,
    )
    pixels = hf.CLIPImageProcessorPil(
        size={"height": 64, "width": 64}, do_center_crop=False, do_resize=True
    )
    pixels.image_seq_length = 5
    # As published: beams, which a request neither asks for nor can stream.
    save(
        path,
        hf.Florence2ForConditionalGeneration,
        config,
        hf.Florence2Processor(
            pixels, tokenizer, post_processor_config={"description_with_bboxes": {}}
        ),
        num_beams=3,
        early_stopping=True,
        no_repeat_ngram_size=3,
    )


_QWEN_SIZES = {"hidden_size": 32, "intermediate_size": 64, "patch_size": 14, "out_hidden_size": 32}

BUILDERS: dict[str, Callable[[Path], None]] = {
    "llava": llava,
    "llava_next": llava_next,
    "idefics3": idefics3,
    "smolvlm": partial(idefics3, family="SmolVLM"),
    "qwen2_vl": partial(
        qwen,
        family="Qwen2VL",
        model_type="qwen2_vl",
        embed_dim=32,
        hidden_size=32,
        mlp_ratio=2,
        patch_size=14,
    ),
    "qwen2_5_vl": partial(
        qwen,
        family="Qwen2_5_VL",
        model_type="qwen2_5_vl",
        window_size=56,
        fullatt_block_indexes=[1],
        **_QWEN_SIZES,
    ),
    "qwen3_vl": partial(
        qwen,
        family="Qwen3VL",
        model_type="qwen3_vl",
        num_position_embeddings=64,
        deepstack_visual_indexes=[0, 1],
        **{**_QWEN_SIZES, "patch_size": 16},
    ),
    "paligemma": paligemma,
    "florence2": florence2,
}
