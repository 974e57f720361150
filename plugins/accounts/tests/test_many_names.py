"""One password for many names: an address that fails for ever new ones must wait."""

from __future__ import annotations

import contextlib

import pytest

from mataserver_accounts.login_delays import (
    FREE_FAILURES_OF_ADDRESS,
    LoginDelays,
    TooManyAttempts,
)
from mataserver_database import Busy, Database


def test_one_password_for_many_names_is_slowed_down(clock):
    """An address that fails for ever new names must wait; names known from there need not."""
    delays = LoginDelays(clock)
    delays.clear("ada", "10.0.0.1", delays.count_failure("ada", "10.0.0.1"))
    tries = 0
    begun = clock.now
    while clock.now < begun + 3_600:
        try:
            delays.check(f"name {tries}", "10.0.0.1")
        except TooManyAttempts as told:
            clock.now += told.retry_after
        else:
            delays.count_failure(f"name {tries}", "10.0.0.1")
            tries += 1
    assert FREE_FAILURES_OF_ADDRESS < tries < FREE_FAILURES_OF_ADDRESS + 130
    delays.count_failure("bob", "10.0.0.1")
    with pytest.raises(TooManyAttempts):
        delays.check("eve", "10.0.0.1")
    delays.check("ada", "10.0.0.1")
    delays.check("bob", "10.0.0.2")
    clock.now += 3_600 * 3
    for number in range(FREE_FAILURES_OF_ADDRESS // 2):
        delays.check(f"later {number}", "10.0.0.1")
        delays.count_failure(f"later {number}", "10.0.0.1")


def test_log_ins_of_an_office_need_not_wait(clock):
    """Any number of people who log in from one address, also mistyping, have no delay."""
    delays = LoginDelays(clock)
    for number in range(1_000):
        for _ in range(1 if number % 50 else 3):
            delays.check(str(number), "10.0.0.1")
            share = delays.count_failure(str(number), "10.0.0.1")
        delays.clear(str(number), "10.0.0.1", share)


def retry(delays, clock, names, minutes, every):
    """Try for each name every few seconds, with a wrong password; return how many were checked."""
    checked = 0
    for _ in range(minutes * 60 // every):
        clock.now += every
        for name in names:
            with contextlib.suppress(TooManyAttempts):
                delays.check(name, "10.0.0.1")
                delays.count_failure(name, "10.0.0.1")
                checked += 1
    return checked


def test_stale_passwords_do_not_keep_others_out(clock):
    """Programs that retry for hours wait for themselves: a new person at their address need not."""
    delays = LoginDelays(clock)
    programs = [f"program {number}" for number in range(12)]
    checked = retry(delays, clock, programs, 240, every=1)
    assert checked > 12 * 200
    for person in range(20):
        delays.check(str(person), "10.0.0.1")
        delays.clear(str(person), "10.0.0.1", delays.count_failure(str(person), "10.0.0.1"))


def test_names_that_wait_already_are_bounded_together(clock):
    """Who guesses for many names at once has 50 guesses a minute, not one for each name."""
    delays = LoginDelays(clock)
    names = [str(number) for number in range(100)]
    retry(delays, clock, names, 600, every=10)
    checked = retry(delays, clock, names, 60, every=10)
    assert 60 * 20 < checked < 60 * 55


def test_delays_of_addresses_are_bounded(clock):
    """A million names, or addresses, fill no memory."""
    delays = LoginDelays(clock)
    for number in range(11_000):
        share = delays.count_failure(str(number), str(number))
        delays.clear(str(number), str(number), share)
        delays.count_failure(str(number), str(number))
    sizes = [len(each) for each in (delays._failures, delays._known, delays._addresses)]
    assert sizes == [10_000] * 3


@pytest.mark.parametrize("url", [None], ids=["sqlite"])
async def test_a_database_that_is_away_is_nobodys_failure(client, monkeypatch):
    """However often the server could not check a password, nobody waits for that later."""
    await client.user("ada")
    body = {"username": "ada", "password": "correct horse"}

    @contextlib.asynccontextmanager
    async def away(_database):
        raise Busy("The database does not answer now")
        yield

    with monkeypatch.context() as patch:
        patch.setattr(Database, "read", away)
        for number in range(FREE_FAILURES_OF_ADDRESS + 10):
            for name in ("ada", f"n{number}"):
                asked = await client.ask("POST", "/auth/token", "", json=body | {"username": name})
                assert asked[0] == 503
    assert (await client.ask("POST", "/auth/token", "", json=body | {"username": "eve"}))[0] == 401
    await client.token("ada")


@pytest.mark.parametrize("url", [None], ids=["sqlite"])
async def test_who_was_in_before_gets_in(client):
    """Whoever tries names one after the other is told to wait; who was in before gets in."""
    await client.user("ada")
    await client.token("ada")
    statuses = []
    for number in range(60):
        body = {"username": f"user{number}", "password": "Winter2026"}
        statuses.append((await client.ask("POST", "/auth/token", "", json=body))[0])
    assert set(statuses[:50]) == {401}
    assert 429 in statuses[50:]
    await client.token("ada")
