"""SAM3 on images against direct calls of transformers' own classes on the same checkpoint."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch
from transformers import CLIPTokenizer, Sam3Model, Sam3TrackerModel

from mataserver import InvalidParams, MataError
from mataserver_sam.image import Sam3ImageSegmenter
from mataserver_sam.loading import load_sam3
from mataserver_sam.prompts import Prompt

SIZES = [(90, 120), (150, 70), (112, 112)]
BOX, OTHER = (0.5, 0.5, 0.4, 0.3), (0.25, 0.4, 0.2, 0.3)


@pytest.fixture(scope="module")
def images(sam3_weights):
    """The image half of the tiny SAM3."""
    return Sam3ImageSegmenter(sam3_weights, 1e6)


@pytest.fixture(scope="module")
def direct(sam3_path, sam3_weights):
    """A direct call of the detector, loaded by itself. The plugin lends it ``roi_align``."""
    detector = Sam3Model.from_pretrained(sam3_path).eval()
    tokenizer = CLIPTokenizer.from_pretrained(sam3_path)
    return functools.partial(detect, detector, tokenizer)


@pytest.fixture(scope="module")
def tracker(sam3_path):
    """The tracker for single images of transformers, loaded by itself."""
    return Sam3TrackerModel.from_pretrained(sam3_path).eval()


def pixels(image):
    """Return what transformers' processor makes of an image for the tiny model."""
    tensor = torch.from_numpy(image.copy()).permute(2, 0, 1)[None]
    square = torch.nn.functional.interpolate(tensor, (112, 112), mode="bilinear", antialias=True)
    return (square.float() / 255 - 0.5) / 0.5


def detect(detector, tokenizer, image, words, boxes=None, labels=None):
    """Return scores, boxes and probabilities ``[Q, H, W]`` as transformers' processor reads them.

    Best first.
    """
    tokens = tokenizer([words], padding="max_length", max_length=32, return_tensors="pt")
    given = {}
    if boxes is not None:
        given = {
            "input_boxes": torch.tensor([boxes]),
            "input_boxes_labels": torch.tensor([labels]).long(),
        }
    with torch.inference_mode():
        output = detector(pixel_values=pixels(image), **tokens, **given)
    scores = (output.pred_logits.sigmoid() * output.presence_logits.sigmoid())[0]
    masks = torch.nn.functional.interpolate(
        output.pred_masks.sigmoid(), image.shape[:2], mode="bilinear", align_corners=False
    )[0]
    order = scores.argsort(descending=True)
    return scores[order], output.pred_boxes[0][order], masks[order]


def ask(images, image, prompts, threshold=0.0):
    """Return what the plugin finds, group by group."""
    with torch.inference_mode():
        return list(
            images.find_objects(images.encode_image(image), prompts, image.shape[:2], threshold)
        )


def assert_same(found, expected, middle=0.5):
    """Assert equal scores, boxes and masks; a pixel may differ only where it is undecided."""
    scores, boxes, masks = expected
    assert len(found) == len(scores)
    assert [each.score for each in found] == pytest.approx(scores.tolist(), abs=1e-5)
    for each, corners, values in zip(found, boxes.tolist(), masks.numpy(), strict=True):
        cx, cy, width, height = each.box
        got = (cx - width / 2, cy - height / 2, cx + width / 2, cy + height / 2)
        assert got == pytest.approx(corners, abs=1e-5)
        unlike = each.mask().full() != (values > middle)
        assert np.abs(values[unlike] - middle).max(initial=0) < 1e-5


@pytest.mark.parametrize("size", SIZES)
def test_text_is_transformers(images, direct, picture, size):
    """A text finds what a direct call finds, on images of any proportions."""
    image = picture(*size)
    [found] = ask(images, image, [Prompt(type="text", text="red car")])
    assert_same(found, direct(image, "red car"))
    assert {each.label for each in found} == {"red car"}
    assert len({each.mask().rle() for each in found}) > 1


SHOWN = {
    "a wanted box": ([BOX], [True]),
    "wanted and unwanted boxes": ([BOX, OTHER], [True, False]),
    "the other way round": ([BOX, OTHER], [False, True]),
    "an unwanted box": ([BOX], [False]),
}


@pytest.mark.parametrize("words", ["red car", "visual"])
@pytest.mark.parametrize(("boxes", "labels"), SHOWN.values(), ids=SHOWN)
def test_boxes_are_transformers(images, direct, picture, words, boxes, labels):
    """Boxes beside a text, and alone, with either label, are the direct call's."""
    image = picture()
    prompts = [
        Prompt(type="box", box=box, label=label) for box, label in zip(boxes, labels, strict=True)
    ]
    if words != "visual":
        prompts.insert(0, Prompt(type="text", text=words))
    [found] = ask(images, image, prompts)
    assert_same(found, direct(image, words, boxes, labels))


def test_labels_of_boxes_matter(images, picture):
    """The same box with the other label gives other scores."""
    words = Prompt(type="text", text="dog")
    scores = [
        [each.score for each in ask(images, picture(), [words, box])[0]]
        for box in (Prompt(type="box", box=BOX), Prompt(type="box", box=BOX, label=False))
    ]
    assert scores[0] != scores[1]


