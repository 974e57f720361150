"""What is kept of uploads, on SQLite and PostgreSQL."""

from __future__ import annotations

import asyncio
import uuid

import pytest
import sqlalchemy as sa

from mataserver_jobs.store import Store
from mataserver_jobs.table import SCHEMA as JOBS
from mataserver_reconstruct import history
from mataserver_reconstruct.history import (
    CHECK,
    RECONSTRUCTION,
    Cooldown,
    History,
    HistoryEntry,
    sample_measures,
)
from mataserver_reconstruct.tables import SCHEMA


def entry(at, owner="ada", kind=RECONSTRUCTION, name=None, **more):
    """Return an entry."""
    values = {
        "dataset_name": "church", "scene_name": "tower", "n_images": 12, "registration_rate": 0.9,
        "measures": {"brightness": [at, at + 1]}, "report": {"severity": "low", "checks": {}},
    }  # fmt: skip
    return HistoryEntry(
        id=name or str(uuid.uuid4()), kind=kind, owner=owner, at=at, **{**values, **more}
    )


@pytest.fixture
async def kept(database):
    """The history."""
    await database.migrate(JOBS)
    await database.migrate(SCHEMA)
    return History(database)


async def left(kept):
    """Return the jobs that are not noted."""
    return [job async for _, job in kept.unrecorded("reconstruct")]


async def test_an_entry_is_kept_once(kept):
    """An entry comes back as it was; the same end is kept once, a later one replaces it."""
    first = entry(10.0)
    assert await kept.add(first)
    assert not await kept.add(first)
    assert await kept.find(first.id) == first
    assert await kept.find(first.id, 11.0) is None
    later = entry(11.0, name=first.id, n_images=3)
    assert await kept.add(later)
    assert await kept.find(first.id) == later
    assert [each async for each in kept.entries(None)] == [later]


async def test_two_servers_keep_one(kept):
    """Of ten who keep the same end at once one does."""
    made = entry(5.0)
    assert sum(await asyncio.gather(*(kept.add(made) for _ in range(10)))) == 1


async def test_a_baseline_is_of_ones_own_reconstructions(kept):
    """Checks, another's uploads and the upload itself are no baseline; the newest come first."""
    mine = [entry(float(at)) for at in range(3)]
    for each in (*mine, entry(7.0, kind=CHECK), entry(8.0, owner="bob")):
        await kept.add(each)
    found = await kept.baseline("ada", but=mine[0].id)
    assert found.measures == [{"brightness": [2.0, 3.0]}, {"brightness": [1.0, 2.0]}]
    assert found.rates == [0.9, 0.9]
    assert await kept.baseline("nobody") == ([], [])


async def test_entries_come_in_order_and_whole(kept):
    """All of an owner's entries are told, the oldest first, also where many have one time."""
    made = [entry(float(at // 7)) for at in range(230)]
    for each in made:
        await kept.add(each)
    await kept.add(entry(3.0, owner="bob"))
    told = [each async for each in kept.entries("ada")]
    assert len(told) == 230
    assert [(each.at, each.id) for each in told] == sorted((each.at, each.id) for each in made)
    assert len([each async for each in kept.entries(None)]) == 231


async def test_the_oldest_go(database):
    """An owner keeps the newest entries; another's stay."""
    await database.migrate(SCHEMA)
    kept = History(database, keep=3)
    await kept.add(entry(0.0, owner="bob"))
    for at in range(5):
        await kept.add(entry(float(at)))
    assert [each.at async for each in kept.entries("ada")] == [2.0, 3.0, 4.0]
    assert [each.at async for each in kept.entries("bob")] == [0.0]


async def test_jobs_that_are_not_noted(kept, database, monkeypatch):
    """A job that is done is not noted until it has an entry of that end; others never count."""
    times = iter(range(1, 1000))
    monkeypatch.setattr(database, "now", lambda: sa.literal(float(next(times))))
    store = Store(database)
    for kind in ("reconstruct", "infer", "reconstruct"):
        await store.submit(kind, "ada", {})
    first = await store.claim("me", ["reconstruct"])
    assert await kept.running("reconstruct") == 1
    assert await left(kept) == []
    await store.finish(first, {})
    other = await store.claim("me", ["infer"])
    await store.finish(other, {})
    assert await left(kept) == [first.id]
    done = await store.get(first.id)
    await kept.add(entry(done.finished_at, name=first.id))
    assert await left(kept) == []
    await store.restart(first.id, {})
    await store.finish(await store.claim("me", ["reconstruct"]), {})
    await store.finish(await store.claim("me", ["reconstruct"]), {})
    assert len(await left(kept)) == 2


async def test_jobs_whose_entries_went_are_not_noted_again(kept, database, monkeypatch):
    """Of an owner with more jobs than entries are kept those that are left out stay out.

    So the next job that ends is looked at, however many there were; another owner's all are.
    """
    kept = History(database, keep=3)
    times = iter(range(1, 10_000))
    monkeypatch.setattr(database, "now", lambda: sa.literal(float(next(times))))
    store = Store(database)
    for owner in ("bob", *["ada"] * 120):
        await store.submit("reconstruct", owner, {})
        await store.finish(await store.claim("me", ["reconstruct"]), {})
    assert len(await left(kept)) == 121  # also behind a hundred that cannot be noted
    while jobs := await left(kept):
        for job in jobs:
            done = await store.get(job)
            await kept.add(entry(done.finished_at, done.owner, name=job))
    await store.submit("reconstruct", "ada", {})
    new = await store.claim("me", ["reconstruct"])
    await store.finish(new, {})
    assert await left(kept) == [new.id]


async def test_what_is_older_than_all_that_is_kept_is_not_new(database):
    """An entry that goes at once is not said to be kept: nothing follows of it."""
    await database.migrate(SCHEMA)
    kept = History(database, keep=3)
    for at in (5.0, 6.0, 7.0):
        assert await kept.add(entry(at))
    assert not await kept.add(entry(4.0))
    assert [each.at async for each in kept.entries("ada")] == [5.0, 6.0, 7.0]


async def test_cooldown(kept, database):
    """Within the time the earlier run counts; given up, or after a clock's fall, a new one may."""
    cooldown = Cooldown(database, 100.0)
    taken = await asyncio.gather(*(cooldown.claim("dag", f"run-{at}", 50.0) for at in range(5)))
    (first,) = {run for run in taken if run}
    assert taken.count("") == 1
    assert await cooldown.claim("dag", "next", 149.0) == first
    assert await cooldown.claim("other", "next", 149.0) == ""
    assert await cooldown.claim("dag", "next", 150.0) == ""
    await cooldown.release("dag", "someone else's")
    assert await cooldown.claim("dag", "third", 151.0) == "next"
    await cooldown.release("dag", "next")
    assert await cooldown.claim("dag", "third", 152.0) == ""
    assert await cooldown.claim("dag", "fourth", 20.0) == ""


def test_measures_of_many_photographs_are_sampled():
    """Of many photographs some are kept, spread over all; of few each."""
    rows = [{"brightness": float(at), "noise": 1 / 3} for at in range(1000)]
    found = sample_measures(rows)
    assert len(found["brightness"]) == history.SAMPLE
    assert found["brightness"][0] == 0
    assert found["brightness"][-1] > 980
    assert found["noise"] == [0.3333] * history.SAMPLE
    assert sample_measures(rows[:5])["brightness"] == [0, 1, 2, 3, 4]
    assert sample_measures([]) == {}
