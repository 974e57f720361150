"""Puts the helpers of these tests where they can import them; a server with the fake models."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest
from PIL import Image

HERE = str(Path(__file__).parent)
if HERE not in sys.path:  # behind all others, whose tests have a conftest too
    sys.path.append(HERE)


@pytest.fixture
def png():
    """An encoded grey picture of 64x48 with a red box at (10, 8, 30, 28)."""
    image = Image.new("RGB", (64, 48), (60, 60, 60))
    image.paste((255, 0, 0), (10, 8, 30, 28))
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
async def server(mata_server, fake_models):
    """A server with the fake models in threads: fast to load."""
    return await mata_server(engine="thread")
