"""A server of models that repeat what they were asked, and OpenAI's client of it.

Answers are what the server's OpenAPI document says.
"""

from __future__ import annotations

import pytest

import chat_models
from mataserver import testing
from openai_questions import client_of
from openapi_watch import documented_answers

__all__ = ["documented_answers"]


@pytest.fixture
async def server(tmp_path):
    """A server with the models that repeat what they were asked."""
    chat_models.register_all(tmp_path)
    points = (testing.FAKE, chat_models.POINT, *testing.installed("openai"))
    async with testing.serving(tmp_path, entry_points=points, engine="thread") as served:
        yield served


@pytest.fixture
async def client(server):
    """OpenAI's asynchronous client."""
    async with client_of(server) as made:
        yield made
