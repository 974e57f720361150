"""A vision-language model over REST, in one child process: whole, in pieces, and left alone."""

from __future__ import annotations

import base64
import io
import json
import shutil

import aiohttp
import openai
import pytest
from msgspec.structs import replace
from PIL import Image

from mataserver import testing
from mataserver.config import load
from mataserver.library.catalog import Catalog
from mataserver.library.registry import Registry
from mataserver.plugins import discover
from mataserver_hf.vlm_params import Turn, VlmParams

pytestmark = pytest.mark.long

POINTS = testing.installed("hf", "openai")
QUERY = {"model": "qwen3_vl", "prompt": "What is this?", "max_tokens": "12"}


@pytest.fixture
async def http(tmp_path, checkpoint):
    """A server with a tiny Qwen3-VL registered from its directory."""
    settings = load(environ={}, directory=tmp_path, data_dir=str(tmp_path))
    registry = Registry(tmp_path / "model_registry.json")
    Catalog(settings, registry, discover(settings, POINTS)).add_local(checkpoint("qwen3_vl"), "vlm")
    async with (
        testing.serving(tmp_path, entry_points=POINTS, engine="process") as served,
        aiohttp.ClientSession(served.url, headers=served.headers) as session,
    ):
        yield session


def png_of(image):
    """Return an image as PNG."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()


def in_base64(png):
    """Return a picture as our requests have it."""
    return base64.b64encode(png).decode()


def part_of(png):
    """Return a picture as a part of a message of OpenAI's."""
    return {
        "type": "image_url",
        "image_url": {"url": f"data:image/png;base64,{in_base64(png)}"},
    }


async def test_text_is_served(http, model, picture):
    """The answer is the model's, streamed or not, over our API and OpenAI's."""
    image = picture(90, 150)
    png = {"data": png_of(image), "headers": {"Content-Type": "image/png"}}
    [expected] = model("qwen3_vl").predict(
        [image], [VlmParams(prompt=QUERY["prompt"], max_tokens=12)]
    )

    async with http.post("/v1/infer", params=QUERY, **png) as response:
        assert (await response.json())["text"] == expected.text

    events = {**png, "headers": {**png["headers"], "Accept": "text/event-stream"}}
    async with http.post("/v1/infer", params=QUERY, **events) as response:
        lines = (await response.text()).splitlines()
    *pieces, result = [json.loads(line[6:]) for line in lines if line.startswith("data: ")]
    assert len(pieces) > 1
    assert "".join(piece["text"] for piece in pieces) == result["text"] == expected.text

    async with http.post("/v1/infer", params={"model": "qwen3_vl"}, **png) as response:
        assert response.status == 422
        assert (await response.json())["detail"].startswith("params.prompt: ")
    # A session has one question for all its frames: without one none could be answered.
    for params, status in (({}, 422), ({"prompt": " "}, 422), ({"prompt": "What?"}, 201)):
        body = {"model": "qwen3_vl", "params": params}
        async with http.post("/v1/sessions", json=body) as response:
            assert response.status == status, await response.text()

    asked = [part_of(png_of(image)), {"type": "text", "text": QUERY["prompt"]}]
    chat = {"model": "qwen3_vl", "max_tokens": 12, "messages": [{"role": "user", "content": asked}]}
    async with openai.AsyncOpenAI(base_url=f"{http._base_url}/v1", api_key="test-key") as client:
        answer = await client.chat.completions.create(**chat)
        stopped = await client.chat.completions.create(stop=[expected.text[0]], **chat)
        chunks = [
            chunk async for chunk in await client.chat.completions.create(stream=True, **chat)
        ]
    assert answer.choices[0].message.content == expected.text
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == expected.text
    assert answer.usage.completion_tokens == expected.usage.completion_tokens == 12
    assert answer.usage.prompt_tokens == expected.usage.prompt_tokens
    assert answer.choices[0].finish_reason == chunks[-1].choices[0].finish_reason == "length"
    assert (stopped.choices[0].message.content, stopped.choices[0].finish_reason) == ("", "stop")
    assert stopped.usage.prompt_tokens == expected.usage.prompt_tokens
    assert 0 < stopped.usage.completion_tokens <= 12