CLICKS = {
    "one point": {"points": [(0.3, 0.4)]},
    "on and beside": {"points": [(0.3, 0.4), (0.6, 0.7)], "point_labels": [1, 0]},
    "points within a box": {"points": [(0.5, 0.5)], "point_labels": [1], "box": BOX},
}


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("given", CLICKS.values(), ids=CLICKS)
def test_points_are_transformers(images, tracker, picture, size, given):
    """Points give the best rated mask of a direct call of the tracker."""
    image = picture(*size)
    prompt = Prompt(type="point", **given)
    [[found]] = ask(images, image, [prompt])
    asked = {
        "input_points": torch.tensor([[prompt.points]]) * 112,
        "input_labels": torch.tensor([[prompt.labels]]),
    }
    if prompt.box is not None:
        cx, cy, width, height = prompt.box
        corners = [cx - width / 2, cy - height / 2, cx + width / 2, cy + height / 2]
        asked["input_boxes"] = torch.tensor([[corners]]) * 112
    with torch.inference_mode():
        output = tracker(pixel_values=pixels(image), **asked)
    best = output.iou_scores[0, 0].argmax()
    values = torch.nn.functional.interpolate(
        output.pred_masks[0, 0, best][None, None], size, mode="bilinear", align_corners=False
    )[0, 0].numpy()
    assert found.score == pytest.approx(output.iou_scores[0, 0, best].item(), abs=1e-5)
    unlike = found.mask().full() != (values > 0)
    assert np.abs(values[unlike]).max(initial=0) < 1e-3
    assert found.box == found.mask().box()


def test_many_prompts_are_each_alone(images, picture):
    """However prompts are mixed and batched, each finds what it finds by itself."""
    image = picture()
    texts = [Prompt(type="text", text=words) for words in ("a", "dog", "red car", "tree", "é", "x")]
    point = Prompt(type="point", points=[(0.3, 0.4)])
    box = Prompt(type="box", box=BOX)
    together = ask(images, image, [point, texts[0], box, *texts[1:]])
    alone = [ask(images, image, [texts[0], box])[0]]
    alone += [ask(images, image, [each])[0] for each in texts[1:]]
    alone.append(ask(images, image, [point])[0])
    for one, other in zip(together, alone, strict=True):
        assert [each.score for each in one] == pytest.approx([o.score for o in other], abs=1e-5)
        assert [each.mask().area for each in one] == [each.mask().area for each in other]


def test_what_is_kept_answers_like_a_new_image(images, sam3_weights, picture):
    """Features of an image answer a second question as a fresh model would."""
    image = picture()
    prompts = [Prompt(type="text", text="dog"), Prompt(type="point", points=[(0.3, 0.4)])]
    with torch.inference_mode():
        seen = images.encode_image(image)
        list(images.find_objects(seen, [Prompt(type="text", text="car")], (90, 120), 0.0))
        again = list(images.find_objects(seen, prompts, (90, 120), 0.0))
    fresh = ask(Sam3ImageSegmenter(sam3_weights, 0), image, prompts)
    assert [[e.score for e in group] for group in again] == [
        pytest.approx([e.score for e in group], abs=1e-6) for group in fresh
    ]


def test_the_threshold_leaves_the_weak_out(images, picture):
    """Every score is at least the threshold, and nothing at or above it is missing."""
    prompts = [Prompt(type="text", text="dog"), Prompt(type="point", points=[(0.3, 0.4)])]
    everything, [point] = ask(images, picture(), prompts)
    middle = everything[5].score
    kept, clicked = ask(images, picture(), prompts, middle)
    assert [each.score for each in kept] == [each.score for each in everything[:6]]
    assert [each.score for each in clicked] == [point.score]
    assert ask(images, picture(), prompts, 1.0) == [[], []]


def test_a_text_may_be_too_long(images):
    """A text that would be cut off is refused; one that just fits is not."""
    images.check([Prompt(type="text", text="a" * 30)])
    with pytest.raises(InvalidParams, match="longer than the 32 tokens"):
        images.check([Prompt(type="text", text="a" * 31)])


def test_texts_are_encoded_once(sam3_weights, picture):
    """A text that was asked before is not encoded again, on any image."""
    images = Sam3ImageSegmenter(sam3_weights, 1e6)
    for seed in range(3):
        ask(images, picture(seed=seed), [Prompt(type="text", text=each) for each in ("a", "b")])
    assert (images._texts.hits, images._texts.misses) == (4, 2)


def test_half_precision_works(sam3_path, picture):
    """In bfloat16 texts, boxes and points give finite answers close to those in float32."""
    weights = load_sam3(sam3_path, "cpu", "bfloat16")
    prompts = [
        Prompt(type="text", text="dog"),
        Prompt(type="box", box=BOX),
        Prompt(type="point", points=[(0.3, 0.4)]),
    ]
    exact = ask(Sam3ImageSegmenter(load_sam3(sam3_path), 0), picture(), prompts)
    rough = ask(Sam3ImageSegmenter(weights, 0), picture(), prompts)
    for one, other in zip(exact, rough, strict=True):
        assert [e.score for e in one] == pytest.approx([e.score for e in other], abs=0.02)


def test_numbers_that_overflow_are_an_error(sam3_path, picture):
    """A network that computes NaN fails; it does not find nothing."""
    weights = load_sam3(sam3_path)
    with torch.no_grad():
        weights.detector.dot_product_scoring.text_proj.bias.fill_(float("nan"))
    with pytest.raises(MataError, match=r"NaN or infinite values in torch\.float32$"):
        ask(Sam3ImageSegmenter(weights, 0), picture(), [Prompt(type="text", text="dog")])
