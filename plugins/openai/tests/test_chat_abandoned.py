"""Long answers in one piece: progress with each word, and an end when nobody waits any more."""

from __future__ import annotations

import asyncio

import aiohttp
import pytest

import chat_models
from api_answers import until
from mataserver import testing
from openai_questions import URI, asking, client_of

POINTS = (testing.FAKE, chat_models.POINT, *testing.installed("openai"))
LONG = {"max_tokens": 4_000, "extra_body": {"seconds": 0.05}}
"""Minutes of writing."""


@pytest.fixture(params=[{"infer_timeout": 600.0}])
async def server(request, tmp_path):
    """A server whose models may be silent for longer than a test may take, or as a test says."""
    chat_models.register_all(tmp_path)
    limits = request.param
    async with testing.serving(tmp_path, entry_points=POINTS, engine="thread", **limits) as served:
        yield served


@pytest.fixture
async def client(server):
    """OpenAI's asynchronous client."""
    async with client_of(server) as made:
        yield made


@pytest.mark.parametrize("server", [{"infer_timeout": 2.0, "decode_timeout": 1.0}], indirect=True)
async def test_an_answer_may_take_longer_than_a_model_may_be_silent(client):
    """Each word is progress, also where the answer is wanted whole."""
    words = "a " * 30
    answer = await client.chat.completions.create(
        model="echo", messages=asking(words), extra_body={"seconds": 0.1}
    )
    assert answer.choices[0].message.content == words


@pytest.mark.parametrize("protocol", ["openai", "mata"])
async def test_a_client_that_leaves_frees_the_model(server, client, protocol):
    """An answer that nobody waits for ends at its next word: the next question has its turn."""
    words = "a " * 4_000
    async with aiohttp.ClientSession(server.url, headers=server.headers) as http:

        async def is_active():
            async with http.get("/v1/models/echo") as response:
                return (await response.json())["state"] == "active"

        if protocol == "openai":
            work = client.chat.completions.create(model="echo", messages=asking(words), **LONG)
        else:
            params = {"prompt": words, "max_tokens": 4_000, "seconds": 0.05}
            work = http.post("/v1/infer", json={"model": "echo", "image": URI, "params": params})
        asked = asyncio.ensure_future(work)
        await until(is_active)
        asked.cancel()
        async with asyncio.timeout(30):  # far less than the rest of the first answer would take
            answer = await client.chat.completions.create(model="echo", messages=asking("hm"))
        assert answer.choices[0].message.content == "hm"
