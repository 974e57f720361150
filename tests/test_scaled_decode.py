"""Large JPEGs decoded no larger than the model needs them: what comes back is the original's."""

from __future__ import annotations

import importlib.metadata
import io
from pathlib import Path

import aiohttp
import numpy as np
import pytest
from PIL import Image

from mataserver import Backend, Detection, DetectResult, hookimpl, media, plugins, testing
from mataserver.engines import scaling
from mataserver.results import Keypoint, PoseResult

LIMIT = 100_000_000
PHOTOGRAPH = Path(__file__).parent.parent / "examples" / "pictures" / "astronaut.jpg"


class BlueBox:
    """Finds the blue rectangle of an image, and says how large the image was that it saw."""

    input_size = (100, 100)

    def predict(self, images, _params):
        """Return the rectangle's box; the label is the size."""
        return [self._find(image) for image in images]

    def _find(self, image):
        blue = (image[..., 2] > 128) & (image[..., 0] < 100)
        ys, xs = np.nonzero(blue)
        box = (float(xs.min()), float(ys.min()), float(xs.max() + 1), float(ys.max() + 1))
        return DetectResult([Detection(f"{image.shape[1]}x{image.shape[0]}", 0.9, box)])


def load(_spec, _context):
    """Load the model."""
    return BlueBox()


@hookimpl
def backends():
    """Return the backend: this module is a plugin."""
    return [Backend(name="blue-box", task="detect", source="pip", load=load)]


MODELS = [{"model": "blue-box", "task": "detect"}]
PLUGIN = importlib.metadata.EntryPoint("blue-box", __name__, plugins.GROUP)


def planted(width, height, box, *, orientation=None, form="JPEG"):
    """Return an encoded white image with a blue rectangle; a camera may have been turned."""
    pixels = np.full((height, width, 3), 255, np.uint8)
    x1, y1, x2, y2 = box
    pixels[y1:y2, x1:x2] = (0, 0, 255)
    buffer = io.BytesIO()
    exif = Image.Exif()
    if orientation is not None:
        exif[0x0112] = orientation
    Image.fromarray(pixels).save(buffer, form, quality=95, exif=exif)
    return buffer.getvalue()


@pytest.fixture
async def ask(data_dir):
    """Ask a server with the model: the answer's one detection."""
    async with (
        testing.serving(data_dir, entry_points=[PLUGIN], models=MODELS) as served,
        aiohttp.ClientSession(served.url, headers=served.headers) as http,
    ):

        async def asked(image):
            url = "/v1/infer?model=blue-box"
            async with http.post(url, data=image, headers={"Content-Type": "image/jpeg"}) as answer:
                assert answer.status == 200, await answer.text()
                return (await answer.json())["detections"][0]

        yield asked


