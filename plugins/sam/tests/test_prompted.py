"""SAM 1 and SAM 2 on images against direct calls of transformers on the same checkpoint."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import Sam2Model, SamImageProcessorPil, SamModel, SamProcessor

from mataserver import InvalidParams
from mataserver_sam import loading
from mataserver_sam.prompted import PromptedImageSegmenter
from mataserver_sam.prompts import Prompt

SIZES = [(90, 120), (150, 70)]
SIDE = 64
BOX = (0.5, 0.5, 0.4, 0.3)
POINTS = Prompt(type="point", points=[(0.3, 0.4), (0.6, 0.7)], point_labels=[1, 0])
BOTH = Prompt(type="point", points=[(0.5, 0.5)], box=BOX)


@pytest.fixture(scope="module")
def sam2(sam2_path):
    """The weights of the tiny SAM 2."""
    return loading.load_sam2(sam2_path)


@pytest.fixture(scope="module")
def sam1(sam1_path):
    """The weights of the tiny SAM 1."""
    return loading.load_sam1(sam1_path)


def boxed(box=BOX):
    """Return a box prompt."""
    return Prompt(type="box", box=box)


def pixels_of(box, size):
    """Return ``[x1, y1, x2, y2]`` in pixels of an image of ``size``."""
    cx, cy, width, height = box
    corners = np.array([cx - width / 2, cy - height / 2, cx + width / 2, cy + height / 2])
    return (corners * [size[1], size[0], size[1], size[0]]).tolist()


def find(weights, image, prompts, threshold=0.0, *, all_masks=False):
    """Return what the plugin finds."""
    images = PromptedImageSegmenter(weights)
    with torch.inference_mode():
        seen = images.encode_image(image)
        return list(
            images.find_objects(seen, prompts, image.shape[:2], threshold, all_masks=all_masks)
        )


def assert_best(proposed, output, values):
    """Assert scores and masks of the best rated proposals; ``values`` are all, stretched."""
    order = output.iou_scores[0, 0].argsort(descending=True)
    for found, best in zip(proposed, order, strict=False):
        expected = values[best].numpy()
        rating = max(0.0, output.iou_scores[0, 0, best].item())  # random weights rate below 0 too
        assert found.score == pytest.approx(rating, abs=1e-5)
        unlike = found.mask().full() != (expected > 0)
        assert np.abs(expected[unlike]).max(initial=0) < 1e-4


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("prompt", [POINTS, boxed(), BOTH], ids=["points", "box", "both"])
def test_sam2_is_transformers(sam2, sam2_path, picture, size, prompt):
    """SAM 2's image half, made of the video model's parts, is transformers' image model."""
    image = picture(*size)
    tensor = torch.from_numpy(image.copy()).permute(2, 0, 1)[None]
    square = torch.nn.functional.interpolate(tensor, (SIDE, SIDE), mode="bilinear", antialias=True)
    mean, std = (torch.tensor(each)[:, None, None] for each in IMAGENET)
    asked = {"pixel_values": (square.float() / 255 - mean) / std}
    if prompt.points:
        asked["input_points"] = torch.tensor([[prompt.points]]) * SIDE
        asked["input_labels"] = torch.tensor([[prompt.labels]])
    if prompt.box:
        asked["input_boxes"] = torch.tensor([[pixels_of(prompt.box, (SIDE, SIDE))]])
    with torch.inference_mode():
        output = Sam2Model.from_pretrained(sam2_path).eval()(**asked)
    values = torch.nn.functional.interpolate(
        output.pred_masks[0], size, mode="bilinear", align_corners=False
    )[0]
    [[found]] = find(sam2, image, [prompt])
    assert_best([found], output, values)
    [proposed] = find(sam2, image, [prompt], all_masks=True)
    assert len(proposed) == 3
    assert_best(proposed, output, values)


