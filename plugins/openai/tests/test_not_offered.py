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


async def test_a_base_url_without_a_version(server):
    """The most common mistake names what is missing."""
    async with openai.AsyncOpenAI(base_url=server.url, api_key=server.key, max_retries=0) as made:
        with pytest.raises(openai.NotFoundError, match="at the end of their base_url"):
            await made.chat.completions.create(model="m", messages=[])
        with pytest.raises(openai.NotFoundError, match="at the end of their base_url"):
            await made.models.list()
