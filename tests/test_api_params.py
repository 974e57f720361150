"""The table of inference parameters over REST: every row, and every old name."""

from __future__ import annotations

import msgspec
import pytest

from api_answers import asking, infer, refused
from conftest import picture
from mataserver.params.table import OLD_NAMES, UPLOAD_FIELDS, ApiParams

PNG = picture()
POINT, OTHER_POINT = [10, 20.5, 1], [0, 0, 0]
BOX = [1, 2.5, 30, 40]
BELOW, ABOVE = -0.001, 1.001

ACCEPTED = {
    "confidence": [0, 0.0, 0.4, 1, 1.0],
    "prompts": ["cat . dog", ["cat", "dog"], []],
    "prompt": ["What is this?", ""],
    "system_prompt": ["Be brief.", ""],
    "max_tokens": [1, 256, 4096],
    "temperature": [0, 0.3, 2.0, 101, 1e300],
    "top_p": [0, 0.9, 1],
    "top_k": [1, 5.0, 5, 100],
    "output_mode": ["json", "detect", "classify", "describe"],
    "use_softmax": [True, False],
    "language": ["en", "jpn", "eng+deu"],
    "ocr_type": ["ocr", "format"],
    "detail": [0, 1, 1.0],
    "normalize": [True, False],
    "target_size": [[480, 640], [1, 1]],
    "point_prompts": [[POINT], [POINT, OTHER_POINT], [[10.0, 20.5, 1.0]]],
    "box_prompts": [[BOX], [BOX, [0, 0, 1, 1]]],
    "detection_confidence": [0, 0.3, 1],
    "segmentation_confidence": [0, 0.5, 1],
}
NO_FRACTION = [BELOW, ABOVE, "0.5", True, [0.5], {}]
NO_TEXT = [1, True, {}]
NO_COUNT = [0, -1, 1.5, "5", True]
NO_BOOL = [1, 0, "true", 0.0]
REFUSED = {
    "confidence": NO_FRACTION,
    "prompts": [*NO_TEXT, [1], [None], "x" * 20_000],
    "prompt": [*NO_TEXT, ["x"], "x" * 20_000],
    "system_prompt": [*NO_TEXT, ["x"]],
    "max_tokens": [*NO_COUNT, 4097, 10**30],
    "temperature": [-0.1, "0", True],
    "top_p": NO_FRACTION,
    "top_k": [*NO_COUNT, 10**30],
    "output_mode": ["", "JSON", "text", *NO_TEXT],
    "use_softmax": NO_BOOL,
    "language": ["", *NO_TEXT, "x" * 100],
    "ocr_type": ["", "plain", *NO_TEXT],
    "detail": [2, -1, "1", True, 1.5],
    "normalize": NO_BOOL,
    "target_size": [[480], [1, 2, 3], [0, 1], [-1, 1], [1.5, 1], ["1", 1], 480, [9999, 1]],
    "point_prompts": [
        [],
        [[1, 2]],
        [[1, 2, 3]],
        [[1, 2, 0.5]],
        [[1, 2, True]],
        [["1", 2, 1]],
        POINT,
    ],
    "box_prompts": [[], [[1, 2, 3]], [[3, 0, 1, 1]], [[0, 1, 1, 1]], [[0, 0, True, 1]], BOX],
    "detection_confidence": NO_FRACTION,
    "segmentation_confidence": NO_FRACTION,
}


def test_the_table_is_whole():
    """Every parameter of the API has its row here, and only those."""
    names = set(ApiParams.__struct_fields__)
    assert set(ACCEPTED) == set(REFUSED) == names
    assert len(names) == 19


@pytest.mark.parametrize("name", ACCEPTED)
async def test_accepted_also_where_the_task_does_not_use_it(http, name):
    """Each value of the documented type and range is 200, on a model that uses it or not."""
    for value in ACCEPTED[name]:
        body = await infer(http, "fake-detect", PNG, **{name: value})
        assert "detections" in body


@pytest.mark.parametrize("name", REFUSED)
async def test_refused_also_where_the_task_does_not_use_it(http, name):
    """Each value of another type or out of range is 422, and the detail names the parameter."""
    for value in REFUSED[name]:
        asked = asking("fake-detect", PNG, **{name: value})
        detail = await refused(http, 422, "/v1/infer", json=asked)
        assert detail.startswith(f"params.{name}"), (value, detail)