@pytest.mark.parametrize(
    ("size", "seen"),
    [
        ((149, 149), "149x149"),
        ((229, 400), "229x400"),
        ((230, 400), "115x200"),
        ((459, 800), "230x400"),
        ((461, 800), "116x200"),
        ((1039, 4000), "260x1000"),
        ((4001, 1203), "501x151"),
    ],
)
async def test_an_image_is_reduced_as_far_as_the_model_allows(ask, size, seen):
    """It stays larger than the model wants it both ways; the box is the original's all the same."""
    width, height = size
    box = (width // 4, height // 4, width // 2, height // 2)
    found = await ask(planted(width, height, box))
    assert found["label"] == seen
    assert found["bbox"] == pytest.approx(box, abs=8)
    assert found["bbox"][2] <= width


async def test_a_turned_photograph_is_reduced_and_turned(ask):
    """EXIF turns a reduced image as it does any other; boxes are those of the upright original."""
    found = await ask(planted(1200, 800, (0, 0, 400, 200), orientation=6))
    assert found["label"] == "200x300"  # 800 wide and 1200 high, a quarter of each
    assert found["bbox"] == pytest.approx([600, 0, 800, 400], abs=8)


async def test_only_jpegs_are_reduced(ask):
    """A PNG has no such short cut: the model sees it whole."""
    found = await ask(planted(1600, 1600, (400, 400, 800, 800), form="PNG"))
    assert found["label"] == "1600x1600"
    assert found["bbox"] == [400, 400, 800, 800]


async def test_it_can_be_turned_off(data_dir):
    """With ``scaled_decode: false`` every model sees every pixel."""
    options = {"entry_points": [PLUGIN], "models": MODELS, "scaled_decode": False}
    async with (
        testing.serving(data_dir, **options) as served,
        aiohttp.ClientSession(served.url, headers=served.headers) as http,
        http.post(
            "/v1/infer?model=blue-box",
            data=planted(1600, 1600, (400, 400, 800, 800)),
            headers={"Content-Type": "image/jpeg"},
        ) as answer,
    ):
        assert (await answer.json())["detections"][0]["label"] == "1600x1600"


def inputs(data, size):
    """Return what a model gets of a JPEG: decoded whole, reduced, whole by the bicubic filter."""
    whole, reduced = media.decode(data, LIMIT), media.reduced(data, LIMIT, size)
    assert reduced.scale > 1
    bilinear, bicubic = Image.Resampling.BILINEAR, Image.Resampling.BICUBIC
    made = ((whole, bilinear), (reduced.image, bilinear), (whole, bicubic))
    return [np.asarray(Image.fromarray(i).resize(size[::-1], by)).astype(int) for i, by in made]


def as_jpeg(picture):
    """Return a picture as a camera gives it."""
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=92)
    return buffer.getvalue()


@pytest.mark.parametrize(("enlarged", "wanted"), [(1024, 224), (2048, 640), (4096, 640)])
def test_a_smooth_photograph_gives_a_model_the_same_pixels(enlarged, wanted):
    """Enlarged to the sizes that cameras make, it differs by less than 0.5 of 255 in the mean."""
    with Image.open(PHOTOGRAPH) as photograph:
        large = photograph.resize((enlarged, enlarged), Image.Resampling.LANCZOS)
    whole, reduced, _ = inputs(as_jpeg(large), (wanted, wanted))
    difference = np.abs(whole - reduced)
    assert difference.mean() < 0.5
    assert np.percentile(difference, 99) <= 3


@pytest.mark.parametrize("size", [(640, 640), (652, 869), (224, 224), (288, 384), (1304, 1739)])
def test_the_finest_detail_changes_no_more_than_another_filter_would(size):
    """Of 12 megapixels that are sharp to the last one, at the most that each scale allows.

    The model's input differs from the whole picture's by less than the bicubic filter's does, and
    in 99 of 100 values by hardly more.
    """
    sharp = Image.new("RGB", (4000, 3000))
    with Image.open(PHOTOGRAPH) as photograph:
        for x in range(0, sharp.width, photograph.width):
            for y in range(0, sharp.height, photograph.height):
                sharp.paste(photograph, (x, y))
    whole, reduced, other = inputs(as_jpeg(sharp), size)
    difference, usual = np.abs(whole - reduced), np.abs(whole - other)
    assert difference.mean() < 0.9 * usual.mean()
    assert np.percentile(difference, 99) <= np.percentile(usual, 99) + 1


def test_keypoints_come_back_in_original_pixels():
    """A pose's box and keypoints are scaled, its scores are not; boxes end at the border."""
    picture = media.Picture(np.zeros((1, 1, 3), np.uint8), 4, 401, 301)
    pose = PoseResult([Keypoint("person", 0.5, (1.0, 2.0, 101.0, 76.0), [(3.0, 4.0, 0.7)])])
    (found,) = scaling.restore(pose, picture).keypoints
    assert found.bbox == (4.0, 8.0, 401, 301)
    assert found.keypoints == [(12.0, 16.0, 0.7)]
