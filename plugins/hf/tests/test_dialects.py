"""What each family is asked, and how its answers become results."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mataserver import Classification, Detection, Entity, InvalidParams, VlmResult
from mataserver_hf.dialects import DIALECTS, View

FAST = settings(
    max_examples=100,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],  # of a machine that is busy
)

WHOLE = View((400, 200), (0, 0, 400, 200), (280, 140))
MIDDLE = View((400, 200), (100, 0, 200, 200), (400, 200))
CHATTING = sorted(DIALECTS.keys() - {"paligemma", "florence2"})
JSON_CAT = '[{"label": "cat", "%s": %s}]'


def box(result):
    [detection] = result.detections
    return detection.bbox


@pytest.mark.parametrize("family", CHATTING)
def test_chat_models_are_asked_for_json(family):
    """Each mode adds its layout behind the prompt, which is sent as it is, braces included."""
    for mode in ("json", "detect", "classify", "describe"):
        asked = DIALECTS[family].format_prompt("Is {this} a {0}?", mode)
        assert asked.startswith("Is {this} a {0}?\n\n")
        assert "JSON" in asked.removeprefix("Is {this} a {0}?")
        assert "{{" not in asked


@pytest.mark.parametrize(
    ("family", "key", "unit"),
    [
        ("qwen2_vl", "bbox_2d", "0 to 1000"),
        ("qwen3_vl", "bbox_2d", "0 to 1000"),
        ("qwen2_5_vl", "bbox_2d", "in pixels"),
        ("llava", "bbox", "from 0 to 1"),
        ("llava_next", "bbox", "from 0 to 1"),
        ("idefics3", "bbox", "0 to 1000"),
        ("smolvlm", "bbox", "0 to 1000"),
    ],
)
def test_boxes_are_asked_for_as_they_were_trained(family, key, unit):
    """The prompt of the mode detect names the family's key and unit."""
    asked = DIALECTS[family].format_prompt("Find cats.", "detect")
    assert f'"{key}": [x1, y1, x2, y2]' in asked
    assert unit in asked


@pytest.mark.parametrize(
    ("family", "view", "corners", "expected"),
    [
        ("qwen3_vl", WHOLE, [250, 500, 750, 1000], (100, 100, 300, 200)),
        ("qwen3_vl", WHOLE, [0.25, 0.5, 0.75, 1], (100, 100, 300, 200)),
        ("idefics3", WHOLE, [-10, 0, 1010, 500], (0, 0, 400, 100)),
        ("qwen2_5_vl", WHOLE, [70, 70, 210, 140], (100, 100, 300, 200)),
        ("llava", MIDDLE, [0.25, 0.5, 0.75, 1.0], (150, 100, 250, 200)),
        ("llava_next", WHOLE, [0.25, 0.5, 0.75, 1.0], (100, 100, 300, 200)),
    ],
)
def test_boxes_become_pixels(family, view, corners, expected):
    """A box is mapped from the family's unit to the original image's pixels, and clipped to it."""
    text = JSON_CAT % ("bbox", corners)
    assert box(DIALECTS[family].parse(text, "detect", view)) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("family", "corners"),
    [
        ("qwen3_vl", [10, 10, 1500, 900]),
        ("qwen3_vl", [300, 10, 200, 20]),
        ("qwen3_vl", [10, 20, 30, 20]),
        ("qwen3_vl", [-400, 10, 200, 20]),
        ("llava", [10, 20, 300, 400]),
        ("qwen2_5_vl", [0, 0, 900, 900]),
    ],
)
def test_boxes_that_cannot_be_are_no_detections(family, corners):
    """An empty or inverted box, or one in another unit, stays an attribute of its entity."""
    result = DIALECTS[family].parse(JSON_CAT % ("bbox", corners), "detect", WHOLE)
    assert result.detections == []
    assert result.entities == [Entity("cat", 1.0, {"bbox": corners})]


def test_detect():
    """Entities with a box are detections as well; the others are entities alone."""
    text = (
        '```json\n[{"label": "cat", "bbox_2d": [0, 0, 500, 500], "confidence": 0.5, "wet": true},'
        ' {"label": "dog"}]\n```'
    )
    assert DIALECTS["qwen3_vl"].parse(text, "detect", WHOLE) == VlmResult(
        text,
        [Entity("cat", 0.5, {"wet": True}), Entity("dog")],
        [Detection("cat", 0.5, (0.0, 0.0, 200.0, 100.0))],
    )


