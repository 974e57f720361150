"""The loaded model: answers of the service's methods and of ``/v1/infer``, the cache of images."""

from __future__ import annotations

import dataclasses
import io

import msgspec
import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as coco

from mataserver import BadRequest, InvalidParams, ModelSpec, NotFound
from mataserver_sam import families
from mataserver_sam.drawing import colour
from mataserver_sam.model import Segmenter
from mataserver_sam.params import SegmentParams
from mataserver_sam.prompts import Prompt

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
"""The decoder of pycocotools on numpy 2."""

LOADS = {"sam3": families.load_sam3, "sam2": families.load_sam2, "sam1": families.load_sam1}
POINT = Prompt(type="point", points=[(0.3, 0.4)])
BOX = Prompt(type="box", box=(0.5, 0.5, 0.4, 0.3))
DOG = Prompt(type="text", text="dog")


@pytest.fixture(scope="module")
def loaded(request, context):
    """``loaded(kind, **settings)`` is a model, loaded as the server does."""
    models = {}

    def make(kind="sam3", **settings):
        key = (kind, *sorted(settings.items()))
        if key not in models:
            path = request.getfixturevalue(f"{kind}_path")
            spec = ModelSpec(kind, "segment", "local", path)
            models[key] = LOADS[kind](spec, context(**settings))
        return models[key]

    return make


@dataclasses.dataclass
class Published:
    """The weights of a model, as far as their number goes."""

    device: torch.device
    size_bytes: int
    dtype: torch.dtype


def test_a_step_on_a_cpu_may_take_minutes(loaded, context):
    """SAM3 of the published size states more than the 760 s of 64 texts; a GPU states nothing."""
    cpu, gpu = torch.device("cpu"), torch.device("cuda", 0)
    images = loaded()._images
    for dtype, size in ((torch.float32, 4), (torch.bfloat16, 2)):
        weights = Published(cpu, 840_000_000 * size, dtype)
        assert 760 < Segmenter(images, weights, context()).step_timeout < 3600
    assert Segmenter(images, Published(gpu, 10**9, torch.float32), context()).step_timeout == 0.0
    assert loaded().step_timeout < 60.0  # a tiny network: the default limit holds


def segment(model, image, prompts, threshold=0.0, form="rle", url=None):
    """Return the decoded answer and the picture."""
    done = model.segment(image, prompts, threshold, form, url)
    assert done.gpus == []
    return msgspec.json.decode(done.body), done.picture


def cached(model, image, texts, threshold=0.0):
    """Return the decoded answer."""
    return msgspec.json.decode(model.cached(image, texts, threshold, "rle").body)


def pixels(answer, index):
    """Return a mask of an answer as an array, read by COCO's library."""
    size = [answer["image_size"]["height"], answer["image_size"]["width"]]
    return coco.decode({"size": size, "counts": answer["masks"][index].encode()}).astype(bool)


@pytest.mark.parametrize("kind", LOADS)
def test_an_answer_is_complete(loaded, picture, png, kind):
    """Every field of the document is there, as many masks as boxes and scores, each of its size."""
    answer, drawn = segment(loaded(kind), png(picture()), [POINT, BOX])
    assert set(answer) == {
        "masks", "boxes", "scores", "labels", "num_masks", "image_size", "visualization_url",
        "inference_time_ms",
    }  # fmt: skip
    lengths = {len(answer[name]) for name in ("masks", "boxes", "scores", "labels")}
    assert lengths == {answer["num_masks"]}
    assert answer["num_masks"] == (13 if kind == "sam3" else 2)
    assert answer["image_size"] == {"width": 120, "height": 90}
    assert (answer["visualization_url"], drawn) == (None, b"")
    assert answer["inference_time_ms"] > 0
    assert all(0 <= number <= 1 for box in answer["boxes"] for number in box)
    assert all(0 <= score <= 1 for score in answer["scores"])
    assert len({pixels(answer, i).sum() for i in range(answer["num_masks"])}) > 1


@pytest.mark.parametrize("form", ["coco", "png", "polygon"])
def test_mask_formats(loaded, picture, png, form):
    """Each format tells the same masks as the plain text."""
    plain, _ = segment(loaded(), png(picture()), [DOG])
    answer, _ = segment(loaded(), png(picture()), [DOG], form=form)
    for told, text in zip(answer["masks"], plain["masks"], strict=True):
        if form == "coco":
            assert told == {"size": [90, 120], "counts": text}
        else:
            assert isinstance(told, {"png": str, "polygon": list}[form])


