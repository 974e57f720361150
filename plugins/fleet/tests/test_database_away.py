"""The database goes away: what asks it is told so, and nothing else stops."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time

import pytest
from stand_in_triton import stand_ins

from mataserver_database.testing import running_postgres


@pytest.fixture
def away():
    """What ends the database."""
    with contextlib.ExitStack() as stack:
        yield stack


@pytest.fixture
def url(away):
    """The URL of a database of this test alone."""
    return away.enter_context(running_postgres())


async def test_the_database_goes_away(serve, away, caplog):
    """Routes answer 503 in both forms, the log does not fill, and the server ends in time."""
    settings = {"fleet": {"probe": 0.1}}
    async with stand_ins(1) as (triton,), serve(**settings) as client:
        body = {"name": "t", "host": "127.0.0.1", "port": triton.port}
        await client.made("/api/tritons", body)
        await asyncio.sleep(0.5)
        caplog.clear()
        caplog.set_level(logging.WARNING)
        await asyncio.to_thread(away.close)
        await asyncio.sleep(4.0)
        for method, path, sent in (
            ("GET", "/api/tritons", None),
            ("GET", "/api/models/m", None),
            ("POST", "/api/apps", {"name": "shop"}),
        ):
            status, answer = await client.ask(method, path, json=sent)
            assert (status, set(answer)) == (503, {"detail", "error"})
        assert (await client.ask("GET", "/v1/health"))[0] == 200
        own = [each for each in caplog.records if each.name == "mataserver.plugin.fleet"]
        assert len([each for each in own if "looked after" in each.getMessage()]) <= 5
        begun = time.monotonic()
    assert time.monotonic() - begun < 10.0
