"""``Expect: 100-continue``: whoever may not ask is refused, on every route."""

from __future__ import annotations

import asyncio
import re
from types import SimpleNamespace

import pytest
from aiohttp import web

from api_answers import answer, connection
from conftest import POINTS
from mataserver import testing
from mataserver.http.protocol import HttpConnection
from mataserver.http.unread_output import AnonymousOutput


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


async def test_who_leaves_before_being_asked_for_the_body_is_no_fault(caplog):
    """The connection is gone when the body is asked for: only what else fails is logged."""
    loop = asyncio.get_running_loop()
    gone = HttpConnection(web.Server(None), lambda: None, 1.0, AnonymousOutput(1e6), loop=loop)
    request = SimpleNamespace(writer=SimpleNamespace(output_size=0))
    for error in (ConnectionResetError("gone"), ValueError("a bug")):
        assert gone.handle_error(request, exc=error).status == 500
    assert [each.exc_info[0] for each in caplog.records] == [ValueError]
