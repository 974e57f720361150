"""Images become the inputs that transformers makes of them, value for value."""

from __future__ import annotations

import dataclasses
import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mataserver import BadRequest, MataError, ModelSpec
from mataserver_onnx import classify, processor
from mataserver_onnx.classify import ClassifyParams
from mataserver_onnx.preparation import (
    GREY,
    Placement,
    Preparation,
    centre,
    cropped,
    fitted,
    stretched,
    table,
)

SHAPES = [(90, 150), (150, 90), (37, 37), (300, 96)]
PLAIN = table(1 / 255)
CASES = [
    *((name, {}) for name in processor.PROCESSORS),
    ("BeitImageProcessor", {"do_center_crop": True, "size": 256, "crop_size": 224}),
    ("CLIPImageProcessor", {"do_resize": False}),
    ("ConvNextImageProcessor", {"size": {"shortest_edge": 224}}),
    (
        "DPTImageProcessor",
        {"size": {"height": 70, "width": 70}, "keep_aspect_ratio": True, "ensure_multiple_of": 14},
    ),
    ("DetrImageProcessor", {"size": {"shortest_edge": 64, "longest_edge": 96}}),
    ("DetrImageProcessor", {"size": 64, "max_size": 96}),
    ("EfficientNetImageProcessor", {"include_top": False, "rescale_offset": True, "size": 64}),
    ("LevitImageProcessor", {"size": {"height": 100, "width": 120}}),
    ("MobileViTImageProcessor", {"do_flip_channel_order": False}),
    ("PoolFormerImageProcessor", {"crop_pct": None}),
    ("ViTImageProcessor", {"do_normalize": False, "size": 64}),
    ("ViTImageProcessor", {"do_rescale": False, "resample": 3}),
    ("YolosImageProcessor", {"size": {"shortest_edge": 64, "longest_edge": 96}}),
    # What a bare number means, and what is left over from another processor.
    ("DetrImageProcessor", {"size": 500}),
    ("YolosImageProcessor", {"size": 70}),
    ("SiglipImageProcessor", {"size": 40}),
    ("CLIPImageProcessor", {"size": 48, "max_size": 64}),
    ("MobileViTImageProcessor", {"do_normalize": True}),
    *(
        (name, {"do_center_crop": True, "crop_size": 64, "include_top": True})
        for name in (
            *("DPTImageProcessor", "DetrImageProcessor", "GLPNImageProcessor"),
            *("RTDetrImageProcessor", "SegformerImageProcessor", "YolosImageProcessor"),
        )
    ),
    ("ViTImageProcessor", {"do_flip_channel_order": True, "rescale_offset": True}),
    # No setting, and a setting of nothing.
    ("CLIPImageProcessor", {"do_center_crop": None, "size": 40}),
    ("PvtImageProcessor", {"image_mean": 0.0}),
]


@pytest.fixture(scope="module")
def images():
    """Noise of several sizes."""
    noise = np.random.default_rng(0)
    return [noise.integers(0, 256, (*shape, 3), dtype=np.uint8) for shape in SHAPES]


