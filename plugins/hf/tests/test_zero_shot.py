"""Classification with the request's own classes, against transformers itself."""

from __future__ import annotations

import pytest

from mataserver import InvalidParams, ModelFiles
from mataserver_hf import zero_shot

PROMPTS = ("cat", "a red box", "person")


def wanted(**changes):
    return zero_shot.ZeroShotParams(**{"prompts": PROMPTS, **changes})


def directly(path, image, sentences):
    """One logit per sentence, by one call of transformers' own model."""
    import torch
    from PIL import Image
    from transformers import (
        AutoImageProcessor,
        AutoModelForZeroShotImageClassification,
        AutoTokenizer,
    )

    network = AutoModelForZeroShotImageClassification.from_pretrained(
        path, local_files_only=True, dtype=torch.float32
    ).eval()
    filled = {"padding": True}
    if network.config.model_type != "clip":
        sentences = [each.lower() for each in sentences]  # as SigLIP was trained
        filled = {"padding": "max_length", "max_length": 64, "truncation": True}
    text = AutoTokenizer.from_pretrained(path)(sentences, return_tensors="pt", **filled)
    pixels = AutoImageProcessor.from_pretrained(path)(
        images=Image.fromarray(image), return_tensors="pt"
    )
    with torch.inference_mode():
        return network(**text, **pixels).logits_per_image[0]


def scores(result):
    return {each.label: each.confidence for each in result.classifications}


@pytest.mark.parametrize("name", ["clip", "siglip", "siglip2"])
def test_equals_transformers(name, model, checkpoint, picture):
    """Labels are the prompts as given; CLIP's scores are a softmax, SigLIP's are sigmoids."""
    image = picture(90, 150)
    [result] = model(name).predict([image], [wanted()])
    logits = directly(checkpoint(name), image, [f"This is a photo of {p}." for p in PROMPTS])
    expected = logits.softmax(-1) if name == "clip" else logits.sigmoid()
    assert scores(result) == pytest.approx(
        dict(zip(PROMPTS, expected.tolist(), strict=True)), abs=1e-5
    )
    values = list(scores(result).values())
    assert values == sorted(values, reverse=True)
    assert max(values) - min(values) > 0.01


@pytest.mark.parametrize("name", ["clip", "siglip", "siglip2"])
def test_spaces_around_a_prompt(name, model, picture):
    """A label is what the client sent; what is read is the same without the spaces around it."""
    spaced = tuple(f"  {each}\t" for each in PROMPTS)
    [bare] = model(name).predict([picture(90, 150)], [wanted()])
    [kept] = model(name).predict([picture(90, 150)], [wanted(prompts=spaced)])
    assert scores(kept) == {f"  {label}\t": score for label, score in scores(bare).items()}


@pytest.mark.parametrize("name", ["clip", "siglip", "siglip2"])
def test_batch_equals_single(name, model, picture):
    """Images of several sizes with different prompts share a batch and keep their own answers."""
    images = [picture(90, 150, 1), picture(120, 70, 2), picture(40, 40, 3)]
    params = [wanted(), wanted(prompts=("car", "dog")), wanted(top_k=1)]
    batch = model(name).predict(images, params)
    for image, each, result in zip(images, params, batch, strict=True):
        [single] = model(name).predict([image], [each])
        assert scores(result) == pytest.approx(scores(single), abs=1e-5)
    assert set(scores(batch[1])) == {"car", "dog"}
    assert len(scores(batch[2])) == 1


@pytest.mark.parametrize("name", ["siglip", "siglip2"])
def test_siglip_reads_lower_case(name, model, picture):
    """Capitals change no score: SigLIP 2's tokenizer keeps them, and its training had none."""
    image = picture(90, 150)
    [small] = model(name).predict([image], [wanted(prompt_template="this is {}.")])
    capitals = wanted(prompts=("Cat", "A Red BOX", "person"), prompt_template="This is {}.")
    [capital] = model(name).predict([image], [capitals])
    assert [each.confidence for each in capital.classifications] == [
        each.confidence for each in small.classifications
    ]
    assert set(scores(capital)) == {"Cat", "A Red BOX", "person"}


