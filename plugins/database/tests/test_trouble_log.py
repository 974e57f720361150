"""A trouble that lasts is logged now and then, and not with every statement."""

from __future__ import annotations

import logging

import pytest

from mataserver_database import Busy, Database, failures
from mataserver_database.trouble_log import REPEAT_SECONDS, TroubleLog


async def test_a_database_that_is_away(tmp_path, monkeypatch, caplog, unused_tcp_port):
    """However often it is asked, that is logged once a minute; something else at once."""
    now = [100.0]
    log = logging.getLogger("mataserver.plugin.database")
    monkeypatch.setattr(failures, "TROUBLES", TroubleLog(log, lambda: now[0]))
    database = Database(tmp_path, f"postgresql://nobody@127.0.0.1:{unused_tcp_port}/none")

    async def ask():
        for _ in range(5):
            with pytest.raises(Busy):
                await database.check()
        return [each.getMessage() for each in caplog.records]

    told = await ask()
    assert len(told) == 1
    assert told[0].startswith("the database cannot be reached: ")
    failures.TROUBLES.tell("the database failed: something else")
    assert len(await ask()) == 2
    now[0] += REPEAT_SECONDS
    assert len(await ask()) == 3
    await database.close()