@pytest.mark.parametrize(("name", "settings"), CASES, ids=str)
def test_equals_transformers(name, settings, images, tmp_path):
    """The same bits come out, from what a processor saves and from its few settings alone."""
    import transformers

    theirs = getattr(transformers, f"{name}Pil").from_dict(dict(settings))
    theirs.save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "preprocessor_config.json").read_text())
    old = {"feature_extractor_type": name.replace("ImageProcessor", "FeatureExtractor")}
    for given_settings in (saved, {**old, **settings}):
        ours = processor.read(given_settings)
        for image in images:
            options = {"input_data_format": "channels_last", "return_tensors": "np"}
            [wanted] = theirs(images=[image], **options)["pixel_values"]
            values, place = ours.prepare(image)
            assert values.dtype == np.float32
            assert np.array_equal(values, wanted)
            assert place.size == image.shape[:2]
            assert place.input_size == values.shape[1:]
            assert ours.fixed_size in {None, values.shape[1:]}


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"image_processor_type": "SamImageProcessor"}, "SamImageProcessor, which is not known"),
        ({}, "names no processor"),
        ({"image_processor_type": "DetrImageProcessor", "pad_size": {"height": 9}}, "pads"),
        ({"image_processor_type": "ConvNextImageProcessor", "do_center_crop": True}, "crops"),
        ({"image_processor_type": "ViTImageProcessor", "size": "large"}, "cannot be used"),
        ({"image_processor_type": "ViTImageProcessor", "size": {"height": 9}}, "cannot be used"),
        ({"image_processor_type": "ViTImageProcessor", "image_std": [0, "a"]}, "cannot be used"),
        (
            {"image_processor_type": "ViTImageProcessor", "size": 100_000},
            "height 100000; 1 to 8192",
        ),
        ({"image_processor_type": "ViTImageProcessor", "size": 8193}, "height 8193; 1 to 8192"),
        ({"image_processor_type": "ViTImageProcessor", "size": -1}, "height -1; 1 to 8192"),
        (
            {"image_processor_type": "DetrImageProcessor", "size": {"shortest_edge": 9_000}},
            "shortest_edge 9000; 1 to 8192",
        ),
        (
            {
                "image_processor_type": "ConvNextFeatureExtractor",
                "size": {"height": 224, "width": 2**40},
            },
            "width 1099511627776; 1 to 8192",
        ),
        (
            {"image_processor_type": "CLIPImageProcessor", "crop_size": {"height": 1, "width": -7}},
            "width -7; 1 to 8192",
        ),
        # What makes more, or nothing, of a size that is none of a picture's.
        ({"image_processor_type": "PoolFormerImageProcessor", "crop_pct": 1e-4}, "2240000; 1 to"),
        ({"image_processor_type": "ConvNextImageProcessor", "size": 224, "crop_pct": -1}, "-224;"),
        ({"image_processor_type": "ConvNextImageProcessor", "size": 9, "crop_pct": 0}, "be used"),
        ({"image_processor_type": "DPTImageProcessor", "ensure_multiple_of": 4000}, "height 0;"),
        ({"image_processor_type": "GLPNImageProcessor", "size_divisor": -99_999}, "99999; 1 to"),
        # Colours that are no numbers.
        ({"image_processor_type": "ViTImageProcessor", "image_std": 0}, "cannot be used"),
        ({"image_processor_type": "ViTImageProcessor", "image_std": [1, 1, 0.0]}, "cannot be used"),
        ({"image_processor_type": "ViTImageProcessor", "image_mean": math.inf}, "cannot be used"),
        ({"image_processor_type": "ViTImageProcessor", "rescale_factor": math.nan}, "be used"),
    ],
)
def test_what_is_not_known_is_refused(settings, said):
    """Another processor, or settings that make no sense, are errors and never guesses."""
    with pytest.raises(MataError, match=said):
        processor.read(settings)


def test_an_image_whose_shape_is_kept_is_not_of_any_length():
    """Nothing else limits the longer side, and so the tokens of a depth network."""
    keeps = {"image_processor_type": "DPTImageProcessor", "keep_aspect_ratio": True}
    prepare = processor.read(keeps | {"size": 56, "ensure_multiple_of": 14}).prepare
    with pytest.raises(BadRequest, match="1000x56 pixels is too small or too narrow"):
        prepare(np.zeros((56, 1000, 3), np.uint8))
    assert prepare(np.zeros((56, 890, 3), np.uint8))[0].shape == (3, 56, 896)


def test_the_largest_sides_are_taken():
    """8192 pixels are an image yet, and the longer edge is a bound that may lie beyond it."""
    made = processor.read({"image_processor_type": "ViTImageProcessor", "size": 8192})
    assert made.fixed_size == (8192, 8192)
    size = {"shortest_edge": 8, "longest_edge": 1_000_000}
    made = processor.read({"image_processor_type": "DetrImageProcessor", "size": size})
    assert made.prepare(np.zeros((16, 32, 3), np.uint8))[0].shape == (3, 8, 16)


def test_a_network_of_one_size_gets_it():
    """Where the processor would keep the aspect ratio, the network's only size counts."""
    keeps = {"image_processor_type": "DetrImageProcessor"}
    assert processor.read(keeps, (96, 64)).fixed_size == (96, 64)
    fixed = {"image_processor_type": "ViTImageProcessor"}
    assert processor.read(fixed, (224, 224)).fixed_size == (224, 224)
    with pytest.raises(MataError, match=r"takes images of 64x96 pixels, but its .* makes 224x224"):
        processor.read(fixed, (96, 64))


