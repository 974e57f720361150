"""Classification with trained classes, against transformers itself."""

from __future__ import annotations

import importlib
import json
import shutil

import pytest

from mataserver import BadRequest, InvalidParams, MataError, ModelFiles, ModelSpec
from mataserver_hf import classify

ALL = classify.ClassifyParams(top_k=100)


def parts(path):
    """The network and the image processor as transformers opens them."""
    import torch
    from transformers import AutoImageProcessor, AutoModelForImageClassification

    # transformers' PVT has a thousand classes whatever its names are, unless it is told.
    named = json.loads((path / "config.json").read_text())["id2label"]
    network = AutoModelForImageClassification.from_pretrained(
        path, local_files_only=True, dtype=torch.float32, num_labels=len(named)
    )
    return network.eval(), AutoImageProcessor.from_pretrained(path, local_files_only=True)


def directly(path, image):
    """The logits that transformers itself computes, by label."""
    return answered(*parts(path), image)


def answered(network, processor, image):
    import torch
    from PIL import Image

    with torch.inference_mode():
        logits = network(**processor(images=Image.fromarray(image), return_tensors="pt")).logits[0]
    return [network.config.id2label[index] for index in range(len(logits))], logits


def scores(result):
    return {each.label: each.confidence for each in result.classifications}


@pytest.mark.parametrize("name", ["vit", "resnet", "clip_classifier"])
def test_equals_transformers(name, model, checkpoint, picture):
    """The classes are the softmax of a direct call, best first."""
    image = picture(90, 150)
    [result] = model(name).predict([image], [ALL])
    labels, logits = directly(checkpoint(name), image)
    expected = dict(zip(labels, logits.softmax(-1).tolist(), strict=True))
    assert scores(result) == pytest.approx(expected, abs=1e-6)
    values = list(scores(result).values())
    assert values == sorted(values, reverse=True)
    assert len(set(values)) == 4


@pytest.mark.parametrize("family", sorted(classify.FAMILIES - {"vit", "resnet"} | {"siglip"}))
def test_every_family_equals_transformers(family, checkpoint, session_context, picture):
    """Of every family a batch of several sizes gives what direct calls give, image by image."""
    path = checkpoint(f"{family}_classifier")
    model = classify.load(ModelSpec(f"tiny/{family}", "classify", "hf", path), session_context)
    images = [picture(*size) for size in ((90, 150), (151, 89), (3, 40), (90, 150), (1, 1))]
    network, processor = parts(path)
    raw = classify.ClassifyParams(top_k=100, use_softmax=False)
    for image, result in zip(images, model.predict(images, [raw] * len(images)), strict=True):
        labels, logits = answered(network, processor, image)
        expected = dict(zip(labels, logits.tolist(), strict=True))
        assert scores(result) == pytest.approx(expected, abs=1e-3 * float(logits.abs().max()))
        assert float(logits.std() / logits.abs().max()) > 0.1


@pytest.mark.parametrize("number", [{}, {"num_labels": 6}, {"id2label": None, "num_labels": 6}])
def test_a_pvt_without_names(number, checkpoint, session_context, picture, tmp_path):
    """Its classes are called by their numbers; transformers does so for other families alone.

    Without their number it takes a thousand for granted: weights of another are refused.
    """
    path = tmp_path / "pvt"
    shutil.copytree(checkpoint("pvt_classifier"), path)
    config = json.loads((path / "config.json").read_text())
    del config["id2label"], config["label2id"]
    (path / "config.json").write_text(json.dumps(config | number))
    spec = ModelSpec("tiny/pvt", "classify", "hf", path)
    if not number:
        with pytest.raises(MataError, match="states other sizes than they have, or not the number"):
            classify.load(spec, session_context)
        return
    image = picture(90, 150)
    [result] = classify.load(spec, session_context).predict([image], [ALL])
    named = ModelSpec("tiny/pvt", "classify", "hf", checkpoint("pvt_classifier"))
    [expected] = classify.load(named, session_context).predict([image], [ALL])
    assert sorted(scores(result)) == [f"LABEL_{index}" for index in range(6)]
    assert sorted(scores(result).values()) == sorted(scores(expected).values())


@pytest.mark.parametrize("name", ["vit", "resnet"])
def test_batch_equals_single(name, model, picture):
    """A batch of mixed sizes gives what its images give one by one."""
    images = [picture(90, 150, 1), picture(120, 70, 2), picture(90, 150, 3)]
    batch = model(name).predict(images, [ALL] * 3)
    for image, result in zip(images, batch, strict=True):
        [single] = model(name).predict([image], [ALL])
        assert scores(result) == pytest.approx(scores(single), abs=1e-5)
    assert scores(batch[0]) != pytest.approx(scores(batch[2]), abs=1e-5)


