"""Large JPEGs decoded no larger than the model needs them: what comes back is the original's."""

from __future__ import annotations

import base64
import importlib.metadata
import io
from pathlib import Path

import aiohttp
import numpy as np
import pytest
from msgspec import UNSET
from PIL import Image

from mataserver import Backend, Detection, DetectResult, hookimpl, media, plugins, testing
from mataserver.engines import scaling
from mataserver.errors import BadRequest
from mataserver.results import Keypoint, PoseResult, Segment, SegmentResult

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


class BlueMask(BlueBox):
    """Finds the pixels of the blue rectangle too."""

    def predict(self, images, _params):
        """Return the rectangle with its mask."""
        return [SegmentResult([self._segment(image)]) for image in images]

    def _segment(self, image):
        found = self._find(image).detections[0]
        blue = (image[..., 2] > 128) & (image[..., 0] < 100)
        return Segment(found.label, found.confidence, found.bbox, blue)


def load(spec, _context):
    """Load the model."""
    return BlueBox() if spec.name == "blue-box" else BlueMask()


@hookimpl
def backends():
    """Return the backends: this module is a plugin."""
    kinds = (("blue-box", "detect"), ("blue-mask", "segment"))
    return [Backend(name=name, task=task, source="pip", load=load) for name, task in kinds]


MODELS = [{"model": "blue-box", "task": "detect"}, {"model": "blue-mask", "task": "segment"}]
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

        async def asked(image, model="blue-box"):
            url = f"/v1/infer?model={model}"
            async with http.post(url, data=image, headers={"Content-Type": "image/jpeg"}) as answer:
                assert answer.status == 200, await answer.text()
                found = await answer.json()
                return (found.get("detections") or found["segments"])[0]

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


async def test_a_mask_comes_back_in_original_pixels(ask):
    """A mask is the original's size to the pixel, also where that is no multiple of the scale."""
    box = (300, 150, 801, 437)
    found = await ask(planted(1203, 805, box), "blue-mask")
    assert found["label"] == "301x202"
    assert found["bbox"] == pytest.approx(box, abs=4)
    mask = np.asarray(Image.open(io.BytesIO(base64.b64decode(found["mask"])))) > 127
    assert mask.shape == (805, 1203)
    whole = np.zeros_like(mask)
    whole[150:437, 300:801] = True
    assert overlap(mask, whole) > 0.97


async def test_only_jpegs_are_reduced(ask):
    """A PNG has no such short cut: the model sees it whole."""
    found = await ask(planted(1600, 1600, (400, 400, 800, 800), form="PNG"))
    assert found["label"] == "1600x1600"
    assert found["bbox"] == [400, 400, 800, 800]


