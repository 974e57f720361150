"""A server with the fake models that speaks the protocol over REST."""

from __future__ import annotations

import pytest

from conftest import POINTS, data_dir, http
from mataserver import testing

__all__ = ["data_dir", "http", "server"]


@pytest.fixture
async def server(data_dir):
    """A server with the fake models in threads."""
    async with testing.serving(data_dir, entry_points=POINTS, engine="thread") as served:
        yield served
