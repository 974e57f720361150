"""Chat completions and models as OpenAI's own client asks for them."""

from __future__ import annotations

import asyncio
import json

import aiohttp
import openai
import pytest

from api_answers import until
from conftest import picture
from mataserver_client import AsyncClient
from openai_questions import asking, refused

IMAGE_FIELD = "messages[0].content[1].image_url.url"
"""Where ``asking`` puts the image."""


# answers


async def test_a_whole_answer(client):
    """The text, why it ended, and the tokens that the model counted."""
    answer = await client.chat.completions.create(model="echo", messages=asking())
    (choice,) = answer.choices
    assert (choice.message.role, choice.message.content) == ("assistant", "one two three")
    assert (choice.finish_reason, choice.index) == ("stop", 0)
    assert (answer.object, answer.model) == ("chat.completion", "echo")
    used = answer.usage
    assert (used.prompt_tokens, used.completion_tokens, used.total_tokens) == (3, 3, 6)


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
async def test_an_answer_that_is_cut_off(client, name):
    """At its limit of tokens an answer ends with the reason length."""
    answer = await client.chat.completions.create(model="echo", messages=asking(), **{name: 2})
    assert answer.choices[0].message.content == "one two"
    assert answer.choices[0].finish_reason == "length"


async def test_what_reaches_the_model(client):
    """Image, prompt, system prompt and every option arrive; so do the model's own parameters."""
    answer = await client.chat.completions.create(
        model="echo",
        messages=asking("parameters", system="Be brief."),
        max_tokens=50,
        temperature=0.5,
        top_p=0.25,
        seed=-1,
        user="somebody",
        n=1,
        extra_body={"seconds": 0.001},
    )
    assert json.loads(answer.choices[0].message.content) == {
        "prompt": "parameters",
        "system_prompt": "Be brief.",
        "max_tokens": 50,
        "temperature": 0.5,
        "top_p": 0.25,
        "seed": 2**63 - 1,
        "history": [],
        "image_turn": 0,
        "image_places": [10],
        "seconds": 0.001,
        "fail_at": -1,
        "size": [48, 64],
    }


async def test_several_messages_are_one_question(client):
    """Texts of several messages and parts are joined, those of the system and of the user apart."""
    messages = [
        {"role": "system", "content": "a"},
        {"role": "user", "content": "parameters"},
        {"role": "developer", "content": [{"type": "text", "text": "b"}]},
        {"role": "user", "content": asking("")[0]["content"][1:]},
    ]
    answer = await client.chat.completions.create(model="echo", messages=messages)
    assert json.loads(answer.choices[0].message.content)["system_prompt"] == "a\nb"


async def test_a_conversation(client):
    """The client sends all that was said: a model that has a history is told it, others are not."""
    first = await client.chat.completions.create(model="echo", messages=asking("A cat"))
    spoken = [
        *asking("A cat"),
        first.choices[0].message.model_dump(),
        {"role": "user", "content": "parameters"},
    ]
    whole = await client.chat.completions.create(model="echo", messages=spoken)
    told = json.loads(whole.choices[0].message.content)
    assert told["history"] == [{"prompt": "A cat", "answer": "A cat", "image_places": [5]}]
    assert (told["prompt"], told["image_turn"]) == ("parameters", 0)
    chunks = await client.chat.completions.create(model="echo", messages=spoken, stream=True)
    text = "".join([chunk.choices[0].delta.content or "" async for chunk in chunks])
    assert text == whole.choices[0].message.content
    error = await refused(client, model="mute", messages=spoken)
    assert (error.status_code, error.param) == (400, "messages")
    assert "mute answers single questions" in error.message
    long = [*asking(), {"role": "assistant", "content": "x" * 20_000}, *spoken[2:]]
    error = await refused(client, messages=long)
    assert (error.status_code, error.param) == (400, "messages")


async def test_usage_that_nobody_counted_is_left_out(client):
    """A model that does not count tokens answers without usage, and takes no offence at a seed."""
    answer = await client.chat.completions.create(model="mute", messages=asking("hm"), seed=1)
    assert (answer.choices[0].message.content, answer.usage) == ("hm", None)
    assert answer.choices[0].finish_reason == "stop"


