"""What answers in JSON name."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mataserver import Entity
from mataserver_hf import answers
from mataserver_hf.answers import Mention

FAST = settings(
    max_examples=100,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],  # of a machine that is busy
)

KEYS = st.sampled_from(
    [*answers.LABELS, *answers.SCORES, *answers.BOXES, "attributes", "objects", "", "x"]
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text("cat "),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(KEYS, inner),
    max_leaves=8,
)


@pytest.mark.parametrize(
    ("value", "found"),
    [
        (["cat", " dog ", "", 3], [Mention("cat", 1.0, {}), Mention("dog", 1.0, {})]),
        ([{"name": "cat", "score": 0.5}], [Mention("cat", 0.5, {})]),
        ({"class": "cat", "colour": "red"}, [Mention("cat", 1.0, {"colour": "red"})]),
        ({"found": [{"label": "cat"}], "n": 1}, [Mention("cat", 1.0, {})]),
        (
            [{"label": "cat", "attributes": {"fur": "long", "n": 1}, "n": 2}],
            [Mention("cat", 1.0, {"fur": "long", "n": 2})],
        ),
        ([{"label": "cat", "attributes": ["wet"]}], [Mention("cat", 1.0, {"attributes": ["wet"]})]),
        ([{"label": ""}, {"label": 3}, {"score": 1}, None, [["cat"]]], []),
        ({"tags": ["a", "b"]}, []),
        ({}, []),
    ],
)
def test_mentions(value, found):
    """Lists, lists inside objects and single objects are read; what has no name is left out."""
    assert answers.mentions(value) == found


@pytest.mark.parametrize("given_score", [1.5, -0.1, True, "high", None, float("nan"), [0.5]])
def test_a_score_that_is_none_stays_an_attribute(given_score):
    """Only a number from 0 to 1 is a confidence; anything else is kept as it was said."""
    [found] = answers.mentions([{"label": "cat", "confidence": given_score}])
    assert found.confidence == 1.0
    assert found.attributes["confidence"] is given_score


@pytest.mark.parametrize("key", answers.BOXES)
def test_boxes(key):
    """Four numbers under a usual key are a box, and are left out of a detection's attributes."""
    [found] = answers.mentions([{"label": "cat", key: [1, 2, 3.5, 4], "wet": True}])
    assert found.corners == (1.0, 2.0, 3.5, 4.0)
    assert found.entity(without_box=True) == Entity("cat", 1.0, {"wet": True})
    assert found.entity() == Entity("cat", 1.0, {key: [1, 2, 3.5, 4], "wet": True})


@pytest.mark.parametrize("box", [[1, 2, 3], [1, 2, 3, "4"], [1, 2, 3, None], {"x": 1}, "1,2,3,4"])
def test_what_is_no_box(box):
    """Anything but four numbers is no box, and stays an attribute."""
    [found] = answers.mentions([{"label": "cat", "bbox": box}])
    assert (found.corners, found.attributes) == (None, {"bbox": box})


def test_scores():
    """Classes come best first, also where they are the keys of an object."""
    listed = answers.scores([{"label": "dog", "confidence": 0.2}, {"label": "cat", "score": 0.7}])
    keyed = answers.scores({"dog": 0.2, "cat": 0.7, "note": "unsure", "n": 3})
    assert [(each.label, each.confidence) for each in listed] == [("cat", 0.7), ("dog", 0.2)]
    assert keyed == listed


@FAST
@given(st.lists(VALUES) | st.dictionaries(KEYS, VALUES))
def test_any_value(value):
    """No JSON makes it raise, and labels and confidences are what the wire format wants."""
    for each in [*answers.mentions(value), *answers.scores(value)]:
        entity = each.entity(without_box=True)
        assert entity.label == entity.label.strip() != ""
        assert 0.0 <= entity.confidence <= 1.0
        assert msgspec.convert(each.corners, tuple[float, float, float, float] | None) is (
            each.corners
        )