@pytest.mark.parametrize("name", ACCEPTED)
async def test_null_is_not_given(http, name):
    """An explicit null for a parameter is as if it were not there, for inferences and sessions."""
    assert "detections" in await infer(http, "fake-detect", PNG, **{name: None})
    session = {"model": "fake-detect", "params": {name: None}, "stream": None, "source": None}
    async with http.post("/v1/sessions", json=session) as response:
        made = await response.json()
        assert response.status == 201, made
    async with http.delete(f"/v1/sessions/{made['session_id']}") as response:
        assert response.status == 204


@pytest.mark.parametrize(("old", "new"), OLD_NAMES.items())
async def test_old_names_are_refused_with_the_new_name(http, old, new):
    """The names that the API once took are 422 on every endpoint, with what to use instead."""
    said = f"{old}: unknown parameter; use '{new}'"
    asked = asking("fake-detect", PNG, **{old: "0.5"})
    assert await refused(http, 422, "/v1/infer", json=asked) == f"params.{said}"
    session = {"model": "fake-detect", "params": {old: 0.5}}
    assert await refused(http, 422, "/v1/sessions", json=session) == f"params.{said}"
    headers = {"Content-Type": "image/png"}
    query = {"model": "fake-detect", old: "0.5"}
    sent = {"params": query, "data": PNG, "headers": headers}
    assert await refused(http, 422, "/v1/infer", **sent) == said


def test_the_old_names_are_those_of_the_migration_note():
    """Six names were replaced; each new one is a parameter."""
    assert set(OLD_NAMES) == {
        "threshold",
        "text_prompts",
        "max_new_tokens",
        "lang",
        "detection_threshold",
        "segmentation_threshold",
    }
    assert set(OLD_NAMES.values()) <= set(ApiParams.__struct_fields__)


@pytest.mark.parametrize("name", ["foo", "", "box_labels", "Confidence", "confidence ", "é" * 200])
async def test_unknown_names_are_refused(http, name):
    """Params is strict: a name that is neither the API's nor the model's is 422."""
    asked = asking("fake-detect", PNG, **{name: 1})
    assert "unknown parameter" in await refused(http, 422, "/v1/infer", json=asked)


async def test_a_models_own_parameter_is_checked(http):
    """A parameter of the backend's own is taken, and checked like the others."""
    await infer(http, "fake-detect", PNG, seconds=0)
    asked = asking("fake-detect", PNG, seconds=-1)
    assert "params.seconds" in await refused(http, 422, "/v1/infer", json=asked)


async def test_what_a_client_sent_is_not_sent_back_in_full(http):
    """A value of a megabyte makes no error of a megabyte."""
    for value in ("A" * 1_000_000, "x - at `$" + "A" * 1_000_000):
        asked = asking("fake-detect", PNG, output_mode=value)
        detail = await refused(http, 422, "/v1/infer", json=asked)
        assert detail.startswith("params.output_mode: invalid enum value")


@pytest.mark.parametrize("number", ["1e999", "-1e999", "1" + "0" * 5000])
async def test_numbers_beyond_all_bounds(http, number):
    """A JSON number too large for any type is 422."""
    asked = msgspec.json.encode(asking("fake-detect", PNG)).replace(
        b'"params":{}', b'"params":{"confidence":%s}' % number.encode()
    )
    headers = {"Content-Type": "application/json"}
    await refused(http, 422, "/v1/infer", data=asked, headers=headers)


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "nan", "1.", "0x1", "01"])
async def test_what_is_no_json_number_is_400(http, number):
    """NaN and Infinity are no JSON."""
    asked = b'{"model":"fake-detect","image":"AAAA","params":{"confidence":%s}}' % number.encode()
    headers = {"Content-Type": "application/json"}
    assert "not valid JSON" in await refused(http, 400, "/v1/infer", data=asked, headers=headers)


async def test_the_servers_ceiling_of_max_tokens(http):
    """max_tokens above the setting is 422 and says what is allowed."""
    asked = asking("fake-vlm", PNG, max_tokens=5000)
    detail = await refused(http, 422, "/v1/infer", json=asked)
    assert detail == "params.max_tokens: this server allows at most 4096"


def test_forms_carry_ten_parameters():
    """The upload's table of parameters."""
    assert len(UPLOAD_FIELDS) == 10
    assert set(ACCEPTED) > UPLOAD_FIELDS