async def test_the_plain_client(server):
    """The synchronous client, whole and streamed."""

    def ask():
        with openai.OpenAI(base_url=f"{server.url}/v1", api_key=server.key) as plain:
            whole = plain.chat.completions.create(model="fake-vlm", messages=asking())
            pieces = plain.chat.completions.create(model="fake-vlm", messages=asking(), stream=True)
            return whole.choices[0].message.content, [each.choices[0] for each in pieces]

    text, choices = await asyncio.to_thread(ask)
    assert text == "64x48"
    assert [choice.delta.content for choice in choices] == ["", *"64x48", None]
    assert [choice.finish_reason for choice in choices] == [None] * 6 + ["stop"]


async def test_our_own_api_tells_the_tokens_too(server):
    """``usage`` is part of a ``vlm`` answer."""
    async with AsyncClient(server.url, server.key) as ours:
        answer = await ours.infer("echo", picture(), prompt="one two", max_tokens=1)
    used = answer.usage
    assert answer.text == "one"
    assert (used.prompt_tokens, used.completion_tokens, used.truncated) == (2, 1, True)


# streams


async def stream(client, **given):
    """Return the chunks of a streamed answer."""
    asked = {"model": "echo", "messages": asking(), **given}
    return [each async for each in await client.chat.completions.create(stream=True, **asked)]


async def test_chunks(client):
    """A role, pieces of text, a reason, all under one id; the tokens when they are asked for."""
    chunks = await stream(client, stream_options={"include_usage": True}, max_tokens=2)
    *begun, end, used = chunks
    assert begun[0].choices[0].delta.role == "assistant"
    assert [chunk.choices[0].delta.content for chunk in begun] == ["", "one ", "two"]
    assert end.choices[0].finish_reason == "length"
    assert (used.choices, used.usage.prompt_tokens, used.usage.completion_tokens) == ([], 3, 2)
    assert len({chunk.id for chunk in chunks}) == 1
    assert {chunk.object for chunk in chunks} == {"chat.completion.chunk"}
    assert all("usage" in chunk.model_fields_set for chunk in chunks)
    assert not any("usage" in chunk.model_fields_set for chunk in await stream(client))


async def test_a_stream_without_pieces(client):
    """A model that does not write piece by piece sends its text as one, and no tokens."""
    chunks = await stream(client, model="mute", stream_options={"include_usage": True})
    assert [chunk.choices[0].delta.content for chunk in chunks] == ["", "one two three", None]


async def test_the_events_as_they_are(server):
    """On the wire: lines of data, and [DONE] at the end."""
    asked = {"model": "echo", "messages": asking("hm"), "stream": True}
    async with (
        aiohttp.ClientSession(server.url, headers=server.headers) as http,
        http.post("/v1/chat/completions", json=asked) as response,
    ):
        assert response.content_type == "text/event-stream"
        *events, done, rest = (await response.text()).split("\n\n")
    assert (done, rest) == ("data: [DONE]", "")
    assert [json.loads(each.removeprefix("data: "))["id"][:9] for each in events] == [
        "chatcmpl-"
    ] * 3


@pytest.mark.parametrize("model", ["echo", "mute"])
@pytest.mark.parametrize(("stop", "text"), [("e tw", "on"), (["x", "th"], "one two "), ("one", "")])
async def test_stop_sequences(client, model, stop, text):
    """An answer ends before the first stop sequence, whole and streamed, across pieces."""
    answer = await client.chat.completions.create(model=model, messages=asking(), stop=stop)
    assert (answer.choices[0].message.content, answer.choices[0].finish_reason) == (text, "stop")
    chunks = await stream(client, model=model, stop=stop)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == text
    assert chunks[-1].choices[0].finish_reason == "stop"


async def test_a_failure_in_the_middle(client):
    """It ends the stream with an error event, which says when to try again, as a header would."""
    chunks = await client.chat.completions.create(
        model="echo", messages=asking(), stream=True, extra_body={"fail_at": 1}
    )
    assert (await anext(chunks)).choices[0].delta.role == "assistant"
    assert (await anext(chunks)).choices[0].delta.content == "one "
    with pytest.raises(openai.APIError, match="the model would not go on") as told:
        await anext(chunks)
    assert told.value.body["retry_after"] == 2


async def test_a_failure_before_the_first_piece(client):
    """What fails at once has its own status, also when a stream was asked for."""
    for given in ({"messages": asking("")}, {"extra_body": {"fail_at": 0}}):
        error = await refused(client, stream=True, **given)
        assert isinstance(error, openai.BadRequestError)


