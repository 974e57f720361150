"""An end that the database does not take yet is written down again and again, and logged once."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

from mataserver import Unavailable
from mataserver_jobs import supervisor
from mataserver_jobs.supervisor import Supervisor


async def test_why_it_waits_is_logged_once(tmp_path, monkeypatch, caplog):
    """However long that lasts, each reason is one line."""
    monkeypatch.setattr(supervisor, "RETRY_SECONDS", 0.0)
    given = {"tokens": None, "transfers_files": False}
    waiting = Supervisor(None, {}, tmp_path, None, asyncio.Event(), **given)
    reasons = ["full"] * 5 + ["away"] * 5

    async def note(_record):
        if reasons:
            raise Unavailable(reasons.pop(0))
        return "stored"

    assert await waiting._record_end(note, SimpleNamespace(id="j")) == "stored"
    lines = [record.getMessage() for record in caplog.records]
    assert lines == ["job j: its end waits: full", "job j: its end waits: away"]
