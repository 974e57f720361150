"""TrOCR against transformers itself, on a checkpoint that was taught two lines."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

from mataserver import MataError, ModelFiles, ModelSpec, TextRegion, Usage
from mataserver_hf import trocr
from mataserver_hf.trocr import TrOcrParams


def line(grey):
    """A picture that the checkpoint was taught to read."""
    return np.full((24, 96, 3), grey, np.uint8)


def directly(path, image, **options):
    """What transformers itself reads."""
    import torch
    from PIL import Image
    from transformers import AutoModelForImageTextToText, AutoProcessor

    processor = AutoProcessor.from_pretrained(path, local_files_only=True)
    network = AutoModelForImageTextToText.from_pretrained(path, local_files_only=True).eval()
    pixels = processor(images=Image.fromarray(image), return_tensors="pt").pixel_values
    with torch.inference_mode():
        tokens = network.generate(pixels, **options)
    return processor.batch_decode(tokens, skip_special_tokens=True)[0]


def test_lines_are_read(model, tiny_reading):
    """What was taught is read, each line as one region without box and with confidence 1."""
    greys = [*tiny_reading.LINES, *reversed(tiny_reading.LINES)]
    results = model("trocr").predict([line(each) for each in greys], [TrOcrParams()] * len(greys))
    for grey, result in zip(greys, results, strict=True):
        text = tiny_reading.LINES[grey]
        assert result.text == text
        assert result.regions == [TextRegion(text, None, 1.0)]


def test_equals_transformers(model, checkpoint, picture):
    """An unknown picture comes out as in a direct call with the same limit."""
    for seed in range(3):
        image = picture(40, 160, seed)
        [result] = model("trocr").predict([image], [TrOcrParams(max_tokens=10)])
        assert result.text == directly(checkpoint("trocr"), image, max_new_tokens=10).strip()
        assert result.text


def test_max_tokens_cuts_each_image_by_itself(model, tiny_reading):
    """Images of one batch keep limits of their own."""
    grey, text = next(iter(tiny_reading.LINES.items()))
    results = model("trocr").predict(
        [line(grey)] * 3, [TrOcrParams(max_tokens=each) for each in (4, 1000, 2)]
    )
    assert [result.text for result in results] == [text[:4], text, text[:2]]
    assert [result.usage for result in results] == [
        Usage(0, 4, truncated=True),
        Usage(0, len(text) + 1),  # with the token that ends it
        Usage(0, 2, truncated=True),
    ]


def test_lines_of_a_batch_end_by_themselves(model, tiny_reading):
    """A shorter line is padded to the longest of the batch: the padding is not counted."""
    results = model("trocr").predict(
        [line(each) for each in tiny_reading.LINES], [TrOcrParams()] * 2
    )
    assert [result.usage for result in results] == [
        Usage(0, len(text) + 1) for text in tiny_reading.LINES.values()
    ]


def test_the_decoder_has_a_length(model):
    """A limit beyond the decoder's positions is lowered to them instead of overrunning them."""
    import torch

    reader = model("trocr")
    with torch.no_grad():
        embedding = reader._reader._network._module.decoder.get_output_embeddings().weight
        before = embedding.clone()
        embedding.zero_()  # every token scores alike, so the first is written for ever
        [result] = reader.predict([line(40)], [TrOcrParams(max_tokens=10_000)])
        embedding.copy_(before)
    assert result.usage == Usage(0, 47, truncated=True)
    assert reader._longest == 47


def test_the_pooler_may_be_missing_and_nothing_else(checkpoint, context, tmp_path):
    """Published checkpoints lack the encoder's pooler; any other gap is an error."""
    from safetensors.torch import load_file, save_file

    weights = load_file(checkpoint("trocr") / "model.safetensors")
    assert not any("pooler" in name for name in weights)
    path = tmp_path / "gap"
    shutil.copytree(checkpoint("trocr"), path)
    gone = "encoder.layernorm.weight"
    kept = {name: w for name, w in weights.items() if name != gone}
    assert len(kept) == len(weights) - 1
    save_file(kept, path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(MataError, match=rf"lacks 1 of the weights.*{gone}"):
        trocr.load(ModelSpec("tiny/gap", "ocr", "hf", path), context())


@pytest.mark.parametrize(
    ("config", "served"),
    [
        ({"model_type": "vision-encoder-decoder", "decoder": {"model_type": "trocr"}}, True),
        ({"model_type": "vision-encoder-decoder", "decoder": {"model_type": "mbart"}}, False),
        ({"model_type": "vision-encoder-decoder", "decoder": None}, False),
        ({"model_type": "vision-encoder-decoder"}, False),
        ({"model_type": "trocr"}, False),
    ],
)
def test_only_a_decoder_of_trocr_is_served(config, served):
    """Donut and captioning models share the outer type, and are not taken for TrOCR."""
    files = ModelFiles("microsoft/trocr-base-printed", "hf", config=config)
    assert trocr.BACKEND.serves(files, "ocr") is served