def test_cached_answers_like_segment(loaded, picture, png):
    """Several texts on one image give what each gives by itself, in their order."""
    image = png(picture(seed=5))
    answer = cached(loaded(), image, ["dog", "red car", "dog"], 0.25)
    assert set(answer) == {"results", "cache_hit", "inference_time_ms"}
    assert [each["prompt"] for each in answer["results"]] == ["dog", "red car", "dog"]
    for result in answer["results"]:
        alone, _ = segment(
            loaded(), image, [Prompt(type="text", text=result["prompt"])], threshold=0.25
        )
        assert result["num_masks"] == alone["num_masks"] == len(result["masks"])
        assert result["scores"] == pytest.approx(alone["scores"], abs=1e-5)
        assert result["boxes"] == [pytest.approx(box, abs=1e-5) for box in alone["boxes"]]


def test_a_hit_is_told_truly(loaded, picture, png):
    """The first time it is no hit, the second time it is; another image is none; both agree."""
    model = loaded(feature_cache_mb=50)
    image = png(picture(seed=6))
    answers = [cached(model, image, ["dog"]) for _ in range(2)]
    assert [each["cache_hit"] for each in answers] == [False, True]
    assert answers[0]["results"] == answers[1]["results"]
    assert cached(model, png(picture(seed=7)), ["dog"])["cache_hit"] is False
    segment(model, png(picture(seed=8)), [POINT])
    assert cached(model, png(picture(seed=8)), ["dog"])["cache_hit"] is True


def test_the_cache_of_images_is_bounded(loaded, picture, png):
    """However many images come, the features that are held stay within the setting."""
    model = loaded(feature_cache_mb=2)
    for seed in range(8):
        segment(model, png(picture(seed=seed)), [POINT])
        assert 0 < model.describe()["cached_bytes"] <= 2e6
    nothing = loaded(feature_cache_mb=0)
    hits = [cached(nothing, png(picture()), ["dog"])["cache_hit"] for _ in range(2)]
    assert (hits, nothing.describe()["cached_bytes"]) == ([False, False], 0)


def test_images_that_cannot_be_used(sam2_path, context, picture, png):
    """What is no image, or has more pixels than the server allows, is refused and not kept."""
    given = dataclasses.replace(context(), max_pixels=120 * 90 - 1)
    model = families.load_sam2(ModelSpec("x", "segment", "local", sam2_path), given)
    for image, said in ((b"no image", "cannot be decoded"), (png(picture()), "too large: 120x90")):
        with pytest.raises(BadRequest, match=said):
            model.segment(image, [POINT], 0.5, "rle")
    assert model.describe()["cached_bytes"] == 0


def test_images_of_every_kind(loaded, picture):
    """Grey, transparent, 16-bit and turned images are read as they are meant."""
    pages = {
        "grey": (Image.fromarray(picture()).convert("L"), {}),
        "transparent": (Image.fromarray(picture()).convert("RGBA"), {}),
        "one pixel": (Image.new("RGB", (1, 1), (255, 0, 0)), {}),
        "sixteen bits": (Image.fromarray(picture()[:, :, 0].astype(np.uint16) * 257), {}),
    }
    sizes = {}
    for name, (page, options) in pages.items():
        buffer = io.BytesIO()
        page.save(buffer, "PNG", **options)
        answer, _ = segment(loaded(), buffer.getvalue(), [DOG, POINT])
        sizes[name] = (answer["image_size"]["width"], answer["image_size"]["height"])
    assert sizes.pop("one pixel") == (1, 1)
    assert set(sizes.values()) == {(120, 90)}


def test_a_turned_photograph(loaded, picture):
    """The answer is about the upright image: EXIF orientation 6 swaps width and height."""
    page = Image.fromarray(picture())
    exif = page.getexif()
    exif[0x0112] = 6
    buffer = io.BytesIO()
    page.save(buffer, "JPEG", exif=exif)
    answer, _ = segment(loaded(), buffer.getvalue(), [POINT])
    assert answer["image_size"] == {"width": 90, "height": 120}
    assert pixels(answer, 0).shape == (120, 90)


def test_the_picture_shows_the_mask(loaded, picture, png):
    """The PNG is the image with the mask's pixels tinted and most others as before."""
    image = picture()
    answer, drawn = segment(loaded("sam2"), png(image), [POINT], url="/somewhere.png")
    assert answer["visualization_url"] == "/somewhere.png"
    shown = np.asarray(Image.open(io.BytesIO(drawn)))
    assert shown.shape == (90, 120, 3)
    mask = pixels(answer, 0)
    inner = mask & (shown != colour(0)).any(axis=2)
    tint = image * 0.55 + np.array(colour(0)) * 0.45
    near = np.abs(shown - tint).max(axis=2) < 2
    assert near[inner].mean() > 0.5
    assert (shown == image).all(axis=2)[~mask].mean() > 0.5
    assert not (shown == image).all(axis=2)[mask].any()


