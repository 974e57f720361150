"""Segmentation: every family against transformers itself, then each parameter and refusal."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

from mataserver import BadRequest, InvalidParams, MataError, ModelSpec
from mataserver_hf import segment

SEMANTIC = ("segformer", "upernet", "beit_segmenter", "eomt_semantic")

QUERIES = ("mask2former", "maskformer", "oneformer", "detr_panoptic")

PADDED = ("eomt", "eomt_dinov3")

CASES = [
    *((name, "semantic") for name in (*SEMANTIC, *QUERIES)),
    *((name, "instance") for name in (*QUERIES, *PADDED)),
    *((name, "panoptic") for name in (*QUERIES, *PADDED)),
]

LOW = 0.2


def wanted(mode, confidence=LOW):
    return segment.SegmentParams(confidence=confidence, mode=mode)


def computed(path, image, mode):
    """What transformers' own network answers, with the image processor it brings."""
    import torch
    from PIL import Image
    from transformers import (
        AutoConfig,
        AutoImageProcessor,
        AutoModelForSemanticSegmentation,
        AutoModelForUniversalSegmentation,
        AutoTokenizer,
    )

    config = AutoConfig.from_pretrained(path)
    per_pixel = config.architectures[0].endswith("ForSemanticSegmentation")
    auto = AutoModelForSemanticSegmentation if per_pixel else AutoModelForUniversalSegmentation
    network = auto.from_pretrained(path, local_files_only=True, dtype=torch.float32).eval()
    options = {"class_info_file": None} if config.model_type == "oneformer" else {}
    processor = AutoImageProcessor.from_pretrained(path, local_files_only=True, **options)
    tensors = processor(images=Image.fromarray(image), return_tensors="pt")
    tensors.pop("task_inputs", None)
    if config.model_type == "oneformer":
        [ids] = AutoTokenizer.from_pretrained(path)([f"the task is {mode}"])["input_ids"]
        tensors["task_inputs"] = torch.tensor([ids + [0] * (77 - len(ids))])
    with torch.inference_mode():
        output = network(**tensors)
    return network, processor, output


def expected(path, image, mode):
    """The segments of a direct call: (label, score, mask), best first."""
    from transformers import MaskFormerImageProcessorPil

    network, processor, output = computed(path, image, mode)
    family, size = network.config.model_type, image.shape[:2]
    if mode == "semantic":
        rows = semantic(processor, output, size, family)
    else:
        # OneFormer's own needs torchvision; its network answers in MaskFormer's terms.
        own = MaskFormerImageProcessorPil() if family == "oneformer" else processor
        rows = of_queries(own, output, size, mode, family)
    named = [(network.config.id2label[label], score, mask) for label, score, mask in rows]
    return sorted((row for row in named if row[1] >= LOW), key=lambda row: -row[1])


def semantic(processor, output, size, family):
    import torch

    [answer] = processor.post_process_semantic_segmentation(
        output, target_sizes=[size], return_segmentation_scores=True
    )
    classes, chances = answer["segmentation"], answer["segmentation_scores"]
    if family in {"segformer", "upernet", "beit"}:
        chances = torch.nn.functional.interpolate(
            output.logits.softmax(1), size=size, mode="bilinear", align_corners=False
        )[0]
    for label in classes.unique().tolist():
        mask = classes == label
        yield label, min(chances[label][mask].mean().item(), 1.0), mask.numpy()


def of_queries(processor, output, size, mode, family):
    options = {"threshold": LOW, "target_sizes": [size]}
    if mode == "panoptic" and family not in {"eomt", "eomt_dinov3"}:
        options["label_ids_to_fuse"] = {2, 3} if family == "oneformer" else set()
    if mode == "instance" and family in {"maskformer", "mask2former", "oneformer"}:
        options["return_binary_maps"] = True
    post_process = getattr(processor, f"post_process_{mode}_segmentation")
    [answer] = post_process(output, **options)
    best = {}
    for row in answer["segments_info"]:
        best[row["id"]] = max(row["score"], best.get(row["id"], 0.0))
    labels = {row["id"]: row["label_id"] for row in answer["segments_info"]}
    for key, score in best.items():
        if answer["segmentation"].dim() == 3:
            mask = answer["segmentation"][key].numpy() > 0
        else:
            mask = (answer["segmentation"] == key).numpy()
        if mask.any():  # a later instance may have covered an earlier one
            yield labels[key], score, mask


