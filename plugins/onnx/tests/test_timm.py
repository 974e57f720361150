"""timm's ``config.json``: pictures are prepared as timm does, and not as torchvision."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from PIL import Image

import mataserver_onnx
from mataserver import MataError, ModelFiles
from mataserver_onnx import bundle, preparation_choice, sizes, timm_settings
from mataserver_onnx.classify import ClassifyParams
from mataserver_onnx.options import ModelOptions

SIDES = [(90, 150), (150, 90), (37, 37), (301, 96)]
GIVEN = {
    "input_size": [3, 48, 48],
    "interpolation": "bicubic",
    "crop_pct": 0.9,
    "crop_mode": "center",
    "mean": [0.5, 0.4, 0.3],
    "std": [0.5, 0.25, 0.125],
}


def noise(height, width):
    return np.random.default_rng(height).integers(0, 256, (height, width, 3), np.uint8)


def by_hand(image, resample, *, squash=False):
    """Validate as timm: resize the shorter side to 53 (48 / 0.9 rounded down), cut out 48 x 48."""
    height, width = image.shape[:2]
    size = (53, int(53 * height / width)) if width <= height else (int(53 * width / height), 53)
    resized = Image.fromarray(image).resize((53, 53) if squash else size, resample)
    left, top = (round((side - 48) / 2) for side in resized.size)
    cut = np.asarray(resized.crop((left, top, left + 48, top + 48)), np.float32) / 255
    return ((cut - GIVEN["mean"]) / GIVEN["std"]).transpose(2, 0, 1)


def prepared(path, image, **options):
    chosen, size = preparation_choice.choose(
        bundle.open_bundle(path), "classes", ModelOptions(**options)
    )
    assert size == (48, 48)
    return chosen.prepare(image)[0]


@pytest.mark.parametrize("sides", SIDES)
@pytest.mark.parametrize(
    ("changed", "how"),
    [
        ({}, {"resample": Image.Resampling.BICUBIC}),
        ({"interpolation": "bilinear"}, {"resample": Image.Resampling.BILINEAR}),
        ({"interpolation": "random"}, {"resample": Image.Resampling.BILINEAR}),
        ({"crop_mode": "squash"}, {"resample": Image.Resampling.BICUBIC, "squash": True}),
    ],
)
@pytest.mark.parametrize("side", [48, "side"])
def test_pictures_are_those_of_timm(side, changed, how, sides, planted, tmp_path):
    """Filter, cut, mean and deviation; also the size, where the network takes any."""
    planted.colours(tmp_path / "model.onnx", "classes", size=(side, side))
    config = {"architecture": "resnet18", "pretrained_cfg": GIVEN | changed}
    (tmp_path / "config.json").write_text(json.dumps(config))
    image = noise(*sides)
    expected = by_hand(image, **how)
    assert prepared(tmp_path, image) == pytest.approx(expected, abs=1e-5)
    assert prepared(tmp_path, image, channels="bgr") == pytest.approx(expected[::-1], abs=1e-5)


def by_ratio(image, whole, size):
    """Validate as timm where the sides differ: round both sides, and filter bilinearly."""
    height, width = image.shape[:2]
    ratio = min(height / whole[0], width / whole[1])
    resized = Image.fromarray(image).resize(
        (round(width / ratio), round(height / ratio)), Image.Resampling.BILINEAR
    )
    left, top = (
        round((has - want) / 2) for has, want in zip(resized.size, size[::-1], strict=True)
    )
    cut = resized.crop((left, top, left + size[1], top + size[0]))
    return ((np.asarray(cut, np.float32) / 255 - GIVEN["mean"]) / GIVEN["std"]).transpose(2, 0, 1)


@pytest.mark.parametrize("sides", [*SIDES, (331, 97), (53, 211)])
@pytest.mark.parametrize(("size", "whole"), [((32, 64), (35, 71)), ((64, 32), (71, 35))])
def test_inputs_that_are_no_squares(size, whole, sides, planted, tmp_path):
    """For them, timm resizes by a class of its own, and does not tell it the filter."""
    planted.colours(tmp_path / "model.onnx", "classes", size=size)
    config = {"pretrained_cfg": GIVEN | {"input_size": [3, *size]}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    chosen, found = preparation_choice.choose(
        bundle.open_bundle(tmp_path), "classes", ModelOptions()
    )
    assert found == size
    image = noise(*sides)
    assert chosen.prepare(image)[0] == pytest.approx(by_ratio(image, whole, size), abs=1e-5)


def test_the_processor_of_transformers_says_the_same(planted, tmp_path):
    """The library keeps timm's description in the file of the processor."""
    planted.colours(tmp_path / "model.onnx", "classes", size=(48, 48))
    processor = {"image_processor_type": "TimmWrapperImageProcessor", "pretrained_cfg": GIVEN}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(processor))
    expected = by_hand(noise(90, 150), Image.Resampling.BICUBIC)
    assert prepared(tmp_path, noise(90, 150)) == pytest.approx(expected, abs=1e-5)


