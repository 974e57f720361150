"""A clock that is behind what the database holds is told: expired keys would count again."""

from __future__ import annotations

import logging
import re

import pytest
import sqlalchemy as sa

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
    (expected,) = [each.message for each in caplog.records if "newest" in each.message] or [""]
    assert ("the clock is 400.0 days behind the newest user or key" in expected) is told


@pytest.mark.parametrize(
    ("seconds", "told"),
    [(-1_200, "behind the"), (1_200, "ahead of the"), (20, None), (-20, None)],
)
async def test_a_clock_that_differs_from_the_databases(database, clock, caplog, seconds, told):
    """Its tokens end at other times on other servers, which is said once."""
    async with database.read() as connection:
        clock.now = seconds + await connection.scalar(sa.select(database.now()))
    log = logging.getLogger("mataserver.plugin.accounts")
    await Directory(Settings(), log, lambda _identity: None, clock).start(database)
    said = [each.message for each in caplog.records if "the clock" in each.message]
    found = [re.fullmatch(r"the clock is (\d+) seconds (.*) database's: .*", each) for each in said]
    assert [each[2] for each in found] == ([told] if told else [])
    assert all(1_000 < int(each[1]) < 1_400 for each in found)