@pytest.mark.parametrize(
    ("name", "settings", "expected"),
    [
        ("ViTImageProcessor", {}, (224, 224)),
        ("SegformerImageProcessor", {"size": {"height": 64, "width": 96}}, (64, 96)),
        ("DetrImageProcessor", {}, (800, 800)),
        ("DeiTImageProcessor", {}, (256, 256)),
        ("LevitImageProcessor", {}, (256, 256)),
        ("GLPNImageProcessor", {}, None),
        ("CLIPImageProcessor", {"do_resize": False}, None),
    ],
)
def test_the_size_that_pictures_are_resized_to(name, settings, expected):
    """The server decodes large pictures no larger than it takes for this size."""
    made = processor.read({"image_processor_type": name, **settings})
    assert made.resized_to == expected
    boxed = Preparation(fitted((64, 96)), PLAIN, letterbox=(64, 96))
    assert boxed.resized_to == (64, 96)


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        ((960, 1280), (960, 1280)),
        ((3024, 4032), (960, 1280)),
        ((40, 1_000_000), (32, 38_400)),
        ((1_000_000, 40), (38_400, 32)),
    ],
)
def test_glpn_reduces_large_pictures(image, expected):
    """A photograph of 12 megapixels took 70 GB: it is reduced to four times GLPN's own size."""
    made = processor.read({"image_processor_type": "GLPNImageProcessor"})
    assert made._plan(*image).resize == expected


def test_an_image_that_vanishes_is_the_clients_fault():
    """A picture that is too narrow for the processor's resizing is a 400 that names its size."""
    size = {"shortest_edge": 64, "longest_edge": 96}
    narrow = processor.read({"image_processor_type": "DetrImageProcessor", "size": size})
    with pytest.raises(BadRequest, match="1000x1 pixels is too small or too narrow"):
        narrow.prepare(np.zeros((1, 1000, 3), np.uint8))


SIDES = st.integers(1, 400)


@given(height=SIDES, width=SIDES, rows=st.integers(8, 200), columns=st.integers(8, 200))
def test_the_letterbox_is_undone(height, width, rows, columns):
    """The corners of the picture in the input lead back to the corners of the picture."""
    size = (rows, columns)
    boxed = Preparation(fitted(size), PLAIN, letterbox=size)
    values, place = boxed.prepare(np.zeros((height, width, 3), np.uint8))
    assert values.shape == (3, *size)
    inside = np.argwhere(values[0] == 0)
    (top, left), (bottom, right) = inside.min(0), inside.max(0) + 1
    box = np.array([[left, top, right, bottom]], np.float32)
    assert place.to_image(box)[0] == pytest.approx((0, 0, width, height), abs=1e-2)


def test_a_letterbox_has_grey_bars():
    """The bars are YOLO's grey, the smaller one above and on the left."""
    boxed = Preparation(fitted((10, 20)), table(None), letterbox=(10, 20))
    values, place = boxed.prepare(np.full((10, 15, 3), 7, np.uint8))
    assert (place.left, place.top, place.scale_x) == (2, 0, 1)
    assert values[0, 0].tolist() == [GREY] * 2 + [7] * 15 + [GREY] * 3


@given(height=st.integers(1, 200), width=st.integers(1, 200), part=st.sampled_from([1.0, 0.875]))
def test_a_crop_is_torchvisions(height, width, part):
    """To the pixel: the longer side is rounded down, half a pixel of the middle to the even one.

    As torchvision's ``Resize`` and ``CenterCrop`` compute it.
    """
    short = round(24 / part)
    resized = (
        (int(short * height / width), short)
        if width <= height
        else (short, int(short * width / height))
    )
    geometry = cropped((24, 24), part)(height, width)
    assert geometry.resize == resized
    place = np.indices(resized).transpose(1, 2, 0)
    top, left = (round((side - 24) / 2.0) for side in resized)
    cut = centre(place, (24, 24), rounded=geometry.rounded)
    assert cut.shape[:2] == (24, 24)
    assert tuple(cut[0, 0]) == (top, left)


def test_a_crop_takes_the_middle():
    """The shorter side fits and the longer one loses both ends; a part shows less of both."""
    image = np.zeros((40, 80, 3), np.uint8)
    image[:, 20:60] = 200
    values, _ = Preparation(cropped((20, 20)), table(None)).prepare(image)
    assert values.shape == (3, 20, 20)
    assert values[0, 10, 1:-1].tolist() == [200] * 18
    less = cropped((20, 20), part=0.5)(40, 80)
    assert less[:2] == ((40, 80), (20, 20))