def assert_same(result, rows, close=1e-4):
    assert [each.label for each in result.segments] == [row[0] for row in rows]
    assert [each.confidence for each in result.segments] == pytest.approx(
        [row[1] for row in rows], abs=close
    )
    for each, (_, _, mask) in zip(result.segments, rows, strict=True):
        assert each.mask.dtype == np.bool_
        assert each.mask.shape == mask.shape
        assert (each.mask != mask).mean() < 1e-3


@pytest.mark.parametrize(("name", "mode"), CASES)
def test_equals_transformers(name, mode, model, checkpoint, picture):
    """Labels, scores and masks of a wide image are those of a direct call."""
    image = picture(90, 150)
    [result] = model(name).predict([image], [wanted(mode)])
    rows = expected(checkpoint(name), image, mode)
    if (name, mode) in {("eomt", "instance"), ("eomt_dinov3", "instance")}:
        # transformers gives one map of segments: what later ones cover is lost there.
        rows = uncovered(result, rows)
    assert rows
    assert_same(result, rows)


def uncovered(result, rows):
    """Put whole masks in place of partly covered ones, after a look at what is left of them."""
    whole, known = [], 0
    for each in result.segments:
        left = [
            row for row in rows if row[0] == each.label and abs(row[1] - each.confidence) < 1e-5
        ]
        known += len(left)
        others = [other.mask for other in result.segments if other is not each]
        seen = left[0][2] if left else np.zeros_like(each.mask)
        assert not (seen & ~each.mask).any()
        assert not (each.mask & ~seen & ~np.any(others, axis=0)).any()
        whole.append((each.label, left[0][1] if left else each.confidence, each.mask))
    assert known == len(rows) >= 2
    return whole


@pytest.mark.parametrize("name", ["eomt", "eomt_dinov3"])
def test_eomt_instances_are_whole(name, model, checkpoint, picture):
    """An instance's mask is where its own logits, without padding, are above zero."""
    import torch

    image = picture(90, 150)
    [result] = model(name).predict([image], [wanted("instance")])
    _, _, output = computed(checkpoint(name), image, "instance")
    shown = torch.nn.functional.interpolate(
        output.masks_queries_logits, size=(64, 64), mode="bilinear"
    )[..., :38, :]
    logits = torch.nn.functional.interpolate(shown, size=(90, 150), mode="bilinear")[0]
    masks = {mask.numpy().tobytes() for mask in logits > 0}
    assert {each.mask.tobytes() for each in result.segments} <= masks


@pytest.mark.parametrize("name", [*SEMANTIC, *QUERIES, *PADDED])
def test_batch_equals_single(name, model, picture):
    """A batch of mixed sizes gives what its images give one by one."""
    images = [picture(90, 150, 1), picture(120, 70, 2), picture(90, 150, 3)]
    batch = model(name).predict(images, [wanted("auto")] * 3)
    for image, result in zip(images, batch, strict=True):
        [single] = model(name).predict([image], [wanted("auto")])
        assert_same(result, [(s.label, s.confidence, s.mask) for s in single.segments], 1e-3)
        assert all(each.mask.shape == image.shape[:2] for each in result.segments)
    assert any(result.segments for result in batch)


@pytest.mark.parametrize("name", ["segformer", "upernet", "beit_segmenter", "mask2former"])
def test_a_large_photograph_need_not_be_decoded_whole(name, model):
    """A model says how large it needs an image at least: no larger than what it makes of it."""
    height, width = model(name).input_size
    processor = model(name)._preprocessor.processor
    tensors = processor(images=[np.zeros((900, 1600, 3), np.uint8)], return_tensors="pt")
    made = tensors["pixel_values"].shape[-2:]
    assert 0 < height <= made[0]
    assert 0 < width <= made[1]


@pytest.mark.parametrize("name", ["mask2former", "oneformer"])
def test_each_image_has_its_own_mode(name, model, picture):
    """Images of one batch may ask for different modes and confidences."""
    image = picture(90, 150)
    asked = [wanted("panoptic"), wanted("semantic"), wanted("instance", 0.5)]
    batch = model(name).predict([image] * 3, asked)
    for params, result in zip(asked, batch, strict=True):
        [single] = model(name).predict([image], [params])
        assert_same(result, [(s.label, s.confidence, s.mask) for s in single.segments], 1e-3)
    counts = [len(result.segments) for result in batch]
    assert min(counts) >= 1
    assert all(each.confidence >= 0.5 for each in batch[2].segments)


