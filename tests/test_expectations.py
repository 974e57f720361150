"""``Expect: 100-continue``: whoever may not ask is refused, on every route."""

from __future__ import annotations

import asyncio
import re

import pytest

from api_answers import answer, connection
from conftest import POINTS
from mataserver import testing


def asking(method, path, *headers):
    """Return the head of a request that waits to be asked for its body."""
    lines = [f"{method} {path} HTTP/1.1", "Host: localhost", "Content-Length: 20", *headers]
    return "\r\n".join([*lines, "Expect: 100-continue", "", ""]).encode()


SHOWN = {
    "nothing": ([], {401}),
    "a wrong key": (["Authorization: Bearer wrong"], {403, 401}),
    "what cannot be read": (["Authorization: Basic !!!"], {401}),
    "another scope": (["Authorization: Bearer small"], {403}),
    "a cookie of nobody": (["Cookie: mataserver=x"], {401}),
}


@pytest.mark.parametrize("shown", SHOWN)
async def test_nobody_gets_to_a_handler(data_dir, shown):
    """No credentials, wrong ones and those without the scope are refused on every closed route."""
    headers, statuses = SHOWN[shown]
    keys = ["test-key", {"key": "small", "scopes": ["jobs:read"]}]
    async with testing.serving(
        data_dir, entry_points=POINTS, engine="thread", api_keys=keys
    ) as server:
        closed = [each for each in server.composed.table.routes if not each.public]
        assert len(closed) > 20
        for route in closed:
            if shown == "another scope" and route.needs == "any":
                continue
            path = re.sub(r"\{(\w+)[^}]*\}", r"\1", route.path)
            async with connection(server) as (reader, writer):
                writer.write(asking(route.method, path, *headers))
                status, _, body = await answer(reader)
                assert status in statuses, (route.method, path, body)


@pytest.mark.parametrize("path", ["/nothing", "/v1/infer", "/v1/infer/upload"])
async def test_who_leaves_before_being_asked_for_the_body_is_no_fault(data_dir, path, caplog):
    """Nothing is logged of a client that resets the connection behind its head."""
    async with testing.serving(data_dir, entry_points=POINTS, engine="thread") as server:
        for moment in range(12):
            async with connection(server) as (_, writer):
                writer.write(asking("POST", path, "Authorization: Bearer test-key"))
                await asyncio.sleep(moment // 4 * 0.001)
                writer.transport.abort()
            await asyncio.sleep(0.005)
    assert [each.message for each in caplog.records if each.levelname == "ERROR"] == []
