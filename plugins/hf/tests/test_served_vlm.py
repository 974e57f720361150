"""A vision-language model over REST, in one child process: whole, in pieces, and left alone."""

from __future__ import annotations

import base64
import io
import json

import aiohttp
import openai
import pytest
from PIL import Image

from mataserver import testing
from mataserver.config import load
from mataserver.library.catalog import Catalog
from mataserver.library.registry import Registry
from mataserver.plugins import discover
from mataserver_hf.vlm import VlmParams

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


async def test_text_is_served(http, model, picture):
    """The answer is the model's, streamed or not, over our API and OpenAI's."""
    image = picture(90, 150)
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    png = {"data": buffer.getvalue(), "headers": {"Content-Type": "image/png"}}
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

    uri = "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
    picture_of_it = {"type": "image_url", "image_url": {"url": uri}}
    asked = [{"type": "text", "text": QUERY["prompt"]}, picture_of_it]
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