@pytest.mark.parametrize("name", ["clip", "siglip"])
def test_logits_on_request(name, model, checkpoint, picture):
    """Without softmax the raw logits come back, and confidence does not filter them."""
    image = picture(90, 150)
    [result] = model(name).predict([image], [wanted(use_softmax=False, confidence=1.0)])
    logits = directly(checkpoint(name), image, [f"This is a photo of {p}." for p in PROMPTS])
    assert scores(result) == pytest.approx(
        dict(zip(PROMPTS, logits.tolist(), strict=True)), abs=1e-4
    )


def test_template(model, checkpoint, picture):
    """The template says what the text encoder reads; ``{}`` sends the prompts alone."""
    image = picture(90, 150)
    [result] = model("clip").predict([image], [wanted(prompt_template="{}")])
    logits = directly(checkpoint("clip"), image, list(PROMPTS))
    assert scores(result) == pytest.approx(
        dict(zip(PROMPTS, logits.softmax(-1).tolist(), strict=True)), abs=1e-5
    )


def test_template_is_no_format_string(model, picture):
    """Braces in prompts and templates are text: nothing is looked up or evaluated."""
    params = wanted(prompts=("{0.__class__}",), prompt_template="{x} {} {1}")
    assert zero_shot.sentences(params) == ("{x} {0.__class__} {1}",)
    [result] = model("clip").predict([picture(40, 40)], [params])
    assert scores(result) == {"{0.__class__}": 1.0}


def test_confidence_filters(model, picture):
    """Prompts that score below the confidence are left out."""
    image = picture(90, 150)
    [everything] = model("siglip").predict([image], [wanted()])
    best = everything.classifications[0]
    [result] = model("siglip").predict([image], [wanted(confidence=best.confidence - 1e-6)])
    assert result.classifications == [best]


def test_missing_prompts(model, picture):
    """A request without prompts is a 422 that names the parameter."""
    with pytest.raises(InvalidParams, match=r"^params\.prompts: .*at least one prompt"):
        model("clip").predict([picture(40, 40)], [zero_shot.ZeroShotParams()])


def test_template_without_place(model, picture):
    """A template that does not say where the prompt goes is a 422."""
    with pytest.raises(InvalidParams, match=r"^params\.prompt_template: must hold \{\}"):
        model("clip").predict([picture(40, 40)], [wanted(prompt_template="a photo")])


@pytest.mark.parametrize("name", ["clip", "siglip"])
def test_long_prompt_is_refused(name, model, picture):
    """A prompt that the model would cut off is a 422 rather than half read."""
    with pytest.raises(InvalidParams, match=r"^params\.prompts: .*longer than the 64 tokens"):
        model(name).predict([picture(40, 40)], [wanted(prompts=("cat", "x" * 60))])


def test_text_is_encoded_once(model, picture):
    """The frames of a stream share the features of their prompts."""
    clip = model("clip")
    clip._text_features.cache_clear()
    for seed in range(3):
        clip.predict([picture(40, 40, seed)], [wanted(prompts=("one", "two"))])
    assert clip._text_features.cache_info().misses == 1


def test_serves_image_text_models_without_a_head():
    """CLIP and SigLIP are zero-shot classifiers unless they were given a trained head."""
    for family in ("clip", "siglip", "siglip2"):
        files = ModelFiles("a/b", "hf", config={"model_type": family})
        assert zero_shot.BACKEND.serves(files, "classify")
    headed = {"model_type": "siglip", "architectures": ["SiglipForImageClassification"]}
    assert not zero_shot.BACKEND.serves(ModelFiles("a/b", "hf", config=headed), "classify")
    assert not zero_shot.BACKEND.serves(
        ModelFiles("openai/clip", "hf", config={"model_type": "vit"}), "classify"
    )