def test_large_images_are_drawn_smaller(loaded, picture, png):
    """A picture has at most 2048 pixels a side; the answer keeps the image's size."""
    image = png(picture(100, 3_000))
    answer, drawn = segment(loaded("sam2"), image, [POINT], url="/x.png")
    assert answer["image_size"] == {"width": 3_000, "height": 100}
    assert Image.open(io.BytesIO(drawn)).size == (2_048, 68)


def test_it_describes_itself(loaded):
    """Device, format, size and what it can do; SAM 1 knows no words and no videos."""
    told = loaded().describe()
    assert (told["device"], told["dtype"], told["gpus"]) == ("cpu", "float32", [])
    assert told["size_bytes"] > 18e6
    assert told["capabilities"] == [
        "text_prompt", "box_prompt", "point_prompt", "batch_processing", "feature_caching",
        "video_tracking",
    ]  # fmt: skip
    first = set(loaded("sam1").describe()["capabilities"])
    assert not first & {"text_prompt", "video_tracking"}


def predict(model, image, **params):
    """Return the segments of ``/v1/infer``."""
    [result] = model.predict([image], [SegmentParams(**params)])
    return result.segments


def test_predict_finds_what_segment_finds(loaded, picture, png):
    """``/v1/infer`` and the API of SAM3 are one model: the same masks, boxes and scores."""
    image = picture()
    answer, _ = segment(loaded(), png(image), [DOG, POINT], threshold=0.25)
    segments = predict(
        loaded(), image, prompts=("dog",), point_prompts=((36.0, 36.0, 1),), confidence=0.25
    )
    assert [each.label for each in segments] == answer["labels"]
    assert [each.confidence for each in segments] == pytest.approx(answer["scores"], abs=1e-5)
    for index, each in enumerate(segments):
        assert np.array_equal(each.mask, pixels(answer, index))
        cx, cy, width, height = answer["boxes"][index]
        x1, y1, x2, y2 = each.bbox
        assert ((x1 + x2) / 240, (y1 + y2) / 180) == pytest.approx((cx, cy), abs=1e-5)
        assert ((x2 - x1) / 120, (y2 - y1) / 90) == pytest.approx((width, height), abs=1e-5)


@pytest.mark.parametrize("kind", ["sam1", "sam2"])
def test_predict_takes_points_and_boxes(loaded, picture, kind):
    """SAM 1 and 2 give one segment per box, and one for all points together."""
    boxes = ((10.0, 10.0, 50.0, 60.0), (60.0, 20.0, 110.0, 80.0))
    points = ((36.0, 36.0, 1), (80.0, 60.0, 0))
    segments = predict(
        loaded(kind), picture(), box_prompts=boxes, point_prompts=points, confidence=0.0
    )
    assert len(segments) == 3
    assert {each.mask.shape for each in segments} == {(90, 120)}
    one = predict(
        loaded(kind), picture(), box_prompts=boxes[:1], point_prompts=points, confidence=0.0
    )
    assert len(one) == 1


def test_predict_refuses_what_cannot_be(loaded, picture):
    """Text on SAM 2, no prompt at all, and points beside the image are told in words."""
    for kind, given, said in (
        (
            "sam2",
            {"prompts": ("dog",)},
            r"^params\.prompts: this model does not take text: use SAM3",
        ),
        ("sam3", {}, "give prompts, point_prompts or box_prompts"),
        ("sam3", {"point_prompts": ((500.0, 5.0, 1),)}, r"point_prompts\[0\]: lies outside"),
        (
            "sam3",
            {"prompts": ("a" * 40,)},
            r"^params\.prompts: a text is longer than the 32 tokens",
        ),
    ):
        with pytest.raises(InvalidParams, match=said):
            predict(loaded(kind), picture(), **given)


def test_methods_of_videos_are_public_ones(loaded):
    """The doors to the video half open public methods alone."""
    with pytest.raises(NotFound, match="unknown method for videos: '_open'"):
        loaded().video("_open")
    with pytest.raises(NotFound, match="Session nobody not found"):
        loaded().video("figures", "nobody")
    with pytest.raises(NotFound, match="'_find'"):
        next(loaded().video_stream("_find", "nobody"))


def test_closing_gives_the_weights_back(sam2_path, context):
    """A closed model holds nothing any more."""
    model = families.load_sam2(ModelSpec("x", "segment", "local", sam2_path), context())
    model.close()
    assert not hasattr(model, "_weights")
    assert len(model._seen) == 0
