"""What ``GET /health`` says where the plugin is installed."""

from __future__ import annotations

import pytest
from serving_reconstruct import asking


@pytest.mark.parametrize("configured", ["ok", "healthy"])
async def test_health_has_the_documents_word(tmp_path, configured):
    """Its clients wait for "ok", whatever ``health_status`` says for those of others."""
    async with asking(tmp_path, health_status=configured) as ask:
        status, told = await ask("GET", "/health")
    assert (status, told["status"]) == (200, "ok")
    assert isinstance(told["timestamp"], float)