def test_a_line_of_pixels_is_not_enlarged_to_gigabytes(planted, context, tmp_path):
    """A shorter side of one pixel becomes the input's, and the longer one with it."""
    network = planted.colours(tmp_path / "model.onnx", "classes", size=(48, 48))
    ctx = dataclasses.replace(context(), max_pixels=100_000)
    model = classify.BACKEND.load(ModelSpec("model", "classify", "local", network), ctx)
    for shape in [(1, 40), (40, 1)]:
        with pytest.raises(BadRequest, match=f"{shape[1]}x{shape[0]} pixels .* too narrow"):
            model.predict([np.zeros((*shape, 3), np.uint8)], [ClassifyParams()])
    for shape in [(1, 20), (20, 1), (400, 600)]:  # the last is larger, as its decoder has allowed
        [result] = model.predict([np.zeros((*shape, 3), np.uint8)], [ClassifyParams()])
        assert result.classifications


@pytest.mark.parametrize(
    ("resize", "size", "shape"),
    [
        ("stretch", (64, 64), (24, 32)),
        ("letterbox", (128, 128), (24, 32)),
        ("letterbox", (8, 256), (4, 128)),
        ("crop", (36, 36), (24, 32)),
        ("crop", (36, 36), (75, 10)),
    ],
)
def test_a_small_picture_is_enlarged_to_what_the_input_needs(
    resize, size, shape, planted, context, tmp_path
):
    """``max_pixels`` limits what a picture itself has; the input may have more."""
    network = planted.colours(tmp_path / "model.onnx", "classes", size=size)
    ctx = dataclasses.replace(context(models={"model": {"resize": resize}}), max_pixels=1000)
    model = classify.BACKEND.load(ModelSpec("model", "classify", "local", network), ctx)
    [result] = model.predict([np.zeros((*shape, 3), np.uint8)], [ClassifyParams()])
    assert result.classifications


def test_colours_are_turned_and_normalised():
    """Each colour has its own mean and deviation, counted in the order in which they are given."""
    image = np.array([[[0, 100, 200]]], np.uint8)
    steps = [((0.1, 0.2, 0.3), (0.5, 1.0, 2.0))]
    for flip, order in ((False, (0, 100, 200)), (True, (200, 100, 0))):
        made = Preparation(stretched((1, 1)), table(0.01, steps), flip=flip)
        values = made.prepare(image)[0].ravel()
        expected = [
            (byte * 0.01 - mean) / std for byte, mean, std in zip(order, *steps[0], strict=True)
        ]
        assert values == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("has_processor", [False, True])
def test_blue_first_keeps_each_colours_mean(has_processor, planted, load, tmp_path):
    """The setting counts with a processor, too, and red is normalised as red wherever it stands."""
    planted.colours(tmp_path / "model.onnx", "classes", gain=1.0)
    settings = {
        "image_processor_type": "ViTImageProcessor",
        "size": {"height": 32, "width": 48},
        "image_mean": [0.485, 0.456, 0.406],
        "image_std": [0.229, 0.224, 0.225],
    }
    if has_processor:
        (tmp_path / "preprocessor_config.json").write_text(json.dumps(settings))
    model = load(tmp_path, "classify", channels="bgr")
    image = np.full((32, 48, 3), (51, 102, 204), np.uint8)
    [result] = model.predict([image], [ClassifyParams(use_softmax=False)])
    found = {each.label: each.confidence for each in result.classifications}
    blue, green, red = (0.8 - 0.406) / 0.225, (0.4 - 0.456) / 0.224, (0.2 - 0.485) / 0.229
    expected = {"LABEL_0": blue, "LABEL_1": green, "LABEL_2": red}
    assert found == pytest.approx(expected, abs=1e-4)


def test_a_place_is_undone_in_both_directions():
    """Scales of their own and a shift: what lies in the input is found in the image."""
    place = Placement((50, 100), (64, 96), 0.5, 2.0, 10, 20)
    box = np.array([[10, 20, 60, 120]], np.float32)
    assert place.to_image(box)[0].tolist() == [0, 0, 100, 50]