async def test_a_conversation_is_served(http, model, picture):
    """OpenAI's client sends all that was said, and the answer is that of the model."""
    image = picture(90, 150)
    chat = {"model": "qwen3_vl", "max_tokens": 8}
    spoken = [
        {"role": "system", "content": "Be brief."},
        {
            "role": "user",
            "content": [part_of(png_of(image)), {"type": "text", "text": "What is this?"}],
        },
    ]
    async with openai.AsyncOpenAI(base_url=f"{http._base_url}/v1", api_key="test-key") as client:
        create = client.chat.completions.create
        first = (await create(messages=spoken, **chat)).choices[0].message
        spoken += [first.model_dump(), {"role": "user", "content": "Sure?"}]
        whole = await create(messages=spoken, **chat)
        options = {"stream": True, "stream_options": {"include_usage": True}}
        chunks = [chunk async for chunk in await create(messages=spoken, **options, **chat)]
        late = await create(
            messages=[
                {"role": "user", "content": "Hello"},
                {"role": "assistant", "content": "Hi"},
                *spoken[1:2],
            ],
            **chat,
        )
        none_yet = [{"role": "assistant", "content": content} for content in ("", None)]
        silent = [
            await create(messages=[*spoken[:2], each, spoken[-1]], **chat) for each in none_yet
        ]
    asked = VlmParams(
        prompt="Sure?",
        system_prompt="Be brief.",
        history=(Turn("What is this?", first.content),),
        max_tokens=8,
    )
    greeted = VlmParams(
        prompt="What is this?", history=(Turn("Hello", "Hi"),), image_turn=1, max_tokens=8
    )
    expected, second = model("qwen3_vl").predict([image] * 2, [asked, greeted])
    assert whole.choices[0].message.content == expected.text
    pieces = [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]
    assert "".join(pieces) == expected.text
    for usage in (whole.usage, chunks[-1].usage):
        assert usage.prompt_tokens == expected.usage.prompt_tokens
        assert usage.completion_tokens == expected.usage.completion_tokens
    assert late.choices[0].message.content == second.text
    assert late.usage.prompt_tokens == second.usage.prompt_tokens
    unanswered = replace(asked, history=(Turn("What is this?", ""),))
    [third] = model("qwen3_vl").predict([image], [unanswered])
    for answer in silent:
        assert answer.choices[0].message.content == third.text
        assert answer.usage.prompt_tokens == third.usage.prompt_tokens
    await in_our_own_form(http, image, first.content, expected.text)


async def in_our_own_form(http, image, answer, expected):
    """Assert that our own API gives the same answer, refuses half a turn, and tells of turns."""
    turns = [{"prompt": "What is this?", "answer": answer}]
    params = {"prompt": "Sure?", "system_prompt": "Be brief.", "history": turns, "max_tokens": 8}
    ours = {"model": "qwen3_vl", "image": in_base64(png_of(image)), "params": params}
    async with http.post("/v1/infer", json=ours) as response:
        assert (await response.json())["text"] == expected
    ours["params"] = {**params, "history": [{"prompt": "What is this?"}]}
    async with http.post("/v1/infer", json=ours) as response:
        assert response.status == 422
        assert (await response.json())["detail"].startswith("params.history[0].answer: ")
    async with http.get("/v1/models/qwen3_vl?include=params") as response:
        schema = (await response.json())["params"]
    assert schema["properties"]["history"]["items"] == {"$ref": "#/$defs/Turn"}
    assert set(schema["$defs"]["Turn"]["required"]) == {"prompt", "answer"}


