"""Prompts: what the types cannot say, and how several of them are read together."""

from __future__ import annotations

import msgspec
import pytest

from mataserver import InvalidParams
from mataserver_sam.image import Query, queries
from mataserver_sam.image_requests import CachedRequest, SegmentRequest
from mataserver_sam.params import SegmentParams, prompts_of
from mataserver_sam.prompts import Prompt
from mataserver_sam.propagation import legs
from mataserver_sam.video_requests import PropagateRequest

BOX, OTHER, THIRD = (0.2, 0.3, 0.4, 0.5), (0.5, 0.5, 0.1, 0.1), (0.7, 0.7, 0.2, 0.2)


def text(words):
    """Return a text prompt."""
    return Prompt(type="text", text=words)


def box(where=BOX, label=None):
    """Return a box prompt."""
    return Prompt(type="box", box=where, label=label)


SOUND = [
    {"type": "text", "text": "person wearing red shirt"},
    {"type": "box", "box": [0.2, 0.3, 0.4, 0.5], "label": True},
    {"type": "box", "box": [0.2, 0.3, 0.4, 0.5], "label": False},
    {"type": "point", "points": [[0.3, 0.4], [0.6, 0.7]], "point_labels": [1, 1]},
    {"type": "point", "points": [[0, 1]]},
    {"type": "point", "points": [[0.5, 0.5]], "box": [0.5, 0.5, 0.4, 0.4]},
    {"type": "text", "text": "a", "box": None, "label": None, "points": None, "point_labels": None},
]


@pytest.mark.parametrize("given", SOUND)
def test_sound_prompts(given):
    """Every prompt of the API's document is read; null is the same as left out."""
    prompt = msgspec.convert(given, Prompt)
    assert prompt.type == given["type"]
    assert prompt.labels == ([1] * len(prompt.points) if prompt.points else [])
    assert prompt.wanted is (given.get("label") is not False)


@pytest.mark.parametrize("kind", ["TEXT", "Text", "tExT"])
def test_types_in_any_case(kind):
    """The API's document names the types in capitals and sends small letters: both are read."""
    prompt = msgspec.convert({"type": kind, "text": "dog"}, Prompt)
    assert (prompt.type, prompt) == ("text", text("dog"))
    boxed = msgspec.convert({"type": "BOX", "box": BOX}, Prompt)
    pointed = msgspec.convert({"type": "POINT", "points": [[0.5, 0.5]], "box": BOX}, Prompt)
    assert (boxed, pointed.labels) == (box(), [1])
    with pytest.raises(msgspec.ValidationError, match="a box prompt has no text"):
        msgspec.convert({"type": "BOX", "text": "dog", "box": BOX}, Prompt)


WRONG = {
    "unknown type": ({"type": "circle"}, "type must be text, box or point"),
    "no type": ({"text": "dog"}, "missing required field `type`"),
    "misspelt field": ({"type": "box", "box": BOX, "lable": False}, "unknown field `lable`"),
    "no text": ({"type": "text"}, "a text prompt needs text"),
    "empty text": ({"type": "text", "text": " \t"}, "text is empty"),
    "long text": ({"type": "text", "text": "x" * 1_001}, "length <= 1000"),
    "text of a number": ({"type": "text", "text": 5}, "Expected `str | null`"),
    "no box": ({"type": "box"}, "a box prompt needs box"),
    "three numbers": ({"type": "box", "box": [0.1, 0.2, 0.3]}, "length 4"),
    "box beyond 1": ({"type": "box", "box": [0.1, 0.2, 0.3, 1.5]}, "<= 1.0"),
    "negative box": ({"type": "box", "box": [-0.1, 0.2, 0.3, 0.5]}, ">= 0.0"),
    "flat box": ({"type": "box", "box": [0.1, 0.2, 0.3, 0.0]}, "no width or no height"),
    "another number": ({"type": "box", "box": BOX, "label": 2}, "Invalid enum value 2"),
    "label of a text": ({"type": "box", "box": BOX, "label": "true"}, "got `str`"),
    "unwanted text": ({"type": "text", "text": "a", "label": False}, "a text prompt has no label"),
    "text with a box": ({"type": "text", "text": "a", "box": BOX}, "a text prompt has no box"),
    "box with points": ({"type": "box", "box": BOX, "points": [[0, 0]]}, "a box prompt has no"),
    "no points": ({"type": "point"}, "a point prompt needs points"),
    "empty points": ({"type": "point", "points": []}, "length >= 1"),
    "point of one": ({"type": "point", "points": [[0.5]]}, "length 2"),
    "point beyond": ({"type": "point", "points": [[0.5, 1.1]]}, "<= 1.0"),
    "two labels": ({"type": "point", "points": [[0, 0]], "point_labels": [1, 0]}, "as many as"),
    "label of 2": ({"type": "point", "points": [[0, 0]], "point_labels": [2]}, "<= 1"),
    "label of a half": (
        {"type": "point", "points": [[0, 0]], "point_labels": [0.5]},
        "must be 0 or 1",
    ),
    "too many points": ({"type": "point", "points": [[0, 0]] * 257}, "length <= 256"),
}


@pytest.mark.parametrize(("given", "said"), WRONG.values(), ids=WRONG)
def test_wrong_prompts(given, said):
    """What no model could mean is refused, and the message says what is wrong with it."""
    with pytest.raises(msgspec.ValidationError, match=said.replace("|", r"\|")):
        msgspec.convert(given, Prompt)