@pytest.mark.parametrize(
    ("family", "name", "options"),
    [
        ("convnext", "ConvNextImageProcessorPil", {"size": {"shortest_edge": 224}}),
        ("convnext", "ConvNextImageProcessorPil", {"crop_pct": 0.5, "size": {"shortest_edge": 96}}),
        ("levit", "LevitImageProcessorPil", {}),
        ("poolformer", "PoolFormerImageProcessorPil", {"crop_pct": 0.9}),
        ("vit", "ViTImageProcessorPil", {}),
        ("clip", "CLIPImageProcessorPil", {}),
    ],
)
def test_a_large_photograph_is_read_large_enough(family, name, options, picture, monkeypatch):
    """The size that a model states is what images are resized to, also if they are cropped then."""
    from PIL import Image

    from mataserver_hf.preprocessor import Preprocessor

    resize, made = Image.Image.resize, []

    def watched(self, size, *given, **more):
        made.append(tuple(size))
        return resize(self, size, *given, **more)

    monkeypatch.setattr(Image.Image, "resize", watched)
    module = importlib.import_module(f"transformers.models.{family}.image_processing_pil_{family}")
    preprocessor = Preprocessor(getattr(module, name)(**options))
    list(preprocessor.groups([picture(700, 900)]))
    [(columns, rows)] = made
    assert preprocessor.input_size == (min(rows, columns),) * 2


@pytest.mark.parametrize("shape", [(1, 40), (40, 1)])
def test_a_line_of_pixels_is_not_enlarged_to_gigabytes(shape, checkpoint, context, picture):
    """A shorter side of one pixel becomes 64, and the longer one with it: that is bounded."""
    spec = ModelSpec("tiny/bit", "classify", "hf", checkpoint("bit_classifier"))
    bounded = classify.load(spec, context(max_pixels=100_000))
    height, width = shape
    with pytest.raises(BadRequest, match=f"{width}x{height} pixels is too small or too narrow"):
        bounded.predict([picture(*shape)], [ALL])
    shorter = picture(min(height, 20), min(width, 20))
    image = picture(300, 600)  # itself larger than that, which its decoder has allowed
    everywhere = classify.load(spec, context())
    for served in (shorter, image):
        assert bounded.predict([served], [ALL]) == everywhere.predict([served], [ALL])


@pytest.mark.parametrize("shape", [(20, 24), (24, 20), (10, 70), (70, 10)])
def test_small_pictures_are_enlarged_to_what_the_network_needs(shape, checkpoint, context, picture):
    """``max_pixels`` limits what a picture itself has; the network's own input may have more."""
    spec = ModelSpec("tiny/bit", "classify", "hf", checkpoint("bit_classifier"))
    image = picture(*shape)
    [bounded, everywhere] = (
        classify.load(spec, context(**limits)) for limits in ({"max_pixels": 700}, {})
    )
    assert bounded.predict([image], [ALL]) == everywhere.predict([image], [ALL])


@pytest.mark.parametrize(("edge", "refused"), [(383, True), (384, False)])
def test_what_is_stretched_is_not_enlarged(edge, refused, picture):
    """ConvNeXt's processor crops below 384 pixels, and stretches from there on."""
    from transformers import ConvNextImageProcessorPil

    from mataserver_hf.preprocessor import Preprocessor

    preprocessor = Preprocessor(ConvNextImageProcessorPil(size={"shortest_edge": edge}), 10**7)
    if refused:
        with pytest.raises(BadRequest, match="too narrow"):
            list(preprocessor.groups([picture(1, 200)]))
    else:
        [(indices, _)] = preprocessor.groups([picture(1, 200)])
        assert indices == [0]


@pytest.mark.parametrize("shape", [(3, 40), (40, 3), (1, 30), (3, 3), (1, 1)])
def test_narrow_images_keep_their_layout(shape, model, checkpoint, picture):
    """Images of one or three rows or columns are not taken for channels-first ones."""
    image = picture(*shape)
    [result] = model("vit").predict([image], [ALL])
    labels, logits = directly(checkpoint("vit"), image)
    expected = dict(zip(labels, logits.softmax(-1).tolist(), strict=True))
    assert scores(result) == pytest.approx(expected, abs=1e-6)


