"""What OpenAI's client asks for and the server has not is told in a sentence that it shows."""

from __future__ import annotations

import openai
import pytest

from mataserver import testing


@pytest.fixture
async def server(tmp_path):
    """A server with the plugin."""
    points = testing.installed("openai")
    async with testing.serving(tmp_path, entry_points=points, engine="thread") as served:
        yield served


ASKED = {
    "responses": (lambda made: made.responses.create(model="m", input="hi"), "chat/completions"),
    "completions": (lambda made: made.completions.create(model="m", prompt="hi"), "chat.compl"),
    "embeddings": (lambda made: made.embeddings.create(model="m", input="hi"), "task embed"),
    "files": (lambda made: made.files.list(), "files is not offered"),
    "batches": (lambda made: made.batches.list(), "batches is not offered"),
    "tuning": (lambda made: made.fine_tuning.jobs.list(), "fine_tuning is not offered"),
    "stores": (lambda made: made.vector_stores.list(), "vector_stores is not offered"),
    "conversations": (lambda made: made.conversations.create(), "conversations is not offered"),
    "images": (lambda made: made.images.generate(prompt="hi"), "images is not offered"),
    "moderations": (lambda made: made.moderations.create(input="hi"), "is not offered"),
    "audio": (
        lambda made: made.audio.speech.create(input="hi", model="m", voice="alloy"),
        "audio is not offered",
    ),
}


@pytest.mark.parametrize("base", ["/v1", "/openai/v1"])
@pytest.mark.parametrize(("ask", "told"), ASKED.values(), ids=ASKED)
async def test_what_is_not_offered(server, ask, told, base):
    """The exception of the client's own class has the sentence, below both base URLs."""
    async with openai.AsyncOpenAI(
        base_url=server.url + base, api_key=server.key, max_retries=0
    ) as made:
        with pytest.raises(openai.NotFoundError, match=told) as refused:
            await ask(made)
    assert f" {base}/" in refused.value.message
    assert refused.value.body["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    ("base", "end"), [("", "/v1"), ("/openai", "/openai/v1"), ("/openai/v1/v1", "/openai/v1")]
)
async def test_a_base_url_without_a_version(server, base, end):
    """The most common mistake names what is missing, or is there twice."""
    async with openai.AsyncOpenAI(
        base_url=server.url + base, api_key=server.key, max_retries=0
    ) as made:
        told = f"must begin with {end} exactly once; a client's base URL must end in it"
        with pytest.raises(openai.NotFoundError, match=told):
            await made.chat.completions.create(model="m", messages=[])
        with pytest.raises(openai.NotFoundError, match=told):
            await made.models.list()


@pytest.mark.parametrize("base", ["", "/openai"])
@pytest.mark.parametrize("what", ["responses", "completions", "embeddings"])
async def test_what_is_not_offered_without_a_version(server, base, what):
    """It is told what to use instead, and that the base URL lacks its end."""
    ask, told = ASKED[what]
    async with openai.AsyncOpenAI(
        base_url=server.url + base, api_key=server.key, max_retries=0
    ) as made:
        with pytest.raises(openai.NotFoundError, match=told) as refused:
            await ask(made)
    assert f"base_url must end in {base}/v1" in refused.value.message
