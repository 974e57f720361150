"""Tiny text recognisers, TrOCR and GOT-OCR2, that were taught a few words."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

SMALL: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
}
LINES = {40: "Gate 7", 200: "no entry"}
"""What TrOCR reads in a picture of that one grey."""
PAGE = 90
"""The grey of the one page that GOT-OCR2 knows."""
WRITTEN = {"ocr": "plain", "format": "$x^2_y"}
"""What it writes down for it, by ``ocr_type``."""
STEPS = 50


def _tokenizer(special: Sequence[str] = ()) -> Any:
    """Make a tokenizer whose tokens are bytes; ``special`` ones are left out of decoded text."""
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
    )
    made.add_special_tokens({"additional_special_tokens": list(special)})
    return made


def _trocr(tokenizer: Any) -> Any:
    import torch
    from transformers import (
        TrOCRConfig,
        VisionEncoderDecoderConfig,
        VisionEncoderDecoderModel,
        ViTConfig,
    )

    marks = {
        "decoder_start_token_id": tokenizer.eos_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    decoder = TrOCRConfig(
        vocab_size=len(tokenizer),
        d_model=32,
        decoder_layers=2,
        decoder_attention_heads=2,
        decoder_ffn_dim=64,
        max_position_embeddings=48,
        cross_attention_hidden_size=32,
        **marks,
    )
    config = VisionEncoderDecoderConfig.from_encoder_decoder_configs(
        ViTConfig(**SMALL, image_size=32, patch_size=8), decoder
    )
    torch.manual_seed(0)
    model = VisionEncoderDecoderModel(config=config)
    for name, value in marks.items():
        setattr(model.config, name, value)
        setattr(model.generation_config, name, value)
    return model


def trocr(path: Path) -> None:
    """TrOCR that reads ``LINES``; as in the published ones the encoder's pooler is left out."""
    from transformers import TrOCRProcessor, ViTImageProcessorPil

    tokenizer = _tokenizer()
    model = _trocr(tokenizer)
    processor = ViTImageProcessorPil(size={"height": 32, "width": 32})
    _teach_lines(model, tokenizer, processor)
    state = {name: w for name, w in model.state_dict().items() if "encoder.pooler" not in name}
    model.eval().save_pretrained(path, state_dict=state)
    TrOCRProcessor(processor, tokenizer).save_pretrained(path)


def _teach_lines(model: Any, tokenizer: Any, processor: Any) -> None:
    import numpy as np
    import torch

    images = [np.full((24, 96, 3), grey, np.uint8) for grey in LINES]
    pixels = processor(images=images, return_tensors="pt").pixel_values
    texts = [text + tokenizer.eos_token for text in LINES.values()]
    labels = tokenizer(texts, padding=True, return_tensors="pt").input_ids
    labels[labels == tokenizer.pad_token_id] = -100
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    model.train()
    for _ in range(2 * STEPS):
        optimizer.zero_grad()
        model(pixel_values=pixels, labels=labels).loss.backward()
        optimizer.step()


def got_ocr2(path: Path) -> None:
    """GOT-OCR2 on pictures of 64 pixels, the smallest that give the 256 features it counts on."""
    import torch
    from transformers import (
        GotOcr2Config,
        GotOcr2ForConditionalGeneration,
        GotOcr2ImageProcessorPil,
        GotOcr2Processor,
        Qwen2Config,
    )

    tokenizer = _tokenizer(["<|im_start|>", "<|im_end|>", "<img>", "</img>", "<imgpad>"])
    marks = {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    config = GotOcr2Config(
        text_config=Qwen2Config(
            vocab_size=len(tokenizer),
            num_key_value_heads=2,
            max_position_embeddings=1024,
            **SMALL,
            **marks,
        ),
        vision_config={
            "hidden_size": 32,
            "output_channels": 16,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "image_size": 64,
            "patch_size": 1,
            "window_size": 8,
            "global_attn_indexes": [],
            "mlp_dim": 64,
        },
        image_token_index=tokenizer.convert_tokens_to_ids("<imgpad>"),
        image_seq_length=256,
    )
    torch.manual_seed(0)
    model = GotOcr2ForConditionalGeneration(config)
    with torch.no_grad():
        model.get_input_embeddings().weight.normal_()
    pixels = GotOcr2ImageProcessorPil(size={"height": 64, "width": 64})
    processor = GotOcr2Processor(pixels, tokenizer)
    _teach_page(model, processor)
    model.eval().save_pretrained(path)
    processor.save_pretrained(path)


def _teach_page(model: Any, processor: Any) -> None:
    import torch
    from torch.nn.functional import cross_entropy

    with torch.no_grad():
        lessons = [_lesson(model, processor, *each) for each in WRITTEN.items()]
    writer = model.model.language_model
    taught = [*writer.layers.parameters(), *writer.norm.parameters(), *model.lm_head.parameters()]
    optimizer = torch.optim.Adam(taught, lr=1e-2)
    for _ in range(STEPS):
        optimizer.zero_grad()
        for embedded, answer in lessons:
            states = writer(inputs_embeds=embedded).last_hidden_state
            logits = model.lm_head(states[0, -len(answer) - 1 : -1])
            cross_entropy(logits, answer).backward()
        optimizer.step()


def _lesson(model: Any, processor: Any, ocr_type: str, text: str) -> tuple[Any, Any]:
    """Return prompt, picture and answer as the language model gets them, and the answer's ids."""
    import numpy as np
    import torch

    page = np.full((64, 64, 3), PAGE, np.uint8)
    prompt = processor([page], format=ocr_type == "format", return_tensors="pt")
    answer = processor.tokenizer(text + "<|im_end|>", return_tensors="pt").input_ids
    tokens = torch.cat([prompt["input_ids"], answer], 1)
    embedded = model.get_input_embeddings()(tokens)
    features = model.get_image_features(prompt["pixel_values"]).pooler_output
    places = (tokens == processor.image_token_id)[..., None].expand_as(embedded)
    return embedded.masked_scatter(places, features), answer[0]


BUILDERS: dict[str, Callable[[Path], None]] = {
    "trocr": trocr,
    "got_ocr2": got_ocr2,
}