def test_top_k_and_confidence_count_per_image(model, picture):
    """First classes below the confidence go, then the best top_k remain, each image by its own."""
    image = picture(90, 150)
    [everything] = model("vit").predict([image], [ALL])
    ranked = everything.classifications
    second = ranked[1].confidence
    two, confident, both = model("vit").predict(
        [image] * 3,
        [
            classify.ClassifyParams(top_k=2),
            classify.ClassifyParams(confidence=second - 1e-4),
            classify.ClassifyParams(confidence=second - 1e-4, top_k=1),
        ],
    )
    assert [c.label for c in two.classifications] == [c.label for c in ranked[:2]]
    assert [c.label for c in confident.classifications] == [c.label for c in ranked[:2]]
    assert [c.label for c in both.classifications] == [ranked[0].label]


def test_logits_on_request(model, checkpoint, picture):
    """Without softmax the raw logits come back, and confidence does not filter them."""
    image = picture(90, 150)
    params = classify.ClassifyParams(use_softmax=False, confidence=1.0)
    [result] = model("vit").predict([image], [params])
    labels, logits = directly(checkpoint("vit"), image)
    expected = dict(zip(labels, logits.tolist(), strict=True))
    assert scores(result) == pytest.approx(expected, abs=1e-5)
    assert min(scores(result).values()) < 0


def test_defaults():
    """Five classes of any score come back when a request says nothing."""
    params = classify.ClassifyParams()
    assert (params.top_k, params.confidence, params.use_softmax) == (5, 0.0, True)


def test_independent_labels_get_sigmoids(tiny, context, picture, tmp_path):
    """A model for several labels at once scores each by itself."""
    path = tmp_path / "several"
    tiny.vit(path, problem_type="multi_label_classification")
    several = classify.load(ModelSpec("tiny/several", "classify", "local", path), context())
    image = picture(90, 150)
    [result] = several.predict([image], [ALL])
    labels, logits = directly(path, image)
    expected = dict(zip(labels, logits.sigmoid().tolist(), strict=True))
    assert scores(result) == pytest.approx(expected, abs=1e-6)


def test_encoder_without_head_is_refused(checkpoint, context, tmp_path):
    """An encoder that was never trained to classify is an error, never a random head."""
    from transformers import AutoImageProcessor, AutoModel

    path = tmp_path / "encoder"
    AutoModel.from_pretrained(checkpoint("vit"), local_files_only=True).save_pretrained(path)
    AutoImageProcessor.from_pretrained(checkpoint("vit")).save_pretrained(path)
    with pytest.raises(MataError, match=r"lacks 2 of the weights.*classifier\.bias") as caught:
        classify.load(ModelSpec("tiny/encoder", "classify", "hf", path), context())
    assert str(path) not in caught.value.detail


@pytest.mark.parametrize("family", sorted(classify.FAMILIES))
def test_every_family_is_known_to_transformers(family):
    """Each family has a classifier in transformers and an image processor without torchvision."""
    import transformers
    from transformers.models.auto import image_processing_auto, modeling_auto

    names = modeling_auto.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES[family]
    for name in [names] if isinstance(names, str) else names:
        assert issubclass(getattr(transformers, name), transformers.PreTrainedModel)
    if family == "dinov2_with_registers":  # its checkpoints name DINOv2's processor themselves
        family = "dinov2"
    processor = image_processing_auto.IMAGE_PROCESSOR_MAPPING_NAMES[family]["pil"]
    assert getattr(transformers, processor)().backend == "pil"


def test_image_text_models_need_a_head():
    """CLIP with a trained head belongs here, CLIP without one does not."""
    headed = {"model_type": "clip", "architectures": ["CLIPForImageClassification"]}
    bare = {"model_type": "clip", "architectures": ["CLIPModel"]}
    assert classify.BACKEND.serves(ModelFiles("a/b", "hf", config=headed), "classify")
    assert not classify.BACKEND.serves(ModelFiles("a/b", "hf", config=bare), "classify")


def test_a_network_that_measures_gives_no_probabilities(checkpoint, context, picture, tmp_path):
    """Of a length the sigmoid is the probability of nothing; the number itself can be asked for."""
    path = tmp_path / "measures"
    shutil.copytree(checkpoint("vit"), path)
    file = path / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"problem_type": "regression"}))
    image = picture(60, 80)
    measuring = classify.load(ModelSpec("tiny/measures", "classify", "hf", path), context())
    with pytest.raises(InvalidParams, match="measures"):
        measuring.predict([image], [classify.ClassifyParams()])
    raw = classify.ClassifyParams(use_softmax=False)
    plain = classify.load(ModelSpec("tiny/vit", "classify", "hf", checkpoint("vit")), context())
    assert measuring.predict([image], [raw]) == plain.predict([image], [raw])