async def test_leaving_stops_the_model(server, client):
    """Closing a stream, and a stop sequence, free the model between two pieces."""
    asked = {"model": "echo", "messages": asking("a " * 200), "extra_body": {"seconds": 0.05}}
    chunks = await client.chat.completions.create(stream=True, **asked)
    await anext(aiter(chunks))
    await chunks.close()
    async with aiohttp.ClientSession(server.url, headers=server.headers) as http:

        async def idle():
            async with http.get("/v1/models/echo") as response:
                return (await response.json())["state"] != "active"

        await until(idle)
        await client.chat.completions.create(stop="a a", **asked)
        await until(idle)


# what is refused


@pytest.mark.parametrize(
    ("given", "param"),
    [
        ({"n": 2}, "n"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"logprobs": True}, "logprobs"),
        ({"frequency_penalty": 0.5}, "frequency_penalty"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 5_000}, "max_tokens"),
        ({"max_tokens": 5, "max_completion_tokens": 5}, "max_tokens"),
        ({"temperature": -1}, "temperature"),
        ({"temperature": 2.01}, "temperature"),
        ({"temperature": 1e308}, "temperature"),
        ({"top_p": 1.5}, "top_p"),
        ({"stop": ["a"] * 5}, "stop"),
        ({"stop": ""}, "stop"),
        ({"seed": "x"}, "seed"),
        ({"seed": 2**63}, "seed"),
        ({"seed": -(2**63) - 1}, "seed"),
        ({"seed": 2**70}, "seed"),
        ({"seed": 1.5}, "seed"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"extra_body": {"what": 1}}, "what"),
        ({"extra_body": {"prompt": "x"}}, "prompt"),
        ({"messages": []}, "messages"),
        ({"messages": asking("", system="Be short")}, "messages"),
        ({"messages": [{"role": "user", "content": "no image"}]}, "messages"),
        ({"messages": [*asking(), *asking()]}, "messages"),
        ({"messages": [*asking(), {"role": "assistant", "content": "hm"}]}, "messages[1].role"),
        ({"messages": [{**asking()[0], "role": "system"}]}, "messages[0].content"),
        (
            {"messages": asking(image="https://example.org/a.png")},
            IMAGE_FIELD,
        ),
        ({"messages": asking(image="/etc/passwd")}, IMAGE_FIELD),
        ({"messages": asking(image="data:image/png;base64,?")}, IMAGE_FIELD),
        ({"messages": asking(image="data:image/png;base64,")}, IMAGE_FIELD),
        ({"messages": asking(image="data:image/png;base64,aaaa")}, IMAGE_FIELD),
        (
            {"messages": asking(image="data:image/png;base64,aaaa"), "stop": "x"},
            IMAGE_FIELD,
        ),
        (
            {"messages": asking(image="data:image/png;base64,aaaa"), "stream": True},
            IMAGE_FIELD,
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "input_audio"}]}]},
            "messages[0].content[0].type",
        ),
        ({"model": "fake-detect"}, "model"),
    ],
)
async def test_requests_that_are_refused(client, given, param):
    """What a model cannot do and what is malformed is 400 and names the field."""
    error = await refused(client, **given)
    assert isinstance(error, openai.BadRequestError), error
    assert set(error.body) == {"message", "type", "param", "code"}
    assert (error.type, error.param) == ("invalid_request_error", param)
    assert len(error.body["message"]) > 10


async def test_what_asks_for_nothing_is_accepted(client):
    """Options that are not served may be sent with the values that ask for nothing."""
    answer = await client.chat.completions.create(
        model="echo",
        messages=asking(),
        tools=[],
        tool_choice="none",
        response_format={"type": "text"},
        logprobs=False,
        presence_penalty=0,
        frequency_penalty=0.0,
        logit_bias={},
        store=False,
        metadata={"a": "b"},
        stop=None,
    )
    assert answer.choices[0].message.content == "one two three"


async def test_unknown_models_and_wrong_keys(server, client):
    """An unknown model is 404, no key and a wrong one 401, as OpenAI's own server says it."""
    error = await refused(client, model="nobody")
    assert isinstance(error, openai.NotFoundError)
    assert (error.code, error.param) == ("model_not_found", "model")
    async with client.with_options(api_key="wrong") as other:
        error = await refused(other)
    assert isinstance(error, openai.AuthenticationError)
    assert error.code == "invalid_api_key"
    assert error.response.headers["WWW-Authenticate"] == "Bearer"
    async with (
        aiohttp.ClientSession(server.url) as http,
        http.post("/v1/chat/completions", json={}) as response,
    ):
        assert response.status == 401
        assert (await response.json())["error"]["code"] == "invalid_api_key"