def test_settings_come_before_timm(planted, tmp_path):
    """What is stated about pixels replaces all of the description."""
    planted.colours(tmp_path / "model.onnx", "classes", size=(48, 48))
    (tmp_path / "config.json").write_text(json.dumps({"pretrained_cfg": GIVEN}))
    found = prepared(tmp_path, noise(48, 48), resize="stretch", mean=(0, 0, 0), std=(1, 1, 1))
    assert found == pytest.approx(noise(48, 48).transpose(2, 0, 1) / 255, abs=1e-6)


def test_the_names_of_timm(planted, load, tmp_path):
    """Classes are called as ``label_names`` calls them."""
    planted.colours(tmp_path / "model.onnx", "classes", size=(48, 48))
    config = {"pretrained_cfg": GIVEN, "label_names": ["red", "green", "blue"]}
    (tmp_path / "config.json").write_text(json.dumps(config))
    image = np.full((60, 80, 3), (0, 250, 0), np.uint8)
    [result] = load(tmp_path, "classify").predict([image], [ClassifyParams(top_k=1)])
    assert result.classifications[0].label == "green"


UNUSABLE = pytest.mark.parametrize(
    "changed",
    [
        {"crop_mode": "border"},
        {"interpolation": "guessed"},
        {"interpolation": ["bicubic"]},
        {"crop_mode": ["center"]},
        {"input_size": [3, float("inf"), 48]},
        {"input_size": [1, 28, 28]},
        {"mean": [0.5]},
        {"std": [0.0, 0.0, 0.0]},
        {"std": [1.0, float("nan"), 1.0]},
        {"std": [1.0, 1.0, float("inf")]},
        {"mean": [0.5, 0.5, float("nan")]},
        {"mean": [float("inf"), 0.5, 0.5]},
        {"crop_pct": "all"},
        {"crop_pct": 1e-6},
        {"crop_pct": float("nan")},
        {"crop_pct": 1.5},
    ],
)


@UNUSABLE
def test_what_cannot_be_used_is_told(changed):
    """A picture prepared in another way would be a quietly wrong answer."""
    with pytest.raises(MataError, match=r"pretrained_cfg .* cannot be used"):
        timm_settings.read({"pretrained_cfg": GIVEN | changed})


@UNUSABLE
@pytest.mark.parametrize("side", [48, "side"])
def test_who_states_the_preparation_is_served(side, changed, planted, load, tmp_path):
    """As the error advises; registering says so already."""
    planted.colours(tmp_path / "model.onnx", "classes", size=(side, side))
    (tmp_path / "config.json").write_text(json.dumps({"pretrained_cfg": GIVEN | changed}))
    [backend] = [each for each in mataserver_onnx.backends() if each.task == "classify"]
    settings = mataserver_onnx.settings()
    given = ModelFiles(name="m", source="local", path=tmp_path, settings=settings())
    with pytest.raises(MataError, match="state input_size, mean, std and resize under"):
        backend.accepts(given)
    stated = ModelOptions(input_size=(48, 48), mean=(0, 0, 0), std=(1, 1, 1), resize="stretch")
    assert backend.accepts(dataclasses.replace(given, settings=settings(models={"m": stated})))
    chosen, size = preparation_choice.choose(bundle.open_bundle(tmp_path), "classes", stated)
    assert size == (48, 48)
    expected = noise(48, 48).transpose(2, 0, 1) / 255
    assert chosen.prepare(noise(48, 48))[0] == pytest.approx(expected, abs=1e-6)


def test_the_size_is_used_where_pixels_are_stated(planted, tmp_path):
    """The one of timm goes with stated pixels, whatever else its description says."""
    planted.colours(tmp_path / "model.onnx", "classes", size=("side", "side"))
    config = {"pretrained_cfg": GIVEN | {"crop_mode": "border"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    found = prepared(tmp_path, noise(48, 48), resize="stretch")
    assert found.shape == (3, 48, 48)


@UNUSABLE
@pytest.mark.parametrize(("shape", "layout"), [("map", "semantic"), ("depth", "depth")])
def test_layouts_that_make_no_use_of_it_are_served(shape, layout, changed, planted, tmp_path):
    """Nor may its size be that of a network for another task."""
    planted.colours(tmp_path / "model.onnx", shape, size=(32, 48))
    (tmp_path / "config.json").write_text(json.dumps({"pretrained_cfg": GIVEN | changed}))
    opened = bundle.open_bundle(tmp_path)
    _, size = preparation_choice.choose(opened, layout, ModelOptions())
    assert size == (32, 48)


def test_a_detector_of_any_size_is_served(planted, tmp_path):
    """YOLO's usual side, and not that of the classifier that it was made from."""
    planted.colours(tmp_path / "model.onnx", "map", size=("side", "side"))
    (tmp_path / "config.json").write_text(json.dumps({"pretrained_cfg": {"input_size": [1, 9, 9]}}))
    assert sizes.size_of(bundle.open_bundle(tmp_path), "yolo-v8", ModelOptions()) == (640, 640)


def test_what_timm_leaves_out_has_its_defaults():
    """A config without the description has none, an empty one timm's own values."""
    assert timm_settings.read({"model_type": "vit"}) is None
    found = timm_settings.read({"pretrained_cfg": {}})
    assert (found.size, found.share, found.resample) == (None, 0.875, Image.Resampling.BICUBIC)
    assert found.resized((224, 224)) == (256, 256)