IMAGENET = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("prompt", [POINTS, boxed(), BOTH], ids=["points", "box", "both"])
def test_sam1_is_transformers(sam1, sam1_path, picture, size, prompt):
    """SAM 1 is transformers' on the same pixels, with its processor's coordinates and masks."""
    image = picture(*size)
    square = {"height": SIDE, "width": SIDE}
    processor = SamProcessor(SamImageProcessorPil(size={"longest_edge": SIDE}, pad_size=square))
    asked = {}
    if prompt.points:
        scale = np.array([size[1], size[0]])
        asked["input_points"] = [[(np.array(prompt.points) * scale).tolist()]]
        asked["input_labels"] = [[prompt.labels]]
    if prompt.box:
        asked["input_boxes"] = [[pixels_of(prompt.box, size)]]
    given = processor(image, **asked, return_tensors="pt")
    extents = given.pop("original_sizes"), given.pop("reshaped_input_sizes")
    given["pixel_values"] = sam1.prepare(image)  # Pillow's rounding is another than torch's
    with torch.inference_mode():
        output = SamModel.from_pretrained(sam1_path).eval()(**given)
    [values] = processor.image_processor.post_process_masks(
        output.pred_masks, *extents, binarize=False, pad_size=square
    )
    [[found]] = find(sam1, image, [prompt])
    assert_best([found], output, values[0])
    [proposed] = find(sam1, image, [prompt], all_masks=True)
    assert len(proposed) == 3
    assert_best(proposed, output, values[0])


@pytest.mark.parametrize("kind", ["sam1", "sam2"])
def test_many_prompts_are_each_alone(kind, request, picture):
    """Prompts of one request, boxes batched or not, each find what they find by themselves."""
    weights = request.getfixturevalue(kind)
    boxes = [boxed((0.1 + i / 25, 0.5, 0.2, 0.1 + i / 40)) for i in range(20)]
    prompts = [boxes[0], POINTS, *boxes[1:], BOTH]
    images, image = PromptedImageSegmenter(weights), picture()
    with torch.inference_mode():
        seen = images.encode_image(image)
        together = list(images.find_objects(seen, prompts, (90, 120), 0.0))
        apart = [list(images.find_objects(seen, [prompt], (90, 120), 0.0)) for prompt in prompts]
    for [found], [[alone]] in zip(together, apart, strict=True):
        assert found.score == pytest.approx(alone.score, abs=1e-5)
        assert abs(found.mask().area - alone.mask().area) <= 2


def test_the_threshold_leaves_the_weak_out(sam2, picture):
    """An object below the threshold is left out; its prompt finds nothing."""
    found = find(sam2, picture(), [POINTS, boxed()])
    weak, strong = sorted(group[0].score for group in found)
    groups = find(sam2, picture(), [POINTS, boxed()], (weak + strong) / 2)
    assert sorted(map(len, groups)) == [0, 1]


@pytest.mark.parametrize(
    ("prompt", "said"),
    [
        (Prompt(type="text", text="dog"), "does not take text: use SAM3"),
        (Prompt(type="box", box=BOX, label=False), "does not take negative boxes"),
    ],
)
def test_what_it_cannot_do(sam2, prompt, said):
    """Words and unwanted boxes are refused, in words that say what would work."""
    with pytest.raises(InvalidParams, match=said):
        PromptedImageSegmenter(sam2).check([POINTS, prompt])


def test_sam2_shares_its_weights(sam2):
    """The image model is made of the video model's own tensors: nothing is held twice."""
    own = {each.data_ptr() for each in sam2.video.parameters()}
    assert {each.data_ptr() for each in sam2.image.parameters()} <= own
    assert not any(each.is_meta for each in sam2.image.parameters())
    assert sam2.size_bytes == sum(
        each.numel() * each.element_size()
        for each in [*sam2.video.parameters(), *sam2.video.buffers()]
    )


def test_a_sam2_without_memory(tiny, tmp_path, picture):
    """A checkpoint of images alone is served for images, and has no video model."""
    tiny.sam2_image(tmp_path)
    weights = loading.load_sam2(tmp_path)
    assert weights.video is None
    [[found]] = find(weights, picture(), [POINTS])
    assert 0 < found.score <= 1
