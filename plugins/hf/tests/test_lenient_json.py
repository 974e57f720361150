"""JSON as language models write it."""

from __future__ import annotations

import json

import msgspec
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from mataserver_hf import lenient_json

FAST = settings(
    max_examples=100,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],  # of a machine that is busy
)

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63) + 1, 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text("ab é\n\"'\\"), inner),
    max_leaves=12,
)
LIKELY = st.text("[]{}\"'`,:\\ \n0123456789.-+eEtrufalsNone\ud800", max_size=60)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('{"a": 1}', {"a": 1}),
        ('```json\n[{"label": "cat"}]\n```', [{"label": "cat"}]),
        ('Sure!\n```\n{"a": [1, 2.5, -3e2]}\n```\nAnything else?', {"a": [1, 2.5, -300.0]}),
        ('```json\n{"a": 1}', {"a": 1}),
        ('```python\nprint("no")\n```\n{"a": 1}', {"a": 1}),
        ('The answer is {"a": true, "b": null}.', {"a": True, "b": None}),
        ("[a list]: [1, 2]", [1, 2]),
        ('[1] {"longest": "counts"}', {"longest": "counts"}),
        ("{'a': True, 'b': None, 'c': 'it\\'s'}", {"a": True, "b": None, "c": "it's"}),
        ('[1, 2, ]{"no": "t"', None),
        ('{"a": [1, 2,], }', {"a": [1, 2]}),
        ("[]", []),
        ("{ }", {}),
        (r'["\u00e9\n\"\\ \/ \ud83d\ude00 \q"]', ['é\n"\\ / 😀 q']),
        ('["a raw\nline"]', ["a raw\nline"]),
        ('["\\ud83d alone"]', ["\ufffd alone"]),
        ("[1e999, NaN, -.5, 5.]", [None, None, -0.5, 5.0]),
        ("[9223372036854775807, 9223372036854775808]", [2**63 - 1, 2.0**63]),
        ("a cat", None),
        ("", None),
        ("12", None),
        ('"text"', None),
    ],
)
def test_reads(text, value):
    """Fences, prose, trailing commas, Python's quotes and constants are read; the rest is None."""
    assert lenient_json.find(text) == value


@pytest.mark.parametrize("wrap", ["{}", "```json\n{}", "Here: {}"])
def test_what_was_cut_off_is_no_answer(wrap):
    """An answer that ended early is not passed off as a shorter one, wherever it was cut."""
    whole = '[{"label": "cat", "bbox": [1, 2.5, 3, 4], "sure": true}, {"label": "dog"}]'
    assert lenient_json.find(wrap.replace("{}", whole)) == json.loads(whole)
    for end in range(1, len(whole)):
        assert lenient_json.find(wrap.replace("{}", whole[:end])) is None, whole[:end]


def test_depth_is_limited():
    """Deep nesting is not read, and is no way to overflow the stack."""
    allowed = lenient_json.MAX_DEPTH
    assert lenient_json.find("[" * allowed + "]" * allowed) is not None
    found = lenient_json.find("[" * 5_000 + "]" * 5_000)
    assert found is not None
    assert json.dumps(found).count("[") == allowed


@FAST
@given(VALUES)
def test_reads_all_of_json(value):
    """Whatever Python writes as JSON is read as the same value."""
    assert lenient_json.find(json.dumps([value])) == [value]
    assert lenient_json.find(f"As asked: {json.dumps([value], ensure_ascii=False)}.") == [value]


@FAST
@given(st.text() | LIKELY)
@example("[" + "9" * 5000 + "]")
@example('["\\u')
@example("['\\")
def test_any_text(text):
    """No text makes it raise, and what it finds can be sent in both formats."""
    found = lenient_json.find(text)
    assert found is None or isinstance(found, dict | list)
    msgspec.json.encode(found)
    msgspec.msgpack.encode(found)
