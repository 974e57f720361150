"""A path asked with a method that it has not: 405, and ``Allow`` names those that it has."""

from __future__ import annotations

import aiohttp
import pytest

from mataserver.testing import installed, serving

METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")


@pytest.fixture
async def http(tmp_path):
    """A client of a server with the protocols that name models in paths."""
    points = installed("openai", "oip", "cameras")
    async with (
        serving(tmp_path, entry_points=points) as server,
        aiohttp.ClientSession(server.url, headers=server.headers) as session,
    ):
        yield session


async def test_every_route_tells_its_methods(http):
    """Also where a name may hold slashes, which fits paths of other routes."""
    async with http.get("/openapi.json") as response:
        paths = (await response.json())["paths"]
    for path, operations in paths.items():
        known = {method.upper() for method in operations}
        asked = path.replace("{model_id}", "none").replace("{", "").replace("}", "")
        for method in set(METHODS) - known:
            async with http.request(method, asked) as response:
                allowed = set(response.headers.get("Allow", "").split(","))
                assert (response.status, known <= allowed) == (405, True), (method, path, allowed)
                assert method not in allowed


async def test_a_name_that_is_none_stays_404(http):
    """Nothing else is asked for by such a path."""
    for path in ("/v1/models/org/none", "/v2/models/org/none"):
        async with http.get(path) as response:
            assert response.status == 404