@pytest.mark.parametrize("shape", [(150, 90), (90, 150), (64, 64), (150, 40)])
def test_squares_of_eomt_are_laid_side_by_side(shape, model, checkpoint, picture):
    """Tall, wide and square images are put together from overlapping squares."""
    image = picture(*shape)
    [result] = model("eomt_semantic").predict([image], [wanted("semantic")])
    assert_same(result, expected(checkpoint("eomt_semantic"), image, "semantic"))


def test_a_line_of_pixels_is_not_split_into_thousands_of_squares(checkpoint, context, picture):
    """EoMT has one square per width of an image's shorter side: their number is bounded."""
    spec = ModelSpec("tiny/eomt", "segment", "hf", checkpoint("eomt_semantic"))
    bounded = segment.load(spec, context(max_pixels=100_000))
    with pytest.raises(BadRequest, match="40x1 pixels is too small or too narrow"):
        bounded.predict([picture(1, 40)], [wanted("semantic")])
    [result] = bounded.predict([picture(10, 40)], [wanted("semantic", 0.0)])
    assert result.segments


def test_a_single_class_has_its_own_pixels(checkpoint, context, picture, tmp_path):
    """A network of one class, as of cracks, does not say that all of a picture is one."""
    import torch
    from transformers import SegformerConfig, SegformerForSemanticSegmentation

    torch.manual_seed(1)
    given = SegformerConfig.from_pretrained(checkpoint("segformer")).to_dict()
    config = SegformerConfig.from_dict(given | {"id2label": {0: "crack"}, "label2id": {"crack": 0}})
    network = SegformerForSemanticSegmentation(config).eval()
    network.decode_head.classifier.weight.data *= 20
    network.save_pretrained(tmp_path / "one")
    shutil.copy(checkpoint("segformer") / "preprocessor_config.json", tmp_path / "one")
    image = picture(90, 140)
    _, _, output = computed(tmp_path / "one", image, "semantic")
    [[logits]] = output.logits
    network.decode_head.classifier.bias.data -= logits.median()  # so that half of it is one
    network.save_pretrained(tmp_path / "one")
    model = segment.load(ModelSpec("tiny/one", "segment", "hf", tmp_path / "one"), context())
    [[found]] = [each.segments for each in model.predict([image], [segment.SegmentParams()])]
    _, _, output = computed(tmp_path / "one", image, "semantic")
    shares = torch.nn.functional.interpolate(output.logits.sigmoid(), (90, 140), mode="bilinear")
    truth = shares[0, 0].numpy() >= 0.5
    assert 0.1 < truth.mean() < 0.9
    assert (found.mask != truth).mean() < 0.01
    assert (found.label, found.confidence) == (
        "crack",
        pytest.approx(shares[0, 0].numpy()[truth].mean(), abs=1e-3),
    )
    [none] = model.predict([image], [segment.SegmentParams(confidence=1.0)])
    assert none.segments == []


@pytest.mark.parametrize(("pixels", "found"), [(1, 0), (40, 1)])
def test_an_instance_smaller_than_a_pixel_of_the_image_is_left_out(pixels, found):
    """Mask2Former's masks have 384 rows: a small picture may have no pixel of an instance."""
    import torch

    from mataserver_hf.segment_queries import QueryReader

    masks = torch.full((1, 1, 384, 384), -9.0)
    masks[..., 1 : 1 + pixels, 1 : 1 + pixels] = 9.0
    classes = torch.tensor([[[9.0, -9.0, -9.0]]])
    reader = QueryReader("instance", side=384)
    segments = list(reader.read((classes, masks), (90, 150), "instance", 0.5))
    assert [bool(each.mask.any()) for each in segments] == [True] * found


def test_finds_what_is_bright(model):
    """A network that learnt to find bright rectangles gives the mask and box of one."""
    image = np.full((80, 200, 3), 20, np.uint8)
    image[16:56, 120:180] = 230
    [result] = model("bright_segformer").predict([image], [segment.SegmentParams()])
    found = {each.label: each for each in result.segments}
    assert set(found) == {"cat", "dog"}
    truth = image[..., 0] > 100
    mask = found["dog"].mask
    assert (mask & truth).sum() / (mask | truth).sum() > 0.75
    assert found["dog"].bbox == pytest.approx((120, 16, 180, 56), abs=8)
    assert found["cat"].bbox == (0, 0, 200, 80)
    assert (found["cat"].mask == ~mask).all()