def test_classify():
    """Classes come best first, as entities and as classifications."""
    text = '{"dog": 0.25, "cat": 0.75}'
    assert DIALECTS["llava"].parse(text, "classify", WHOLE) == VlmResult(
        text,
        [Entity("cat", 0.75), Entity("dog", 0.25)],
        classifications=[Classification("cat", 0.75), Classification("dog", 0.25)],
    )


@pytest.mark.parametrize("mode", ["json", "describe"])
def test_json_and_describe(mode):
    """The parsed answer is the output, and what it names the entities."""
    text = '{"description": "a cat", "objects": [{"label": "cat", "attributes": {"fur": "red"}}]}'
    result = DIALECTS["idefics3"].parse(text, mode, WHOLE)
    assert result.output["description"] == "a cat"
    assert result == VlmResult(text, [Entity("cat", 1.0, {"fur": "red"})], output=result.output)


@pytest.mark.parametrize("family", sorted(DIALECTS))
@pytest.mark.parametrize("mode", ["json", "detect", "classify", "describe"])
@pytest.mark.parametrize("text", ["", "A cat on a mat.", '[{"label": "cat", "bbox": [1, 2'])
def test_prose_is_text_alone(family, mode, text):
    """An answer that cannot be parsed comes back as text, without empty fields that say less."""
    assert DIALECTS[family].parse(text, mode, WHOLE) == VlmResult(text)


@pytest.mark.parametrize("family", sorted(DIALECTS))
@FAST
@given(
    text=st.text() | st.text('[]{}"labebox:, 0123<>_-\n.'),
    mode=st.sampled_from(["json", "detect", "classify", "describe"]),
)
def test_any_answer(family, text, mode):
    """No answer makes a dialect raise, and boxes lie within the image."""
    result = DIALECTS[family].parse(text, mode, MIDDLE)
    assert result.text == text
    for each in result.detections or []:
        x1, y1, x2, y2 = each.bbox
        assert 0 <= x1 < x2 <= 400
        assert 0 <= y1 < y2 <= 200


@pytest.mark.parametrize("family", ["paligemma", "florence2"])
@pytest.mark.parametrize("mode", ["json", "classify", "describe"])
def test_location_models_know_detect_alone(family, mode):
    """A mode that a model was not trained for is a 422 rather than nonsense."""
    with pytest.raises(InvalidParams, match=r"^params\.output_mode: .*'detect'"):
        DIALECTS[family].format_prompt("cat", mode)


def test_location_models_are_asked_in_their_own_words():
    """The prompt names the objects; whoever writes the model's own task word is left alone."""
    assert DIALECTS["paligemma"].format_prompt("cat ; dog", "detect") == "detect cat ; dog"
    assert DIALECTS["paligemma"].format_prompt("detect cat", "detect") == "detect cat"
    assert (
        DIALECTS["florence2"].format_prompt("a cat", "detect") == "<OPEN_VOCABULARY_DETECTION>a cat"
    )
    assert DIALECTS["florence2"].format_prompt("<OD>", "detect") == "<OD>"


def test_paligemma_boxes():
    """PaliGemma writes y before x on a grid of 1024, the label behind; a half box is left out."""
    text = (
        "<loc0256><loc0512><loc0512><loc0768> cat ; <loc0000><loc0000><loc1023><loc0512> big dog"
        "<loc0001><loc0002>"
    )
    result = DIALECTS["paligemma"].parse(text, "detect", WHOLE)
    assert [each.label for each in result.detections] == ["cat", "big dog"]
    assert result.detections[0].bbox == (200.0, 50.0, 300.0, 100.0)
    assert result.entities == [Entity("cat"), Entity("big dog")]


def test_florence2_boxes_equal_transformers(checkpoint):
    """Florence-2's boxes are those of transformers' own reader, several to a label too."""
    from transformers import AutoProcessor

    text = (
        "cat<loc_100><loc_200><loc_500><loc_600>big dog<loc_0><loc_0><loc_999><loc_999>"
        "<loc_10><loc_20><loc_30><loc_40>"
    )
    processor = AutoProcessor.from_pretrained(checkpoint("florence2"), local_files_only=True)
    tokens = processor.tokenizer(text, add_special_tokens=False, return_tensors="pt").input_ids[0]
    expected = processor.post_process_generation(
        sequence=tokens, task="<OD>", image_size=WHOLE.image
    )["<OD>"]
    result = DIALECTS["florence2"].parse(text, "detect", WHOLE)
    assert [each.label for each in result.detections] == expected["labels"]
    assert [list(map(int, each.bbox)) for each in result.detections] == expected["bboxes"]
