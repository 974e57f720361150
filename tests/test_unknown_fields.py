"""A field that a body's struct does not have: ignored, and named by the answer."""

from __future__ import annotations

import io
import json
import logging
from typing import ClassVar

import pytest
from msgspec import Struct

from api_answers import asking, problem
from conftest import picture
from known_heads import peer  # noqa: F401
from mataserver.errors import InvalidParams
from mataserver.http import json_body
from odd_requests import JSON, request

PNG = picture()
WARNING = "X-Warning"
MISSPELT = "parms: unknown field, ignored; did you mean params?"


class Body(Struct):
    model: str
    params: dict[str, int] | None = None


class Checked(Struct):
    refuses_misspelt: ClassVar[bool] = True
    prompts: list[str]
    confidence_threshold: float = 0.5


def warning_of(**fields):
    """Return the warning about a body with some fields beside its model."""
    data = json.dumps({"model": "m", **fields}).encode()
    return json_body.decode_with_warning(data, Body)[1]


async def warned(http, status, path="/v1/infer", headers=None, **body):
    """POST a body; return the answer's warning."""
    async with http.post(path, json=body, headers=headers) as response:
        assert response.status == status, await response.text()
        return response.headers.get(WARNING)


FIELDS = {
    "none": ({}, ""),
    "a misspelt one": ({"parms": {}}, MISSPELT),
    "one that is also there": ({"parms": 1, "params": {}}, "parms: unknown field, ignored"),
    "another": ({"user": {"id": 1}}, "user: unknown field, ignored"),
    "a parameter": (
        {"confidence": 0.4},
        "confidence: unknown field, ignored; write it into params",
    ),
    "an old name": ({"threshold": 0.4}, "threshold: unknown field, ignored; write it into params"),
    "a question": ({"parms": 1, "b": 2}, f"{MISSPELT} b: unknown field, ignored"),
    "null": ({"parms": None}, ""),
    "two": ({"a": 1, "b": 2}, "a: unknown field, ignored. b: unknown field, ignored"),
    "no header": ({"a\r\nb: ü": 1}, "a\\r\\nb: \\xfc: unknown field, ignored"),
    "a long one": ({"x" * 99: 1}, "x" * 64 + ": unknown field, ignored"),
}


@pytest.mark.parametrize(("fields", "said"), FIELDS.values(), ids=FIELDS)
def test_what_a_warning_says(fields, said):
    """It names the field, and what was probably meant, in the letters of a header."""
    assert warning_of(**fields) == said


def test_many_fields():
    """A warning stays short."""
    said = warning_of(**{f"x{number}": 1 for number in range(10_000)})
    assert said.endswith("x3: unknown field, ignored. 9996 more")
    assert len(said) < 200


def test_a_name_that_is_not_utf8():
    """It is skipped, as before."""
    assert json_body.decode_with_warning(b'{"model":"m","\xff":1}', Body) == (Body("m"), "")


def test_other_kinds():
    """What is no struct has no unknown fields."""
    assert json_body.decode_with_warning(b'{"a":1}', dict[str, int]) == ({"a": 1}, "")


def test_a_struct_that_refuses():
    """Only a field that resembles one that is left out is refused."""
    decode = json_body.decode
    assert decode(b'{"prompts":[],"model":"any"}', Checked) == Checked([])
    assert decode(b'{"prompts":[],"prompt":"a"}', Checked) == Checked([])
    assert decode(b'{"prompts":[],"confidence_treshold":null}', Checked) == Checked([])
    meant = r"^confidence_treshold: unknown field; did you mean confidence_threshold\?$"
    with pytest.raises(InvalidParams, match=meant):
        decode(b'{"prompts":[],"confidence_treshold":0.9}', Checked)
    with pytest.raises(InvalidParams, match=r"^prompts: field is required$"):
        decode(b'{"text":[]}', Checked)


SENT = "field is required; send "


def test_a_required_field_that_is_misspelt():
    """The error names the field that was sent for it, and is no longer than any other."""
    with pytest.raises(InvalidParams, match=f"^model: {SENT}'modle' as `model`$"):
        json_body.decode(b'{"modle":"m","params":null}', Body)
    with pytest.raises(InvalidParams, match=f"^model: {SENT}'modle' as `model`$"):
        json_body.decode(b'{"modle":"m","params":{"a":5.0}}', Body)
    for sent in ({"m" * 99: 1}, {"name": "m"}, {"params": {"modle": 1}}, {"modle": None}):
        with pytest.raises(InvalidParams, match=r"^model: field is required$"):
            json_body.decode(json.dumps(sent).encode(), Body)


