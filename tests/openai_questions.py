"""Questions about an image, and OpenAI's own client to ask them with."""

from __future__ import annotations

import base64

import openai
import pytest

from conftest import picture

URI = "data:image/png;base64," + base64.b64encode(picture()).decode()


def asking(text="one two three", *, image=URI, system=None):
    """Return the messages of a question about an image."""
    parts = [{"type": "text", "text": text}, {"type": "image_url", "image_url": {"url": image}}]
    messages = [{"role": "user", "content": parts}]
    return [{"role": "system", "content": system}, *messages] if system else messages


def client_of(server):
    """Return OpenAI's asynchronous client of a server, which asks once."""
    return openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key=server.key, max_retries=0)


async def refused(client, **given):
    """Ask for a completion that must be refused; return the exception."""
    with pytest.raises(openai.APIStatusError) as told:
        await client.chat.completions.create(**{"model": "echo", "messages": asking(), **given})
    return told.value
