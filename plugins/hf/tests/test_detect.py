"""Detection: every family against transformers itself, then each parameter and refusal."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING

import pytest

from mataserver import BadRequest, MataError, ModelSpec, Unavailable
from mataserver_hf import detect

if TYPE_CHECKING:
    from mataserver import DetectResult

FAMILIES = (
    "detr",
    "conditional_detr",
    "deformable_detr",
    "table_transformer",
    "rt_detr",
    "rt_detr_v2",
    "d_fine",
    "yolos",
)
ALL = detect.DetectParams(confidence=0.0)


def directly(path, image, threshold=0.0):
    """What transformers itself says about one image: (label, score, unclipped box), best first."""
    import torch
    from PIL import Image
    from transformers import AutoImageProcessor, AutoModelForObjectDetection

    processor = AutoImageProcessor.from_pretrained(path, local_files_only=True)
    network = AutoModelForObjectDetection.from_pretrained(
        path, local_files_only=True, dtype=torch.float32
    ).eval()
    with torch.inference_mode():
        output = network(**processor(images=Image.fromarray(image), return_tensors="pt"))
    [found] = processor.post_process_object_detection(
        output, threshold=threshold, target_sizes=[image.shape[:2]]
    )
    rows = zip(found["labels"], found["scores"], found["boxes"], strict=True)
    named = [(network.config.id2label[int(k)], float(s), b.tolist()) for k, s, b in rows]
    return sorted(named, key=lambda row: -row[1])


def clipped(box, height, width):
    x1, y1, x2, y2 = box
    limit = [width, height, width, height]
    return [min(max(v, 0), top) for v, top in zip((x1, y1, x2, y2), limit, strict=True)]


def same(one: DetectResult, other: DetectResult) -> bool:
    assert len(one.detections) == len(other.detections)
    for a, b in zip(one.detections, other.detections, strict=True):
        assert a.label == b.label
        assert a.confidence == pytest.approx(b.confidence, abs=1e-4)
        assert a.bbox == pytest.approx(b.bbox, abs=0.05)
    return True


@pytest.mark.parametrize("name", FAMILIES)
def test_equals_transformers(name, model, checkpoint, picture):
    """Labels, scores and boxes of a wide image are those of a direct call, clipped to the image."""
    image = picture(90, 150)
    [result] = model(name).predict([image], [ALL])
    expected = directly(checkpoint(name), image)
    assert len(expected) >= 10
    assert [d.label for d in result.detections] == [row[0] for row in expected]
    assert [d.confidence for d in result.detections] == pytest.approx(
        [row[1] for row in expected], abs=1e-6
    )
    for detection, (_, _, box) in zip(result.detections, expected, strict=True):
        assert detection.bbox == pytest.approx(clipped(box, 90, 150), abs=1e-3)


@pytest.mark.parametrize("name", FAMILIES)
def test_batch_equals_single(name, model, picture):
    """A batch of mixed sizes gives what its images give one by one."""
    images = [picture(90, 150, 1), picture(120, 70, 2), picture(90, 150, 3)]
    batch = model(name).predict(images, [ALL] * 3)
    singles = [model(name).predict([image], [ALL])[0] for image in images]
    assert all(same(one, other) for one, other in zip(batch, singles, strict=True))
    assert batch[0] != batch[2]


def test_boxes_are_clipped(model, checkpoint, picture):
    """A model that draws over the edge has its boxes cut to the image."""
    image = picture(60, 160)
    raw = [box for *_, box in directly(checkpoint("yolos"), image)]
    assert any(x1 < 0 or y1 < 0 or x2 > 160 or y2 > 60 for x1, y1, x2, y2 in raw)
    [result] = model("yolos").predict([image], [ALL])
    for x1, y1, x2, y2 in (detection.bbox for detection in result.detections):
        assert 0 <= x1 <= x2 <= 160
        assert 0 <= y1 <= y2 <= 60


def test_confidence_counts_per_image(model, picture):
    """Every image of a batch is cut at its own confidence, and the best come first."""
    image = picture(90, 150)
    [everything] = model("rt_detr").predict([image], [ALL])
    scores = [detection.confidence for detection in everything.detections]
    assert scores == sorted(scores, reverse=True)
    middle = (scores[4] + scores[5]) / 2
    assert scores[4] - scores[5] > 1e-4
    some, none = model("rt_detr").predict(
        [image, image], [detect.DetectParams(confidence=middle), detect.DetectParams(confidence=1)]
    )
    assert [d.confidence for d in some.detections] == pytest.approx(scores[:5], abs=1e-5)
    assert none.detections == []


def test_default_confidence_is_one_half():
    """Without the parameter, detections below 0.5 are left out."""
    assert detect.DetectParams().confidence == 0.5


@pytest.mark.parametrize("shape", [(3, 40), (40, 3), (1, 30), (3, 3), (1, 1)])
def test_narrow_images_keep_their_layout(shape, model, checkpoint, picture):
    """Images of one or three rows or columns are not taken for channels-first ones."""
    image = picture(*shape)
    [result] = model("rt_detr").predict([image], [ALL])
    expected = directly(checkpoint("rt_detr"), image)
    assert [d.confidence for d in result.detections] == pytest.approx(
        [row[1] for row in expected], abs=1e-6
    )


def test_too_narrow_image_is_the_clients_fault(model, picture):
    """An image that vanishes when it is resized is a 400 that names its size."""
    with pytest.raises(BadRequest, match="1000x1 pixels is too small or too narrow"):
        model("detr").predict([picture(1, 1000)], [ALL])


def test_a_picture_of_which_a_single_value_is_left(model, picture):
    """Deformable DETR normalises its last map; torch refuses to do so with one value."""
    with pytest.raises(BadRequest, match="resized to 64x64 pixels is too small or too narrow"):
        model("deformable_detr").predict([picture(3, 3)], [ALL])


def test_classes_without_names_are_called_by_their_numbers(
    checkpoint, load_from, picture, tmp_path
):
    """A configuration that says how many there are, and no more, names them ``LABEL_`` and so on.

    (Names of other classes than the network's are refused: ``test_checkpoint``.)
    """
    path = tmp_path / "detr"
    shutil.copytree(checkpoint("detr"), path)
    config = json.loads((path / "config.json").read_text())
    names = config.pop("id2label")
    del config["label2id"]
    (path / "config.json").write_text(json.dumps(config | {"num_labels": len(names)}))
    _, unnamed = load_from("detr", path)
    _, named = load_from("detr", checkpoint("detr"))
    numbers, words = (
        [each.label for each in model.predict([picture(90, 150)], [ALL])[0].detections]
        for model in (unnamed, named)
    )
    assert [names[label.removeprefix("LABEL_")] for label in numbers] == words


def test_checkpoint_of_another_task_is_refused(checkpoint, context):
    """A checkpoint whose architecture cannot detect is an error, in one sentence without paths."""
    spec = ModelSpec("tiny/vit", "detect", "hf", checkpoint("vit"))
    with pytest.raises(MataError) as caught:
        detect.load(spec, context())
    assert caught.value.status == 500
    assert caught.value.detail == (
        "the weights of tiny/vit cannot be read; the server's log says why"
    )


def test_missing_weights_are_refused(checkpoint, context, tmp_path):
    """A checkpoint without a trained head is an error, never a random head."""
    from safetensors.torch import load_file, save_file

    path = tmp_path / "headless"
    shutil.copytree(checkpoint("detr"), path)
    weights = load_file(path / "model.safetensors")
    kept = {name: w for name, w in weights.items() if not name.startswith("class_labels")}
    save_file(kept, path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(MataError, match=r"lacks 2 of the weights.*class_labels_classifier\.bias"):
        detect.load(ModelSpec("tiny/headless", "detect", "local", path), context())


def test_timm_backbone_names_its_package(checkpoint, context, tmp_path):
    """A checkpoint on a timm backbone says what to install where timm is missing."""
    path = tmp_path / "timm"
    shutil.copytree(checkpoint("detr"), path)
    config = json.loads((path / "config.json").read_text())
    config = {key: value for key, value in config.items() if "backbone" not in key}
    (path / "config.json").write_text(json.dumps({**config, "backbone": "resnet50"}))
    with pytest.raises(
        Unavailable, match="needs a package that is not installed: pip install timm"
    ):
        detect.load(ModelSpec("tiny/timm", "detect", "hf", path), context())


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_stays_close(dtype, model, checkpoint, context, picture):
    """A network in 16 bits answers in ordinary floats, near those of 32 bits."""
    import torch

    half = detect.load(
        ModelSpec("tiny/yolos", "detect", "hf", checkpoint("yolos")), context(dtype=dtype)
    )
    assert half._network._module.dtype == getattr(torch, dtype)
    image = picture(90, 150)
    [result], [full] = (each.predict([image], [ALL]) for each in (half, model("yolos")))
    assert len(result.detections) == len(full.detections)
    assert result.detections[0].confidence == pytest.approx(full.detections[0].confidence, abs=0.25)


def test_overflow_is_an_error(checkpoint, context, picture):
    """A network that overflows is an error that names the cure, not an image without objects."""
    import torch

    spec = ModelSpec("tiny/detr", "detect", "hf", checkpoint("detr"))
    broken = detect.load(spec, context(dtype="float16"))
    with torch.no_grad():
        broken._network._module.class_labels_classifier.weight.normal_(std=1e4)
    told = (
        r"^DetrForObjectDetection computed values that are no numbers in torch\.float16; dtype flo"
    )
    with pytest.raises(MataError, match=told):
        broken.predict([picture(90, 150)], [ALL])


def test_damaged_weights_are_named(checkpoint, context, picture):
    """Where the checkpoint itself holds NaN no other number format helps: the weights are named."""
    import torch

    spec = ModelSpec("tiny/detr", "detect", "hf", checkpoint("detr"))
    broken = detect.load(spec, context())
    with torch.no_grad():
        broken._network._module.class_labels_classifier.bias.fill_(float("nan"))
    told = r"^1 weights of DetrForObjectDetection, first class_labels_classifier\.bias, are no num"
    with pytest.raises(MataError, match=told):
        broken.predict([picture(90, 150)], [ALL])