def test_confidence_filters(model, picture):
    """Segments below the confidence are left out, and the best come first."""
    image = picture(90, 150)
    for name, mode in (("segformer", "semantic"), ("mask2former", "instance")):
        [everything] = model(name).predict([image], [wanted(mode, 0.0)])
        scores = [each.confidence for each in everything.segments]
        assert scores == sorted(scores, reverse=True)
        [some] = model(name).predict([image], [wanted(mode, (scores[0] + scores[1]) / 2)])
        assert [each.confidence for each in some.segments] == pytest.approx(scores[:1])


def test_weak_segments_do_not_compete(model, picture):
    """In panoptic mode pixels of a segment below the confidence go to the ones that stay."""
    image = picture(90, 150)
    [all_of_them] = model("mask2former").predict([image], [wanted("panoptic")])
    strongest = all_of_them.segments[0]
    alone = wanted("panoptic", strongest.confidence - 1e-4)
    [result] = model("mask2former").predict([image], [alone])
    [one] = result.segments
    assert one.label == strongest.label
    assert one.mask.sum() > strongest.mask.sum()


def test_panoptic_segments_share_no_pixel(model, picture):
    """In panoptic mode every pixel belongs to one segment at most; instances may overlap."""
    image = picture(90, 150)
    several = 0
    for name in ("mask2former", "maskformer", "oneformer", "detr_panoptic", "eomt_dinov3"):
        [result] = model(name).predict([image], [wanted("panoptic")])
        several += len(result.segments) > 1
        assert np.sum([each.mask for each in result.segments], axis=0).max() == 1
    assert several >= 3
    [result] = model("mask2former").predict([image], [wanted("instance")])
    assert np.sum([each.mask for each in result.segments], axis=0).max() > 1


def test_nothing_found(model, picture):
    """An image without a segment that is sure enough has an empty list."""
    for name, mode in CASES:
        [result] = model(name).predict([picture(40, 40)], [wanted(mode, 1.0)])
        assert [s for s in result.segments if s.confidence < 1.0] == []


def test_published_oneformer_brings_no_list_of_classes(model, picture):
    """Without the list, which lies in another repository, it loads and joins nothing."""
    assert model("oneformer")._reader._stuff == {2, 3}
    assert model("oneformer_unlisted")._reader._stuff == frozenset()
    [result] = model("oneformer_unlisted").predict([picture(90, 150)], [wanted("instance")])
    assert result.segments


@pytest.mark.parametrize(
    ("name", "mode", "known"),
    [
        ("segformer", "instance", "semantic"),
        ("segformer", "panoptic", "semantic"),
        ("eomt_semantic", "panoptic", "semantic"),
        ("eomt", "semantic", "instance and panoptic"),
    ],
)
def test_unknown_mode(name, mode, known, model, picture):
    """A mode that a network cannot do is a 422 that says which it can."""
    with pytest.raises(InvalidParams, match=rf"^params\.mode: this model knows {known} only"):
        model(name).predict([picture(40, 40)], [wanted(mode)])


def test_auto_is_the_natural_mode(checkpoint, context, picture):
    """The mode "auto" is the one that the model's name tells."""
    image = picture(90, 150)
    for mode in ("semantic", "instance"):
        spec = ModelSpec(f"tiny/maskformer-{mode}", "segment", "hf", checkpoint("maskformer"))
        loaded = segment.load(spec, context())
        [auto], [named] = (loaded.predict([image], [wanted(m)]) for m in ("auto", mode))
        assert_same(auto, [(s.label, s.confidence, s.mask) for s in named.segments])


def test_overflow_is_an_error(checkpoint, context, picture):
    """A network that computes NaN is an error, not an image without segments."""
    import torch

    spec = ModelSpec("tiny/segformer", "segment", "hf", checkpoint("segformer"))
    broken = segment.load(spec, context())
    with torch.no_grad():
        broken._network._module.decode_head.classifier.bias.fill_(float("nan"))
    with pytest.raises(MataError, match=r"no numbers in torch\.float32$"):
        broken.predict([picture(40, 40)], [wanted("auto")])
