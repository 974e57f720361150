"""Grounding DINO and a SAM: masks of the boxes that a text finds, each its own."""

from __future__ import annotations

import base64
import io

import aiohttp
import numpy as np
import pytest
from PIL import Image

from mataserver import (
    Confidence,
    Detection,
    DetectResult,
    InvalidParams,
    LoadedPart,
    ModelSpec,
    Params,
    Text,
    Unavailable,
)
from mataserver.testing import installed, serving
from mataserver_sam import families
from mataserver_sam.grounded import GroundedSegmenter
from mataserver_sam.params import GroundedParams, SegmentParams
from mataserver_sam.prompt_decoder import FoundObject

BOXES = [(10.0, 10.0, 50.0, 60.0), (60.0, 20.0, 110.0, 80.0), (0.0, 0.0, 120.0, 90.0)]


class FinderParams(Params, frozen=True):
    """What the stand-in for Grounding DINO takes."""

    prompts: tuple[Text, ...] = ()
    confidence: Confidence = 0.0


class Finder:
    """A detector that finds the same boxes in every image, one for each prompt."""

    def __init__(self):
        self.asked = []

    def predict(self, images, params):
        """Return the first boxes, as many as there are prompts."""
        self.asked += params
        return [
            DetectResult(
                [
                    Detection(words, 0.9, box)
                    for words, box in zip(each.prompts, BOXES, strict=False)
                ]
            )
            for each in params
        ]


@pytest.fixture(scope="module")
def sam2(sam2_path, context):
    """The tiny SAM 2."""
    return families.load_sam2(ModelSpec("sam2", "segment", "local", sam2_path), context())


@pytest.fixture(scope="module")
def sam3(sam3_path, context):
    """The tiny SAM3."""
    return families.load_sam3(ModelSpec("sam3", "segment", "local", sam3_path), context())


def grounded(segmenter, finder):
    """Return the two, joined."""
    return GroundedSegmenter(LoadedPart(finder, FinderParams), LoadedPart(segmenter, SegmentParams))


@pytest.mark.parametrize("kind", ["sam2", "sam3"])
def test_masks_belong_to_their_boxes(kind, request, picture):
    """Each detection gets the mask that its box gives by itself, with its own label and score."""
    segmenter = request.getfixturevalue(kind)
    image = picture()
    finder = Finder()
    asked = GroundedParams(prompts=("cat", "dog", "car"), detection_confidence=0.25)
    [result] = grounded(segmenter, finder).predict([image], [asked])
    assert finder.asked == [FinderParams(prompts=("cat", "dog", "car"), confidence=0.25)]
    assert [(each.label, each.confidence) for each in result.segments] == [
        ("cat", 0.9), ("dog", 0.9), ("car", 0.9),
    ]  # fmt: skip
    for each, box in zip(result.segments, BOXES, strict=True):
        x1, y1, x2, y2 = box
        relative = ((x1 + x2) / 240, (y1 + y2) / 180, (x2 - x1) / 120, (y2 - y1) / 90)
        [alone] = segmenter.outlines(image, [relative])
        assert each.bbox == box
        assert np.mean(each.mask != alone.mask().full()) < 0.001


def test_weak_masks_are_left_out(sam2, picture):
    """``segmentation_confidence`` leaves out what SAM rates lower; nothing found is no segment."""
    model = grounded(sam2, Finder())
    strict = GroundedParams(prompts=("cat", "dog"), segmentation_confidence=1.0)
    loose = GroundedParams(prompts=("cat", "dog"))
    results = model.predict([picture(), picture(50, 70)], [strict, loose])
    assert [len(each.segments) for each in results] == [0, 2]
    assert results[1].segments[0].mask.shape == (50, 70)


def test_prompts_are_needed(sam2, picture):
    """Without a word there is nothing to find."""
    with pytest.raises(InvalidParams, match=r"params\.prompts: .* at least one prompt"):
        grounded(sam2, Finder()).predict([picture()], [GroundedParams()])


def test_the_segmenter_must_be_a_sam():
    """Any other model for the task ``segment`` is refused when the two are joined."""
    with pytest.raises(
        Unavailable, match=r"plugins\.sam\.segmenter names a model that is not a SAM"
    ):
        grounded(object(), Finder())


async def infer(http, image, status=200, **params):
    """POST ``/v1/infer`` to the pipeline; return the decoded answer."""
    body = {"model": "dino", "image": image, "params": params}
    async with http.post("/v1/infer", json=body) as answer:
        assert answer.status == status, await answer.text()
        return await answer.json()


async def test_the_pipeline_is_served(tiny, tmp_path, sam1_path, picture, png):
    """A Grounding DINO registered for ``segment`` is served by both plugins, in one worker."""
    tiny.grounding(tmp_path / "dino")
    (tmp_path / "data").mkdir()
    models = [
        {"model": "dino", "task": "segment", "path": str(tmp_path / "dino")},
        {"model": "outliner", "task": "segment", "path": str(sam1_path)},
    ]
    settings = {"sam": {"segmenter": "outliner"}}
    image = base64.b64encode(png(picture())).decode()
    async with (
        serving(
            tmp_path / "data",
            entry_points=installed("hf", "sam"),
            engine="thread",
            models=models,
            plugins=settings,
        ) as server,
        aiohttp.ClientSession(server.url, headers=server.headers) as http,
    ):
        both = {"prompts": "cat . dog", "detection_confidence": 0.0}
        found = (await infer(http, image, **both))["segments"]
        assert found
        assert {each["label"] for each in found} <= {"cat", "dog"}
        mask = Image.open(io.BytesIO(base64.b64decode(found[0]["mask"])))
        assert mask.size == (120, 90)
        strict = await infer(http, image, **both, segmentation_confidence=1.0)
        assert strict["segments"] == []
        none = await infer(http, image, prompts="cat", detection_confidence=1.0)
        assert none["segments"] == []
        assert "at least one prompt" in (await infer(http, image, status=422))["detail"]


async def test_a_missing_segmenter_is_named(tiny, tmp_path, picture, png):
    """When the SAM of the settings is not here, the answer says how to get it."""
    tiny.grounding(tmp_path / "dino")
    (tmp_path / "data").mkdir()
    models = [{"model": "dino", "task": "segment", "path": str(tmp_path / "dino")}]
    image = base64.b64encode(png(picture())).decode()
    async with (
        serving(tmp_path / "data", entry_points=installed("hf", "sam"), models=models) as server,
        aiohttp.ClientSession(server.url, headers=server.headers) as http,
    ):
        told = await infer(http, image, status=503, prompts="cat")
        assert "mataserver pull facebook/sam2.1-hiera-small --task segment" in told["detail"]


def test_a_box_in_which_nothing_is_outlined():
    """What the detector found and the segmenter sees no pixel of is no segment."""

    class Outliner:
        def outlines(self, image, boxes):
            empty = np.full((9, 12), -1.0, np.float32)
            full = np.full((9, 12), 1.0, np.float32)
            return [
                FoundObject(each, 0.0, (90, 120), (0.5, 0.5, 1, 1), 0.9) for each in (empty, full)
            ]

    detector = LoadedPart(Finder(), FinderParams, {})
    segmenter = GroundedSegmenter(detector, LoadedPart(Outliner(), SegmentParams, {}))
    image = np.zeros((90, 120, 3), np.uint8)
    [result] = segmenter.predict([image], [GroundedParams(prompts=("cat", "dog"))])
    assert [each.label for each in result.segments] == ["dog"]
    assert result.segments[0].mask.all()
