"""Parameters of the query that a route does not know, or has twice.

Lists refuse unknown ones, single things do not.
"""

from __future__ import annotations

import pytest

from api_answers import problem

LISTS = ("models", "sessions", "plugins", "pages", "settings", "session")


@pytest.mark.parametrize("name", LISTS)
async def test_a_list_refuses_them(http, name):
    """It would be answered with all that the parameter was to leave out."""
    path = f"/v1/{name}"
    async with http.get(path) as response:
        assert response.status == 200
    async with http.get(path, params={"taks": "detect"}) as response:
        assert (await problem(response, 422)).startswith("taks: unknown parameter")


@pytest.mark.parametrize("query", ["include=params&include=params", "include=params&include=x"])
async def test_a_parameter_is_given_once(http, query):
    """Of two, one would be ignored: which of them, a proxy before the server may see otherwise."""
    async with http.get(f"/v1/models/fake-detect?{query}") as response:
        assert await problem(response, 422) == "include: given twice"


@pytest.mark.parametrize("path", ["/health", "/v1/health", "/ready", "/metrics", "/openapi.json"])
async def test_an_open_route_ignores_them(http, path):
    """Monitors and browsers add what keeps caches away."""
    async with http.get(path, params={"_": "17"}) as response:
        assert response.status == 200
