"""CLIPSeg against transformers itself, then its parameters."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from mataserver import InvalidParams, MataError, ModelSpec
from mataserver_hf import segment_prompted

PROMPTS = ("cat", "a red dog", "person")


def wanted(**changes):
    return segment_prompted.PromptedParams(**{"prompts": PROMPTS, "confidence": 0.0, **changes})


def directly(path, image, prompts):
    """The probabilities of each prompt, ``[P, H, W]``, from one call with copies of the image."""
    import torch
    from PIL import Image
    from transformers import AutoImageProcessor, AutoTokenizer, CLIPSegForImageSegmentation

    network = CLIPSegForImageSegmentation.from_pretrained(
        path, local_files_only=True, dtype=torch.float32
    ).eval()
    text = AutoTokenizer.from_pretrained(path)(list(prompts), return_tensors="pt", padding=True)
    pixels = AutoImageProcessor.from_pretrained(path)(
        images=[Image.fromarray(image)] * len(prompts), return_tensors="pt"
    )
    with torch.inference_mode():
        logits = network(
            input_ids=text["input_ids"], attention_mask=text["attention_mask"], **pixels
        ).logits
    logits = logits.reshape(len(prompts), 1, *logits.shape[-2:])
    return torch.nn.functional.interpolate(
        logits, size=image.shape[:2], mode="bilinear", align_corners=False
    )[:, 0].sigmoid()


def found(result):
    return {each.label: each for each in result.segments}


@pytest.mark.parametrize("prompts", [PROMPTS, ("car",), tuple(f"thing {i}" for i in range(20))])
def test_equals_transformers(prompts, model, checkpoint, picture):
    """Masks and scores are those of one call per prompt, the labels the prompts as given."""
    image = picture(90, 150)
    [result] = model("clipseg").predict([image], [wanted(prompts=prompts)])
    chances = directly(checkpoint("clipseg"), image, prompts)
    assert set(found(result)) == set(prompts)
    for prompt, chance in zip(prompts, chances, strict=True):
        each, mask = found(result)[prompt], chance >= 0.5
        assert (each.mask != mask.numpy()).mean() < 1e-3
        assert each.confidence == pytest.approx(chance[mask].mean().item(), abs=1e-4)
    scores = [each.confidence for each in result.segments]
    assert scores == sorted(scores, reverse=True)
    assert len({each.mask.tobytes() for each in result.segments}) == len(prompts)


def test_spaces_around_a_prompt(model, picture):
    """A label is what the client sent; what is read is the same without the spaces around it."""
    [bare] = model("clipseg").predict([picture(90, 150)], [wanted(prompts=("dog",))])
    [kept] = model("clipseg").predict([picture(90, 150)], [wanted(prompts=(" dog\t",))])
    assert [each.label for each in kept.segments] == [" dog\t"]
    assert kept.segments[0].confidence == bare.segments[0].confidence


def test_batch_equals_single(model, picture):
    """Images of several sizes with different prompts keep their own answers."""
    images = [picture(90, 150, 1), picture(120, 70, 2), picture(90, 150, 3)]
    params = [wanted(), wanted(prompts=("car", "dog")), wanted(prompts=("dog",))]
    batch = model("clipseg").predict(images, params)
    for image, each, result in zip(images, params, batch, strict=True):
        [single] = model("clipseg").predict([image], [each])
        assert set(found(result)) == set(each.prompts)
        for label, one in found(single).items():
            other = found(result)[label]
            assert other.mask.shape == image.shape[:2]
            assert (other.mask != one.mask).mean() < 1e-3
            assert other.confidence == pytest.approx(one.confidence, abs=1e-4)


def test_mask_confidence(model, checkpoint, picture):
    """A higher ``mask_confidence`` leaves out less likely pixels, and empty segments."""
    image = picture(90, 150)
    chances = directly(checkpoint("clipseg"), image, PROMPTS)
    [result] = model("clipseg").predict([image], [wanted(mask_confidence=0.6)])
    for prompt, chance in zip(PROMPTS, chances, strict=True):
        mask = (chance >= 0.6).numpy()
        assert 0 < mask.sum() < (chance >= 0.5).sum()
        assert (found(result)[prompt].mask != mask).mean() < 1e-3
    [nothing] = model("clipseg").predict([image], [wanted(mask_confidence=1.0)])
    assert nothing.segments == []


def test_confidence_filters(model, picture):
    """Segments of a lower mean probability are left out."""
    image = picture(90, 150)
    [everything] = model("clipseg").predict([image], [wanted()])
    best = everything.segments[0]
    [result] = model("clipseg").predict([image], [wanted(confidence=best.confidence - 1e-6)])
    [only] = result.segments
    assert only.label == best.label


def test_missing_prompts(model, picture):
    """A request without prompts is a 422 that names the parameter."""
    with pytest.raises(InvalidParams, match=r"^params\.prompts: .*at least one prompt"):
        model("clipseg").predict([picture(40, 40)], [segment_prompted.PromptedParams()])


def test_long_prompt_is_refused(model, picture):
    """A prompt that the model would cut off is a 422 rather than half read."""
    with pytest.raises(InvalidParams, match=r"^params\.prompts: .*longer than the 32 tokens"):
        model("clipseg").predict([picture(40, 40)], [wanted(prompts=("cat", "x" * 31))])
    [result] = model("clipseg").predict([picture(40, 40)], [wanted(prompts=("x" * 30,))])
    assert len(result.segments) <= 1


def test_text_is_encoded_once(model, picture):
    """The frames of a stream share the features of their prompts."""
    clipseg = model("clipseg")
    clipseg._text_features.cache_clear()
    for seed in range(3):
        clipseg.predict([picture(40, 40, seed)], [wanted(prompts=("one", "two"))])
    assert clipseg._text_features.cache_info().misses == 1


def test_overflow_is_an_error(checkpoint, context):
    """A network that computes NaN is an error, not an image without segments."""
    import torch

    spec = ModelSpec("tiny/clipseg", "segment", "hf", checkpoint("clipseg"))
    broken = segment_prompted.load(spec, context())
    with torch.no_grad():
        broken._network._module.decoder.film_add.bias.fill_(float("nan"))
    with pytest.raises(MataError, match=r"no numbers in torch\.float32$"):
        broken.predict([np.zeros((40, 40, 3), np.uint8)], [wanted()])


def test_params_cross_the_wire():
    """Parameters survive the way to a worker."""
    made = wanted(mask_confidence=0.25)
    sent = msgspec.msgpack.encode(made)
    assert msgspec.msgpack.decode(sent, type=segment_prompted.PromptedParams) == made