async def test_images_in_several_turns_are_served(http, model, picture):
    """OpenAI's client sends images in any turn and among words; they are read where they stand."""
    images = [picture(*size, seed) for seed, size in enumerate(((60, 90), (80, 50), (70, 70)))]
    pngs = list(map(png_of, images))
    texts = list(map(in_base64, pngs))
    first, second, third = map(part_of, pngs)
    spoken = [
        {"role": "user", "content": [{"type": "text", "text": "What is this?"}, first]},
        {"role": "assistant", "content": "A cat."},
        {"role": "user", "content": [second, {"type": "text", "text": "And these?"}]},
        {"role": "user", "content": [third]},
    ]
    asked = VlmParams(
        prompt="And these?\n",
        history=(Turn("What is this?", "A cat.", image_places=(13,)),),
        images=tuple(pngs[1:]),
        image_places=(0, 11),
        max_tokens=8,
    )
    [expected] = model("qwen3_vl").predict(images[:1], [asked])
    chat = {"model": "qwen3_vl", "max_tokens": 8}
    async with openai.AsyncOpenAI(base_url=f"{http._base_url}/v1", api_key="test-key") as client:
        create = client.chat.completions.create
        whole = await create(messages=spoken, **chat)
        stopped = await create(messages=spoken, stop=[expected.text[2]], **chat)
        options = {"stream": True, "stream_options": {"include_usage": True}}
        chunks = [chunk async for chunk in await create(messages=spoken, **options, **chat)]
        spoken[2]["content"][0] = {"type": "image_url", "image_url": {"url": "data:;base64,eHh4"}}
        with pytest.raises(openai.BadRequestError) as refused:
            await create(messages=spoken, **chat)
    assert whole.choices[0].message.content == expected.text
    pieces = [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]
    assert "".join(pieces) == expected.text
    assert stopped.choices[0].message.content == expected.text.partition(expected.text[2])[0]
    for usage in (whole.usage, stopped.usage, chunks[-1].usage):
        assert usage.prompt_tokens == expected.usage.prompt_tokens
    assert refused.value.param == "messages[2].content[0].image_url.url"

    turns = [{"prompt": "What is this?", "answer": "A cat.", "image_places": [13]}]
    params = {"prompt": asked.prompt, "history": turns, "images": texts[1:], "max_tokens": 8}
    params |= {"image_places": [0, 11]}
    ours = {"model": "qwen3_vl", "image": texts[0], "params": params}
    async with http.post("/v1/infer", json=ours) as response:
        assert (await response.json())["text"] == expected.text
    del params["image_places"]
    for wrong, status, told in (
        (["!"], 422, "params.images[0]: "),
        ([texts[1], "eHh4"], 400, "params.images[1]: "),
        (texts[1:2] * 32, 422, "params.images: at most 32 images"),
    ):
        ours["params"] = {**params, "images": wrong}
        async with http.post("/v1/infer", json=ours) as response:
            assert response.status == status
            assert (await response.json())["detail"].startswith(told)


async def test_an_image_after_its_question(tmp_path, checkpoint, model, picture):
    """The usual order of OpenAI's clients, with a template that takes images first only."""
    path = shutil.copytree(checkpoint("llava"), tmp_path / "made" / "llava")
    template = "USER: <image>{{ messages[0].content[1].text + '' }} ASSISTANT:"
    (path / "chat_template.jinja").write_text(template)
    settings = load(environ={}, directory=tmp_path, data_dir=str(tmp_path))
    registry = Registry(tmp_path / "model_registry.json")
    Catalog(settings, registry, discover(settings, POINTS)).add_local(path, "vlm")
    shown = part_of(png_of(picture(40, 40)))
    read, asked = ({"type": "text", "text": text} for text in ("Read this.", "What is it?"))
    orders = [[shown, read, asked], [read, asked, shown], [read, shown, asked]]
    async with (
        testing.serving(tmp_path, entry_points=POINTS, engine="process") as served,
        openai.AsyncOpenAI(base_url=f"{served.url}/v1", api_key=served.key) as client,
    ):
        answers = [
            await client.chat.completions.create(
                model="llava", max_tokens=8, messages=[{"role": "user", "content": content}]
            )
            for content in orders
        ]
    # The tiny checkpoint's own template writes the same, and a line's end after the image.
    [expected] = model("llava").predict(
        [picture(40, 40)], [VlmParams(prompt="Read this.\nWhat is it?", max_tokens=8)]
    )
    for answer in answers:
        assert answer.choices[0].message.content == answers[0].choices[0].message.content
        assert answer.usage.prompt_tokens == expected.usage.prompt_tokens - len("\n")
