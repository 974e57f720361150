"""Arithmetic that torch would do: stretching maps, dropping boxes, softmax."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mataserver_onnx import masks, resample
from mataserver_onnx.boxes import MAX_KEPT, clip, overlaps, suppress
from mataserver_onnx.raw_detections import sigmoid, softmax


@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
@pytest.mark.parametrize(
    ("old", "new"),
    [((7, 9), (30, 41)), ((64, 48), (120, 333)), ((100, 100), (33, 47)), ((1, 5), (9, 9))],
)
def test_stretching_equals_torch(mode, old, new):
    """Larger, smaller and in one direction only: what torch's interpolate gives."""
    import torch

    values = np.random.default_rng(0).random(old, np.float32)
    ours = getattr(resample, mode)(values, new)
    theirs = torch.nn.functional.interpolate(
        torch.tensor(values)[None, None], size=new, mode=mode, align_corners=False
    )
    assert ours.shape == new
    assert np.abs(ours - theirs[0, 0].numpy()).max() < 2e-5


def test_winners_equal_argmax_of_stretched_maps():
    """Block by block, each pixel goes to the class that is largest there; of equals the first."""
    logits = np.random.default_rng(1).normal(size=(5, 6, 7)).astype(np.float32)
    size = (300, 1000)
    stretched = np.stack([resample.bilinear(each, size) for each in logits])
    assert np.array_equal(masks.largest_maps(logits, size), stretched.argmax(0))
    assert not masks.largest_maps(np.zeros((3, 2, 2), np.float32), (4, 4)).any()


@pytest.mark.parametrize("size", [(90, 260), (5, 4)])
def test_segments_of_classes_equal_the_plain_way(size):
    """Masks, and their mean probabilities, are those of maps of all classes at the image's size."""
    chance = np.random.default_rng(2)
    logits = np.kron(chance.normal(size=(6, 3, 4)), np.ones((3, 3))).astype(np.float32)
    logits += chance.normal(size=logits.shape).astype(np.float32) / 8
    shares = softmax(logits, 0)
    winner = np.stack([resample.bilinear(each, size) for each in logits]).argmax(0)
    found = list(masks.semantic(logits, shares, size, 0.0))
    assert [each.label for each in found] == np.unique(winner).tolist()
    for each in found:
        assert np.array_equal(each.mask, winner == each.label)
        own = resample.bilinear(shares[each.label], size)
        assert each.confidence == float(own[each.mask].mean())


def plainly(boxes, scores, labels, limit):
    """Greedy suppression, one pair at a time."""
    kept = []
    for index in sorted(range(len(scores)), key=lambda each: -scores[each]):
        rivals = [each for each in kept if labels[each] == labels[index]]
        if all(overlaps(boxes[each], boxes[index][None])[0] <= limit for each in rivals):
            kept.append(index)
    return kept[:MAX_KEPT]


@settings(max_examples=40)
@given(count=st.integers(0, 40), seed=st.integers(0, 999), limit=st.sampled_from([0.3, 0.5, 0.7]))
def test_suppression_equals_the_plain_way(count, seed, limit):
    """All at once keeps what comparing pair by pair keeps, in the same order."""
    chance = np.random.default_rng(seed)
    corner, side = chance.integers(0, 30, (count, 2)), chance.integers(0, 30, (count, 2))
    boxes = np.concatenate([corner, corner + side], axis=1).astype(np.float32)
    scores = chance.permutation(count).astype(np.float32)
    labels = chance.integers(0, 3, count)
    assert suppress(boxes, scores, labels, limit).tolist() == plainly(boxes, scores, labels, limit)


@pytest.mark.parametrize("label", [0, 1202])
def test_small_boxes_of_a_late_class(label):
    """Objects of a few pixels are kept or dropped alike, whichever number their class has."""
    for seed in range(60):
        chance = np.random.default_rng(seed)
        middles = chance.uniform(50, 600, (20, 2)).repeat(2, axis=0)
        middles += chance.uniform(-1, 1, (40, 2))
        halves = chance.uniform(2, 4.5, (20, 2)).repeat(2, axis=0)
        boxes = np.concatenate([middles - halves, middles + halves], axis=1).astype(np.float32)
        scores, labels = chance.random(40, np.float32), np.full(40, label)
        exact = plainly(boxes.astype(np.float64), scores, labels, 0.7)
        assert suppress(boxes, scores, labels, 0.7).tolist() == exact


def test_suppression_ends_at_a_limit():
    """Not more than so many boxes come out of any number."""
    corners = np.arange(1000, dtype=np.float32)[:, None] * 10
    boxes = np.concatenate([corners, corners, corners + 5, corners + 5], axis=1)
    kept = suppress(boxes, np.ones(1000, np.float32), np.zeros(1000, np.intp), 0.5)
    assert len(kept) == MAX_KEPT


def test_boxes_are_cut_to_the_image():
    """A box that reaches over the edge ends there."""
    assert clip(np.array([-5, -1, 30, 9], np.float32), (8, 20)) == (0, 0, 20, 8)
    assert clip(np.array([25, 9, 30, 19], np.float32), (8, 20)) == (20, 8, 20, 8)


def test_large_values_do_not_overflow():
    """Softmax and sigmoid of a thousand are one, of minus a thousand zero."""
    values = np.array([-1000, 0, 1000], np.float32)
    assert sigmoid(values).tolist() == [0, 0.5, 1]
    assert softmax(values).tolist() == [0, 0, 1]
