"""A clock that is behind what the database holds is told: expired keys would count again."""

from __future__ import annotations

import logging

import pytest

from mataserver_accounts.directory import Directory
from mataserver_accounts.options import Settings

DAY = 86_400.0


@pytest.mark.parametrize(("days", "told"), [(-400, True), (0, False), (400, False)])
async def test_a_clock_before_the_newest_key(database, accounts, clock, caplog, days, told):
    """The log of a start says by how much; a clock that is right or ahead says nothing."""
    await accounts.add_user("ada", "pass word", "admin")
    clock.now += DAY
    await accounts.add_key("camera", scopes=["infer"])
    clock.now += days * DAY
    log = logging.getLogger("mataserver.plugin.accounts")
    directory = Directory(Settings(), log, lambda _identity: None, clock)
    await directory.start(database)
    (expected,) = [each.message for each in caplog.records if "clock" in each.message] or [""]
    assert ("the clock is 400.0 days behind the newest user or key" in expected) is told
