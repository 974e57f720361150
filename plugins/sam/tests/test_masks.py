"""Masks: the stretch against torch, the codes against COCO's own library."""

from __future__ import annotations

import base64
import io

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as coco

from mataserver_sam.masks import Mask, resize_to_mask, rle

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
"""The decoder of pycocotools on numpy 2."""

SIZES = [(90, 120), (288, 288), (1, 1), (3, 500), (40, 30), (1080, 1920)]


def smooth(count, seed=0):
    """Return logits ``[count, 72, 72]`` of blobs on both sides of 0."""
    coarse = torch.randn(count, 1, 9, 9, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.interpolate(coarse, (72, 72), mode="bicubic")[:, 0]


def blob(height, width, seed):
    """Return a mask with a few blobs."""
    return np.asarray(resize_to_mask(smooth(1, seed)[0].numpy(), (height, width)).full())


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("threshold", [0.0, 0.5])
def test_stretched_is_torchs(size, threshold):
    """Stretching a rectangle gives the pixels that torch gives for the whole, but for rounding."""
    logits = smooth(6) if threshold == 0 else smooth(6).sigmoid()
    whole = torch.nn.functional.interpolate(
        logits[None], size, mode="bilinear", align_corners=False
    )[0]
    for values, expected in zip(logits.numpy(), whole.numpy(), strict=True):
        unlike = resize_to_mask(values, size, threshold).full() != (expected > threshold)
        assert np.abs(expected[unlike] - threshold).max(initial=0) < 1e-5


def test_an_island_keeps_its_rectangle_alone():
    """What is kept of a small object is small, and lies where the object is."""
    logits = np.full((288, 288), -5.0, np.float32)
    logits[100:110, 30:40] = 5.0
    mask = resize_to_mask(logits, (1080, 1920))
    assert mask.bits.size < 60 * 90
    assert mask.corners() == (200, 375, 267, 412)
    assert mask.area == mask.full().sum()


def test_nothing_is_no_mask():
    """Logits that never exceed the threshold are an empty mask of the image's size."""
    mask = resize_to_mask(np.full((8, 8), -1.0, np.float32), (30, 40))
    assert mask.full().shape == (30, 40)
    assert not mask.full().any()
    assert (mask.area, mask.corners(), mask.box(), mask.polygons()) == (0, (0,) * 4, (0.0,) * 4, [])
    assert mask.rle() == encoded(np.zeros((30, 40), bool))


def test_a_small_image_may_miss_an_object():
    """An object between the points that a tiny image reads is no pixel of it."""
    logits = np.full((8, 8), -1.0, np.float32)
    logits[0, 0] = 5.0
    assert resize_to_mask(logits, (1, 1)).full().tolist() == [[False]]
    logits[3:5, 3:5] = 5.0
    assert resize_to_mask(logits, (1, 1)).full().tolist() == [[True]]


def encoded(mask):
    """Return COCO's text of a mask, by COCO's library."""
    return coco.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"].decode()


SHAPES = {
    "nothing": np.zeros((5, 7), bool),
    "everything": np.ones((5, 7), bool),
    "one pixel": np.ones((1, 1), bool),
    "first pixel": np.pad(np.ones((1, 1), bool), ((0, 4), (0, 6))),
    "last pixel": np.pad(np.ones((1, 1), bool), ((4, 0), (6, 0))),
    "diagonal": np.eye(6, dtype=bool),
    "full columns": np.tile([True, True, False, True], (9, 1)),
    "full rows": np.tile([[True], [False], [True]], (1, 8)),
    "noise": np.random.default_rng(0).random((31, 17)) > 0.5,
    "sparse": np.random.default_rng(1).random((400, 300)) > 0.999,
    "long runs": np.pad(np.ones((1_500, 3), bool), ((0, 0), (900, 2_000))),
    "blobs": blob(270, 480, 3),
}


@pytest.mark.parametrize("mask", SHAPES.values(), ids=SHAPES)
def test_rle_is_cocos(mask):
    """The text is byte for byte that of COCO's library, also from a tight rectangle."""
    expected = encoded(mask)
    assert rle(mask) == expected
    height, width = mask.shape
    assert Mask(mask, 0, 0, (height, width)).rle() == expected
    assert Mask.from_pixels(mask).coco() == {"size": [height, width], "counts": expected}


@pytest.mark.parametrize("seed", range(20))
def test_rle_of_rectangles_within_an_image(seed):
    """Wherever the rectangle lies in the image, COCO reads the same pixels back."""
    chance = np.random.default_rng(seed)
    height, width = chance.integers(1, 40, 2)
    top, left = chance.integers(0, 5, 2)
    bits = chance.random((height, width)) > chance.random()
    size = (int(height + top + chance.integers(0, 5)), int(width + left + chance.integers(0, 5)))
    mask = Mask(bits, int(top), int(left), size)
    read = coco.decode({"size": list(size), "counts": mask.rle().encode()})
    assert np.array_equal(read.astype(bool), mask.full())


def test_boxes():
    """Corners are pixels' outer edges; the relative box has its centre first."""
    mask = np.zeros((50, 100), bool)
    mask[10:20, 40:80] = True
    assert Mask.from_pixels(mask).corners() == (40, 10, 80, 20)
    assert Mask.from_pixels(mask).box() == pytest.approx((0.6, 0.3, 0.4, 0.2))


def test_png_holds_every_pixel():
    """The PNG is the whole image's size, 255 where the mask is true."""
    mask = blob(90, 120, 1)
    pixels = np.asarray(
        Image.open(io.BytesIO(base64.b64decode(Mask.from_pixels(mask).encode("png"))))
    )
    assert np.array_equal(pixels, np.where(mask, 255, 0))


def test_polygons_run_along_the_edges_of_pixels():
    """A rectangle is its four corners, as its box: not the middles of its outermost pixels."""
    mask = np.zeros((60, 80), bool)
    mask[5:20, 10:30] = mask[40, 50] = True
    polygons = sorted(Mask.from_pixels(mask).encode("polygon"))
    corners = [{tuple(each) for each in np.reshape(polygon, (-1, 2))} for polygon in polygons]
    assert corners == [
        {(10, 5), (30, 5), (30, 20), (10, 20)},
        {(50, 40), (51, 40), (51, 41), (50, 41)},
    ]


@pytest.mark.parametrize("share", [0.05, 0.3, 0.7])
@pytest.mark.parametrize("seed", range(20))
def test_drawn_polygons_are_the_mask(share, seed):
    """As COCO draws them, to the pixel; holes are filled."""
    rng = np.random.default_rng(seed)
    height, width = rng.integers(1, 40, 2).tolist()
    noise = cv2.GaussianBlur(rng.normal(size=(height, width)), (0, 0), 0.3 + seed % 4)
    mask = noise > np.quantile(noise, 1 - share)
    outside = np.pad(mask, 1).astype(np.uint8)
    cv2.floodFill(outside, None, (0, 0), 2)
    drawn = np.zeros_like(mask)
    for polygon in Mask.from_pixels(mask).polygons():
        drawn |= coco.decode(coco.frPyObjects([polygon], height, width))[..., 0] > 0
    assert np.array_equal(drawn, outside[1:-1, 1:-1] != 2)
