"""What depends on who asks is kept out of caches that many share."""

from __future__ import annotations

import aiohttp
import pytest


@pytest.mark.parametrize("path", ["/v1/models", "/v1/models/fake-detect", "/v1/models/none"])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_private_answers_are_not_stored(server, method, path):
    """A key in X-API-Key does not tell a cache that an answer, or a 404, is for its owner alone."""
    key = server.headers["Authorization"].removeprefix("Bearer ")
    async with (
        aiohttp.ClientSession(server.url, headers={"X-API-Key": key}) as http,
        http.request(method, path) as response,
    ):
        assert response.status == (404 if path.endswith("none") else 200)
        assert response.headers["Cache-Control"] == "no-store"


@pytest.mark.parametrize(
    ("method", "path", "told"),
    [
        ("GET", "/health", None),
        ("GET", "/openapi.json", None),
        ("GET", "/docs", "no-cache"),
        ("POST", "/v1/session/link", None),
    ],
)
async def test_other_answers_may_be_stored(http, method, path, told):
    """Open routes say what they like, and no cache stores what answers a POST."""
    async with http.request(method, path) as response:
        assert (response.status, response.headers.get("Cache-Control")) == (200, told)
