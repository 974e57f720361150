"""When the matchers are tried: not before the server listens, which would wait for a process."""

from __future__ import annotations

import asyncio
import logging
from types import SimpleNamespace

import pytest

from mataserver import Unavailable
from mataserver_reconstruct.matcher_status import MatcherStatus
from mataserver_reconstruct.settings import Settings

pytestmark = pytest.mark.long


async def test_no_process_is_started_before_the_server_listens():
    """Starting one stops everything else for as long as it takes."""
    listening, asked = asyncio.Event(), asyncio.Event()

    def run_process(*_, **__):
        asked.set()
        raise Unavailable("none can be started here")

    ctx = SimpleNamespace(
        settings=Settings(),
        address=listening.wait,
        run_process=run_process,
        log=logging.getLogger("test"),
    )
    status = MatcherStatus(ctx)
    watching = asyncio.create_task(status.watch())
    for _ in range(10):
        await asyncio.sleep(0)
    assert not asked.is_set()
    listening.set()
    async with asyncio.timeout(20):
        await asked.wait()
    watching.cancel()
    with pytest.raises(asyncio.CancelledError):
        await watching