def test_labels_as_arrays_have_them():
    """1.0 is 1, and so is true; a model is given whole numbers."""
    points = [[0.3, 0.4], [0.6, 0.7], [0.1, 0.1], [0.2, 0.2], [0.4, 0.4]]
    given = {"type": "point", "points": points, "point_labels": [1.0, 0.0, 1, False, True]}
    labels = msgspec.convert(given, Prompt).labels
    assert labels == [1, 0, 1, 0, 1]
    assert {type(each) for each in labels} == {int}


@pytest.mark.parametrize("label", [True, False, 1, 0])
def test_label_of_a_box_as_points_have_it(label):
    """A box has true and false, points 1 and 0: both are read for a box."""
    prompt = msgspec.convert({"type": "box", "box": BOX, "label": label}, Prompt)
    assert prompt.wanted is bool(label)


@pytest.mark.parametrize(
    "given", [{"type": "text", "text": "dog"}, {"type": "point", "points": [[0, 1]]}]
)
def test_default_label_of_another_type(given):
    """A client with one class for all prompts sends the label's default with each of them."""
    assert msgspec.convert(given | {"label": True}, Prompt) == msgspec.convert(given, Prompt)


@pytest.mark.parametrize("most", [2**31, 2**63, 2**70])
def test_more_frames_than_any_video_has(most):
    """As many as there are: the API states no upper bound."""
    asked = msgspec.json.decode(b'{"max_frames": %d}' % most, type=PropagateRequest)
    assert legs(9, asked.direction, 3, asked.max_frames) == legs(9, "both", 3, None)


REQUESTS = {
    "no prompts": (SegmentRequest, {"prompts": []}, "length >= 1"),
    "prompts left out": (SegmentRequest, {}, "`prompts`"),
    "too many prompts": (SegmentRequest, {"prompts": SOUND[:1] * 65}, "length <= 64"),
    "no texts": (CachedRequest, {"text_prompts": []}, "length >= 1"),
    "an empty text": (CachedRequest, {"text_prompts": ["a", " "]}, r"text_prompts\[1\] is empty"),
    "too many texts": (CachedRequest, {"text_prompts": ["a"] * 65}, "length <= 64"),
}


@pytest.mark.parametrize(("kind", "given", "said"), REQUESTS.values(), ids=REQUESTS)
def test_wrong_requests(kind, given, said):
    """A request has something to look for, and not too much."""
    with pytest.raises(msgspec.ValidationError, match=said):
        msgspec.convert({"image": "", **given}, kind)


def test_defaults_of_the_document():
    """Threshold 0.5, no picture, the server's mask format; unknown fields are nobody's error."""
    asked = msgspec.convert({"image": "", "prompts": SOUND, "model": "any"}, SegmentRequest)
    assert (asked.confidence_threshold, asked.return_visualization) == (0.5, False)
    assert asked.mask_format is None


GROUPS = {
    "texts alone": ([text("a"), text("b")], [Query("a"), Query("b")]),
    "a box shows what the text before it means": (
        [text("a"), box(), text("b"), box(OTHER, label=False)],
        [Query("a", (BOX,), (True,)), Query("b", (OTHER,), (False,))],
    ),
    "a box before every text belongs to the first": (
        [box(), text("a"), text("b")],
        [Query("a", (BOX,), (True,)), Query("b")],
    ),
    "boxes alone": (
        [box(), box(OTHER, label=False), box(THIRD)],
        [Query("visual", (BOX, OTHER, THIRD), (True, False, True))],
    ),
    "an unwanted box alone": ([box(label=False)], [Query("visual", (BOX,), (False,))]),
    "points ask nothing of the detector": ([Prompt(type="point", points=[(0.5, 0.5)])], []),
    "spaces around a text": ([text("  red car ")], [Query("  red car ")]),
}


@pytest.mark.parametrize(("prompts", "expected"), GROUPS.values(), ids=GROUPS)
def test_queries(prompts, expected):
    """Texts and boxes become the questions that the detector is asked."""
    assert queries(prompts) == expected


SIZE = (90, 120)


def test_params_become_prompts():
    """Pixels become shares of the image; all points together are one object."""
    params = SegmentParams(
        prompts=("dog",),
        box_prompts=((30.0, 9.0, 90.0, 45.0), (60.0, 45.0, 400.0, 90.0)),
        point_prompts=((60.0, 45.0, 1), (120.0, 0.0, 0)),
    )
    dog, first, second, points = prompts_of(params, SIZE)
    assert dog == text("dog")
    assert first.box == pytest.approx((0.5, 0.3, 0.5, 0.4))
    assert second.box == pytest.approx((0.75, 0.75, 0.5, 0.5))
    assert points.points == [(0.5, 0.5), (1.0, 0.0)]
    assert (points.labels, points.box) == ([1, 0], None)


def test_points_refine_one_box():
    """With one box the points are of the object in it."""
    params = SegmentParams(box_prompts=((0.0, 0.0, 60.0, 45.0),), point_prompts=((30.0, 30.0, 1),))
    [prompt] = prompts_of(params, SIZE)
    assert (prompt.type, prompt.box) == ("point", (0.25, 0.25, 0.5, 0.5))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, "give prompts, point_prompts or box_prompts"),
        ({"point_prompts": ((121.0, 5.0, 1),)}, r"point_prompts\[0\]: lies outside .* 120x90"),
        ({"point_prompts": ((5.0, 5.0, 1), (5.0, -1.0, 1))}, r"point_prompts\[1\]"),
        ({"box_prompts": ((130.0, 5.0, 140.0, 10.0),)}, r"box_prompts\[0\]: lies outside"),
        ({"prompts": ("a",) * 65}, "at most 64 prompts"),
    ],
)
def test_params_that_point_at_nothing(given, said):
    """Prompts are needed, and must lie on the image."""
    with pytest.raises(InvalidParams, match=said):
        prompts_of(SegmentParams(**given), SIZE)
