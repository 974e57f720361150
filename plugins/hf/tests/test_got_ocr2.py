"""GOT-OCR2 against transformers itself, on a checkpoint that was taught one page in two forms."""

from __future__ import annotations

import numpy as np
import pytest

from mataserver import ModelFiles, TextRegion
from mataserver_hf import got_ocr2
from mataserver_hf.got_ocr2 import GotOcr2Params


@pytest.fixture(scope="module")
def page(tiny_reading):
    """The page that the checkpoint knows."""
    return np.full((64, 64, 3), tiny_reading.PAGE, np.uint8)


def directly(path, image, formatted, length):
    """What transformers itself writes."""
    import torch
    from PIL import Image
    from transformers import AutoModelForImageTextToText, AutoProcessor

    processor = AutoProcessor.from_pretrained(path, local_files_only=True)
    network = AutoModelForImageTextToText.from_pretrained(path, local_files_only=True).eval()
    prompt = processor(Image.fromarray(image), format=formatted, return_tensors="pt")
    with torch.inference_mode():
        tokens = network.generate(
            **prompt,
            do_sample=False,
            tokenizer=processor.tokenizer,
            stop_strings="<|im_end|>",
            max_new_tokens=length,
        )
    return processor.decode(tokens[0, prompt["input_ids"].shape[1] :], skip_special_tokens=True)


def test_ocr_type_chooses_the_form(model, page, tiny_reading):
    """The taught page comes out plain or formatted, as asked, also within one batch."""
    forms = ["format", "ocr", "format"]
    results = model("got_ocr2").predict(
        [page] * 3, [GotOcr2Params(ocr_type=form, max_tokens=20) for form in forms]
    )
    for form, result in zip(forms, results, strict=True):
        text = tiny_reading.WRITTEN[form]
        assert result.text == text
        assert result.regions == [TextRegion(text, None, 1.0)]


@pytest.mark.parametrize("form", ["ocr", "format"])
def test_equals_transformers(form, model, checkpoint, picture):
    """An unknown page comes out as in a direct call, in a batch as alone."""
    images = [picture(50, 90, seed) for seed in range(2)]
    wanted = GotOcr2Params(ocr_type=form, max_tokens=8)
    results = model("got_ocr2").predict(images, [wanted] * 2)
    for image, result in zip(images, results, strict=True):
        expected = directly(checkpoint("got_ocr2"), image, form == "format", 8)
        assert result.text == expected.strip()


def test_max_tokens_cuts_the_text(model, page, tiny_reading):
    """The text ends after so many tokens, which are letters here."""
    results = model("got_ocr2").predict(
        [page, page], [GotOcr2Params(max_tokens=each) for each in (3, 20)]
    )
    text = tiny_reading.WRITTEN["ocr"]
    assert [result.text for result in results] == [text[:3], text]
    cut, whole = (result.usage for result in results)
    assert (cut.completion_tokens, cut.truncated) == (3, True)
    assert (whole.completion_tokens, whole.truncated) == (len(text) + 1, False)
    assert cut.prompt_tokens == whole.prompt_tokens > 0


def test_the_model_has_a_length(model, page):
    """A limit beyond the model's positions is lowered to them instead of overrunning them."""
    import torch

    reader = model("got_ocr2")
    with torch.no_grad():
        head = reader._reader._network._module.get_output_embeddings().weight
        before = head.clone()
        head.zero_()  # every token scores alike, so the first is written for ever
        [result] = reader.predict([page], [GotOcr2Params(max_tokens=10_000)])
        head.copy_(before)
    assert result.usage.truncated
    assert result.usage.prompt_tokens + result.usage.completion_tokens == reader._longest == 1024


@pytest.mark.parametrize("shape", [(3, 40), (1, 30), (3, 3)])
def test_narrow_images_keep_their_layout(shape, model):
    """A page of one grey is the same page at any size, also three rows high."""
    reader = model("got_ocr2")
    narrow, usual = np.full((*shape, 3), 200, np.uint8), np.full((40, 40, 3), 200, np.uint8)
    one, other = reader.predict([narrow, usual], [GotOcr2Params(max_tokens=4)] * 2)
    assert one == other


def test_plain_text_is_the_default():
    """Without parameters a page is written as plain text of up to 4096 tokens."""
    assert GotOcr2Params() == GotOcr2Params(ocr_type="ocr", max_tokens=4096)


def test_it_is_chosen_by_its_type():
    """The hub's conversion says got_ocr2; the original's own code is never run."""
    name = "stepfun-ai/GOT-OCR-2.0-hf"
    converted = ModelFiles(name, "hf", config={"model_type": "got_ocr2"})
    original = ModelFiles(name, "hf", config={"model_type": "GOT", "auto_map": {}})
    assert got_ocr2.BACKEND.serves(converted, "ocr")
    assert not got_ocr2.BACKEND.serves(original, "ocr")