async def test_an_inference_with_a_misspelt_field(http):
    """Of a body, a query, and a form: each says what was meant."""
    image = asking("fake-detect", PNG)["image"]
    for body, status, said in (
        ({"modle": "fake-detect", "image": image}, 422, f"model: {SENT}'modle' as `model`"),
        ({"model": "fake-detect", "imgae": image}, 400, f"image: {SENT}'imgae' as `image`"),
    ):
        async with http.post("/v1/infer", json=body) as response:
            assert await problem(response, status) == said
    said, kind = f"model: {SENT}'modle' as `model`", {"Content-Type": "image/png"}
    async with http.post("/v1/infer?modle=fake-detect", data=PNG, headers=kind) as response:
        assert await problem(response, 422) == said
    form = {"modle": "fake-detect", "file": io.BytesIO(PNG)}
    async with http.post("/v1/infer/upload", data=form) as response:
        assert await problem(response, 422) == said


async def test_an_inference(http, caplog):
    """Of a single request, of a repeated one, and as events; the answer is as without the field."""
    plain = asking("fake-detect", PNG)
    assert await warned(http, 200, **plain) is None
    said = "parms: unknown field, ignored"
    with caplog.at_level(logging.WARNING, "mataserver.http"):
        for _ in range(4):
            assert await warned(http, 200, **plain, parms={"confidence": 1.0}) == said
            assert await warned(http, 200, **plain) is None
    assert f"POST /v1/infer: {said}" in caplog.messages
    events = {"Accept": "text/event-stream"}
    vlm = asking("fake-vlm", PNG, prompt="?")
    assert (
        await warned(http, 200, headers=events, **vlm, user="me") == "user: unknown field, ignored"
    )
    assert await warned(http, 200, headers=events, **vlm) is None


async def test_a_known_head(peer):  # noqa: F811
    """A request whose head the server knows is warned as well, and the next one is answered."""
    plain, odd = (
        request("POST", "/v1/infer", *JSON, body=json.dumps(body).encode())
        for body in (asking("fake-detect", PNG), asking("fake-detect", PNG) | {"confidence": 1})
    )
    await peer.warm(plain)
    (status, headers, body), hits = await peer.hits(odd)
    assert (status, hits) == (200, 1)
    assert headers["x-warning"] == "confidence: unknown field, ignored; write it into params"
    assert json.loads(body)["detections"]
    (status, headers, _), hits = await peer.hits(plain)
    assert (status, hits, headers.get("x-warning")) == (200, 1, None)


async def test_an_error_has_no_warning(http):
    """An error says itself what is wrong."""
    asked = asking("fake-detect", PNG, confidence=2) | {"parms": {}}
    async with http.post("/v1/infer", json=asked) as response:
        assert WARNING not in response.headers
        assert (await problem(response, 422)).startswith("params.confidence")


@pytest.mark.parametrize(
    ("path", "status", "body"),
    [
        ("/v1/sessions", 201, {"model": "fake-detect"}),
        ("/v1/models/warmup", 200, {"model": "fake-detect"}),
        ("/v1/models/unload", 200, {"model": "fake-detect"}),
        ("/v1/models/pull", 202, {"model": "fake-detect", "task": "detect"}),
    ],
)
async def test_other_routes(http, path, status, body):
    """Every route whose body may have other fields names them."""
    assert await warned(http, status, path, **body) is None
    assert await warned(http, status, path, **body, colour=1) == "colour: unknown field, ignored"


async def test_a_query_beside_a_body(http):
    """A query is for images as the body; beside JSON or a form it is ignored, with a warning."""
    said = "confidence: ignored in the query; write it into the body"
    for _ in range(3):
        body = asking("fake-detect", PNG)
        assert await warned(http, 200, "/v1/infer?confidence=1", **body) == said
        both = f"a: unknown field, ignored. {said}"
        assert await warned(http, 200, "/v1/infer?confidence=1", **body, a=1) == both
        form = {"model": "fake-detect", "file": io.BytesIO(PNG)}
        async with http.post("/v1/infer/upload?confidence=1", data=form) as response:
            assert (response.status, response.headers[WARNING]) == (200, said)
            assert (await response.json())["detections"]
        image = {"data": PNG, "headers": {"Content-Type": "image/png"}}
        async with http.post("/v1/infer?model=fake-detect&confidence=1", **image) as response:
            assert (response.status, response.headers.get(WARNING)) == (200, None)
            assert (await response.json())["detections"] == []
