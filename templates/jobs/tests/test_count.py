"""The tests of the plugin, as its author runs them: ``pip install .``, then ``pytest``."""

import asyncio

import pytest

from mataserver import InvalidParams
from mataserver.testing import check_plugin, installed, serving
from mataserver_client import AsyncClient


def test_plugin_is_sound():
    """The plugin is found, its hooks are valid, and it imports no framework."""
    assert check_plugin("count") == []


@pytest.mark.asyncio
async def test_it_counts(tmp_path):
    """A job is accepted and run in a separate process, and its file can be downloaded."""
    points = installed("database", "jobs", "count")
    settings = {"jobs": {"min_free_mb": 0}}
    async with (
        serving(tmp_path, entry_points=points, plugins=settings) as server,
        AsyncClient(server.url, server.key) as client,
    ):
        with pytest.raises(InvalidParams):
            await client.request("POST", "/v1/jobs/count", {"to": -1})
        job = (await client.request("POST", "/v1/jobs/count", {"to": 7})).decode(dict)["id"]
        job_status = {"finished_at": None}
        while job_status["finished_at"] is None:
            await asyncio.sleep(0.1)
            job_status = (await client.request("GET", f"/v1/jobs/{job}")).decode(dict)
        assert (job_status["state"], job_status["result"]) == ("done", {"counted": 7})
        assert (await client.request("GET", f"/v1/jobs/{job}/files/count.txt")).body == b"7"