@pytest.mark.parametrize("wanted", [None, (64, 96)])
@pytest.mark.parametrize("place", [0.1, 0.5, 0.9])
def test_a_damaged_png_is_refused_for_every_model(place, wanted):
    """Asking a PNG how it is turned loads it; where that failed, half of it passed for a whole."""
    rows = np.random.default_rng(0).integers(0, 256, (200, 300, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(rows).save(file, "PNG")
    damaged = bytearray(file.getvalue())
    damaged[int(len(damaged) * place)] ^= 0xFF
    with pytest.raises(BadRequest, match="truncated or damaged"):
        media.reduced(bytes(damaged), LIMIT, wanted)


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


def overlap(one, other):
    """Return the intersection of two masks over their union."""
    return (one & other).sum() / (one | other).sum()


def regions(image, size):
    """Return three masks of an image: brightness, on the coarse grid that networks answer on."""
    grey = Image.fromarray(image).convert("L").resize(size[::-1], Image.Resampling.BILINEAR)
    grid = grey.resize((size[1] // 4, size[0] // 4), Image.Resampling.BOX)
    large = np.asarray(grid.resize(image.shape[1::-1], Image.Resampling.BILINEAR))
    return [(large >= low) & (large < high) for low, high in ((0, 70), (70, 150), (150, 256))]


@pytest.mark.parametrize(("enlarged", "wanted"), [(2000, 352), (3000, 512), (4000, 640)])
def test_masks_of_a_photograph_stay_what_they_are(enlarged, wanted):
    """On a photograph they overlap by 0.95, the strictest that COCO counts, or more."""
    with Image.open(PHOTOGRAPH) as photograph:
        large = photograph.resize((enlarged, enlarged * 3 // 4), Image.Resampling.LANCZOS)
    data, size = as_jpeg(large), (wanted, wanted)
    reduced = media.reduced(data, LIMIT, size)
    assert reduced.scale > 1
    segments = [Segment("", 1.0, (0, 0, 1, 1), each) for each in regions(reduced.image, size)]
    restored = scaling.restore(SegmentResult(segments), reduced).segments
    for whole, small in zip(regions(media.decode(data, LIMIT), size), restored, strict=True):
        assert overlap(whole, small.mask) > 0.95


@pytest.mark.parametrize("scale", [2, 4, 8])
def test_masks_at_the_borders_are_enlarged(scale):
    """A single pixel, a frame around everything, all and nothing: each has its place and size."""
    height, width = 5 * scale - 1, 7 * scale - scale // 2
    picture = media.Picture(np.zeros((5, 7, 3), np.uint8), scale, width, height)
    small = np.zeros((5, 7), bool)
    assert not scaling.enlarge_mask(small, picture).any()
    assert scaling.enlarge_mask(~small, picture).all()
    assert scaling.enlarge_mask(small, picture).shape == (height, width)
    for y, x in ((0, 0), (2, 3), (4, 6)):
        one = small.copy()
        one[y, x] = True
        ys, xs = np.nonzero(scaling.enlarge_mask(one, picture))
        assert (ys.min(), xs.min()) == (y * scale, x * scale)
        assert ys.max() == min((y + 1) * scale, height) - 1
        assert xs.max() == min((x + 1) * scale, width) - 1


def test_a_mask_may_be_true_in_any_byte():
    """What a library calls true may be 255 in memory: it is enlarged like any other."""
    picture = media.Picture(np.zeros((5, 7, 3), np.uint8), 4, 28, 20)
    mask = np.zeros((5, 7), bool)
    mask[1:4, 2:5] = True
    odd = (mask * np.uint8(255)).view(bool)
    assert np.array_equal(scaling.enlarge_mask(odd, picture), scaling.enlarge_mask(mask, picture))


def test_a_segment_without_a_mask_has_its_box_moved():
    """A model need not give masks."""
    picture = media.Picture(np.zeros((1, 1, 3), np.uint8), 2, 100, 100)
    result = SegmentResult([Segment("", 1.0, (1.0, 2.0, 3.0, 4.0))])
    (found,) = scaling.restore(result, picture).segments
    assert (found.bbox, found.mask) == ((2.0, 4.0, 6.0, 8.0), UNSET)


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


def test_keypoints_stay_within_the_image():
    """The last pixel of a reduced image stands for less than a whole one of the original.

    What the model itself saw beyond the image stays there.
    """
    picture = media.Picture(np.zeros((76, 101, 3), np.uint8), 4, 401, 301)
    points = [(101.0, 76.0, 0.7), (100.0, 75.0, 0.6), (102.0, 80.0, 0.1)]
    pose = PoseResult([Keypoint("person", 0.5, (1.0, 2.0, 101.0, 76.0), points)])
    (found,) = scaling.restore(pose, picture).keypoints
    assert found.keypoints == [(401.0, 301.0, 0.7), (400.0, 300.0, 0.6), (408.0, 320.0, 0.1)]


def test_the_corners_of_a_turned_box_come_back_in_original_pixels():
    """They are scaled as the box that spans them is; whatever else a model tells stays."""
    picture = media.Picture(np.zeros((76, 101, 3), np.uint8), 4, 401, 301)
    corners = [[10.0, 5.0], [20.0, 10.0], [15.0, 20.0], [5.0, -1.5]]
    extra = {"corners": corners, "distance": 7.5}
    result = DetectResult([Detection("ship", 0.5, (5.0, 0.0, 20.0, 20.0), extra=extra)])
    (found,) = scaling.restore(result, picture).detections
    assert found.bbox == (20.0, 0.0, 80.0, 80.0)
    assert found.extra == {
        "corners": [[40.0, 20.0], [80.0, 40.0], [60.0, 80.0], [20.0, -6.0]],
        "distance": 7.5,
    }


@pytest.mark.parametrize("corners", [None, "four", [[1, 2, 3]], {"a": 1}])
def test_what_else_a_model_calls_corners_stays(corners):
    """Only pairs of numbers are places."""
    picture = media.Picture(np.zeros((76, 101, 3), np.uint8), 4, 401, 301)
    extra = {"corners": corners}
    result = DetectResult([Detection("ship", 0.5, (5.0, 0.0, 20.0, 20.0), extra=extra)])
    (found,) = scaling.restore(result, picture).detections
    assert found.extra == extra
