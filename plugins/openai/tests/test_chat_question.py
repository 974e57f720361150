"""Chat completions as they are read: one question about one image."""

from __future__ import annotations

import base64
import json

import pytest

from mataserver import BadRequest
from mataserver_openai import completion_request

URI = "data:image/png;base64," + base64.b64encode(b"pixels").decode()
IMAGE = {"type": "image_url", "image_url": {"url": URI, "detail": "high"}}
MESSAGES = [{"role": "user", "content": [{"type": "text", "text": "what?"}, IMAGE]}]


def read(**fields):
    """Read a body of those fields."""
    return completion_request.read(
        json.dumps({"model": "m", "messages": MESSAGES, **fields}).encode()
    )


def test_a_question():
    """The image is decoded; what is left out is left to the server."""
    assert read() == completion_request.CompletionRequest("m", b"pixels", {"prompt": "what?"})


def test_null_is_left_out():
    """A field that is null is as if it were not there."""
    names = {*completion_request.ChatRequest.__struct_fields__, *completion_request.NEUTRAL} - {
        "model",
        "messages",
    }
    assert read(**dict.fromkeys(names)) == read()


def test_every_option():
    """Options under their own names, those of the model among them."""
    asked = read(
        max_completion_tokens=7,
        temperature=1,
        top_p=0.5,
        seed=3,
        stop="x",
        stream=True,
        stream_options={"include_usage": True},
        top_k=4,
        user="u",
    )
    params = {"prompt": "what?", "max_tokens": 7, "temperature": 1.0, "top_p": 0.5, "top_k": 4}
    expected = completion_request.CompletionRequest(
        "m", b"pixels", params, 3, ("x",), stream=True, usage=True
    )
    assert asked == expected


@pytest.mark.parametrize("name", sorted(completion_request.NEUTRAL))
def test_what_is_not_served_is_refused_by_name(name):
    """Each field that no model serves is accepted where it asks for nothing, else refused."""
    for neutral in completion_request.NEUTRAL[name]:
        assert read(**{name: neutral}) == read()
    for value in ({"a": 1}, ["b"], True, 7):
        with pytest.raises(BadRequest, match=rf"^{name}: not supported"):
            read(**{name: value})


@pytest.mark.parametrize("name", sorted(completion_request.IGNORED_FIELDS))
def test_what_changes_no_answer_is_passed_over(name):
    """Fields for OpenAI's own bookkeeping have no effect."""
    assert read(**{name: "x"}) == read()


def test_what_a_message_does_not_have_is_passed_over():
    """A name, and fields of other providers in a message or a part, change no answer."""
    [message] = MESSAGES
    text, image = message["content"]
    marked = {**text, "cache_control": {"type": "ephemeral"}}
    assert read(messages=[{**message, "name": "Ada", "content": [marked, image]}]) == read()


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"1", b'{"model": "\xff"}', b"[" * 9_999])
def test_what_is_no_object(body):
    """A body that is no JSON object is refused."""
    with pytest.raises(BadRequest, match="body"):
        completion_request.read(body)


def test_a_model_without_a_name():
    """The missing field is named."""
    with pytest.raises(BadRequest, match=r"^model: field is required"):
        completion_request.read(json.dumps({"messages": MESSAGES}).encode())
