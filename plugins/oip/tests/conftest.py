"""A server with the fake models that speaks the protocol over REST."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from conftest import POINTS, data_dir, documented_answers, http
from mataserver import testing

__all__ = ["data_dir", "documented_answers", "http", "server"]

HERE = str(Path(__file__).parent)
if HERE not in sys.path:  # behind all others, whose tests have a conftest too
    sys.path.append(HERE)


@pytest.fixture
async def server(data_dir):
    """A server with the fake models in threads."""
    async with testing.serving(data_dir, entry_points=POINTS, engine="thread") as served:
        yield served
