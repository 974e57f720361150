"""Answers have an end: masks are told one by one, and no more than fit."""

from __future__ import annotations

import numpy as np
import pytest

from mataserver import InvalidParams
from mataserver_sam.image_answers import ByteBudget, ObjectLists, collect
from mataserver_sam.masks import Mask
from mataserver_sam.model import segments_of
from mataserver_sam.prompt_decoder import FoundObject


@pytest.fixture
def found():
    """An object: one quarter of a small grid, on an image of 80 by 60."""
    values = np.full((6, 8), -1.0, np.float32)
    values[:3, :4] = 1.0
    return FoundObject(values, 0.0, (60, 80), (0.25, 0.25, 0.5, 0.5), 0.9, "thing")


def test_what_is_added_is_told(found):
    """Mask, box, score and label of each object stand in their lists."""
    collected = ObjectLists("rle", ByteBudget())
    collected.add(found, found.mask())
    assert collected.masks == [found.mask().rle()]
    assert (collected.boxes, collected.scores) == ([(0.25, 0.25, 0.5, 0.5)], [0.9])
    assert collected.labels == ["thing"]


def add(collected, found, mask, count):
    """Add an object over and over."""
    for _ in range(count):
        collected.add(found, mask)


@pytest.mark.parametrize("form", ["rle", "coco", "png", "polygon"])
def test_an_answer_that_grows_too_large_is_refused(form):
    """In every form the masks of one answer share a limit, and the sentence says what helps."""
    noisy = np.random.default_rng(0).random((60, 80)) > 0.5
    mask = Mask.from_pixels(noisy)
    values = np.where(noisy, 1.0, -1.0).astype(np.float32)
    found = FoundObject(values, 0.0, (60, 80), mask.box(), 0.9)
    collected = ObjectLists(form, ByteBudget(50_000))
    with pytest.raises(InvalidParams, match="too large: raise the threshold"):
        add(collected, found, mask, 1_000)
    assert 1 <= len(collected.masks) <= 100


def test_texts_share_one_budget(found):
    """What one text spends is not there for the next."""
    budget = ByteBudget(len(found.mask().rle()) * 2)
    for _ in range(2):
        ObjectLists("rle", budget).add(found, found.mask())
    with pytest.raises(InvalidParams):
        ObjectLists("rle", budget).add(found, found.mask())


def test_an_object_without_a_pixel_is_none(found):
    """Nothing is told of a mask in which no pixel is true: its box would have no size."""
    nothing = found._replace(values=np.full((6, 8), -1.0, np.float32), box=(0, 0, 0, 0))
    collected = ObjectLists("rle", ByteBudget())
    collect([nothing, found, nothing], collected)
    assert len(collected.masks) == len(collected.boxes) == len(collected.labels) == 1
    assert collected.boxes == [found.box]
    assert [each.bbox for each in segments_of([nothing, found])] == [(0.0, 0.0, 40.0, 30.0)]
