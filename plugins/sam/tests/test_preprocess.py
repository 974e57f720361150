"""Preprocessing without torchvision, against transformers' own and against the definition."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import SamImageProcessorPil

from mataserver_sam.preprocess import HALF, PadPreparation, StretchPreparation, roi_align

SIZES = [(90, 120), (120, 90), (40, 50), (1, 1), (300, 200)]
TORCHVISION = importlib.util.find_spec("torchvision") is not None


def picture(size, seed=0):
    """Return an image of coarse random squares: resizing it loses something, but not everything."""
    coarse = np.random.default_rng(seed).integers(0, 256, (9, 12, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize(size[::-1], Image.Resampling.BICUBIC))


@pytest.mark.skipif(not TORCHVISION, reason="transformers' SAM3 processor needs torchvision")
@pytest.mark.parametrize("size", [*SIZES, (1080, 1920)])
def test_stretched_is_transformers(size):
    """SAM3's and SAM 2's preprocessing is that of their processors to 1e-6."""
    from transformers import Sam2ImageProcessor, Sam3ImageProcessor

    image = picture(size)
    for side, kind in ((112, Sam3ImageProcessor), (64, Sam2ImageProcessor)):
        processor = kind(size={"height": side, "width": side})
        given = processor(image, input_data_format="channels_last", return_tensors="pt")
        prepare = StretchPreparation(side, tuple(processor.image_mean), tuple(processor.image_std))
        assert torch.allclose(prepare(image), given.pixel_values, rtol=0, atol=1e-6)


@pytest.mark.parametrize("size", SIZES)
def test_stretched_is_what_pillow_makes(size):
    """The resized square is Pillow's bilinear one, within one level of rounding."""
    image = picture(size)
    expected = np.asarray(Image.fromarray(image).resize((112, 112), Image.Resampling.BILINEAR))
    levels = ((StretchPreparation(112)(image)[0] * 0.5 + 0.5) * 255).permute(1, 2, 0).numpy()
    assert np.abs(levels - expected).max() < 1.001
    assert np.abs(levels - levels.round()).max() < 1e-3


def test_normalisation_is_exact():
    """A square that needs no resizing is its pixels, scaled to -1..1 for SAM3."""
    image = picture((112, 112))
    expected = (image.astype(np.float64) / 255 - 0.5) / 0.5
    prepared = StretchPreparation(112, HALF, HALF)(image)
    assert prepared.dtype == torch.float32
    assert np.allclose(prepared[0].permute(1, 2, 0).numpy(), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("size", SIZES)
def test_fitted_is_transformers(size):
    """SAM 1's preprocessing is that of its Pillow processor, within one level of rounding."""
    image = picture(size)
    processor = SamImageProcessorPil(
        size={"longest_edge": 64}, pad_size={"height": 64, "width": 64}
    )
    expected = processor(image, input_data_format="channels_last", return_tensors="pt")
    prepare = PadPreparation(64)
    given = prepare(image)
    one_level = 1.001 / 255 / min(prepare.std)
    assert prepare.extent(size) == tuple(expected["reshaped_input_sizes"][0].tolist())
    assert (given - expected["pixel_values"]).abs().max() < one_level
    assert torch.equal(given == 0, expected["pixel_values"] == 0)


@pytest.mark.parametrize("size", SIZES)
def test_cut_is_transformers(size):
    """Logits of SAM 1 are stretched and cut as its processor does before the last resize."""
    logits = torch.randn(3, 16, 16, generator=torch.Generator().manual_seed(0))
    processor = SamImageProcessorPil(pad_size={"height": 64, "width": 64})
    prepare = PadPreparation(64)
    extent = prepare.extent(size)
    [expected] = processor.post_process_masks(
        [logits[None]], [size], [extent], binarize=False, pad_size={"height": 64, "width": 64}
    )
    cropped = prepare.crop_padding(logits, size)
    again = torch.nn.functional.interpolate(
        cropped[None], size, mode="bilinear", align_corners=False
    )
    assert torch.allclose(again, expected, rtol=0, atol=1e-6)


def sampled(features, box, cells):
    """Average a box of one plane as the paper says: one bilinear sample at a time."""
    x1, y1, x2, y2 = box
    high, wide = max(y2 - y1, 1.0) / cells, max(x2 - x1, 1.0) / cells
    rows, columns = max(1, int(np.ceil(high))), max(1, int(np.ceil(wide)))
    total = np.zeros((cells, cells))
    for row, column in np.ndindex(cells * rows, cells * columns):
        y = y1 + (row + 0.5) * high / rows
        x = x1 + (column + 0.5) * wide / columns
        total[row // rows, column // columns] += value_at(features, y, x)
    return total / (rows * columns)


def value_at(plane, y, x):
    """Return a plane's value between its pixels; beyond its border by more than a pixel it is 0."""
    height, width = plane.shape
    if not (-1 <= y <= height and -1 <= x <= width):
        return 0.0
    y, x = min(max(y, 0), height - 1), min(max(x, 0), width - 1)
    top, left = int(y), int(x)
    below, right = min(top + 1, height - 1), min(left + 1, width - 1)
    upper = plane[top, left] * (1 - x + left) + plane[top, right] * (x - left)
    lower = plane[below, left] * (1 - x + left) + plane[below, right] * (x - left)
    return upper * (1 - y + top) + lower * (y - top)


BOXES = [(0, 0, 8, 6), (1.5, 2.25, 6.5, 5.0), (3, 3, 3, 3), (-4, -2, 4, 3), (5, 4, 20, 14)]


@pytest.mark.parametrize("box", BOXES)
def test_roi_align_is_its_definition(box):
    """Every cell is the mean of its samples: inside, degenerate, and beyond the border."""
    features = torch.randn(2, 3, 6, 8, generator=torch.Generator().manual_seed(1))
    boxes = [torch.tensor([box], dtype=torch.float32), torch.zeros(0, 4)]
    pooled = roi_align(features, boxes, 7)
    expected = np.stack([sampled(plane, box, 7) for plane in features[0].double().numpy()])
    assert pooled.shape == (1, 3, 7, 7)
    assert np.allclose(pooled[0].numpy(), expected, rtol=0, atol=1e-5)


def test_roi_align_keeps_the_order():
    """Boxes of several images come in the images' order; none at all is an empty tensor."""
    features = torch.arange(2.0).reshape(2, 1, 1, 1).expand(2, 1, 6, 6)
    box = torch.tensor([[1.0, 1.0, 4.0, 4.0]])
    pooled = roi_align(features, [box.repeat(2, 1), box], 2)
    assert pooled.mean((1, 2, 3)).tolist() == [0.0, 0.0, 1.0]
    assert roi_align(features, [box[:0], box[:0]], 2).shape == (0, 1, 2, 2)


@pytest.mark.skipif(not TORCHVISION, reason="needs torchvision")
@pytest.mark.parametrize("box", BOXES[:3])
def test_roi_align_is_torchvisions(box):
    """The same numbers as torchvision's; beyond the border its compiled and Python forms differ."""
    from torchvision.ops import roi_align as theirs

    features = torch.randn(2, 3, 6, 8, generator=torch.Generator().manual_seed(1))
    boxes = [torch.tensor([box], dtype=torch.float32)] * 2
    assert torch.allclose(roi_align(features, boxes, 7), theirs(features, boxes, 7), atol=1e-6)
