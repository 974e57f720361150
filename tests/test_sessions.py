"""The session store: limits, expiry, what it holds and what it gives back."""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
from types import SimpleNamespace

import pytest

from mataserver.engines.worker_errors import WorkerDied
from mataserver.errors import MataError, NotFound, OutOfMemory, Unavailable
from mataserver.metrics import Metrics
from mataserver.params.table import Params
from mataserver.serving.handle import Handle
from mataserver.serving.sessions import SessionStore


class Pool:
    """A pool that counts its holders and notes which states were closed."""

    def __init__(self):
        self.held = 0
        self.closed = []
        self.loading = asyncio.Event()
        self.loading.set()
        self.load_error = None
        self.close_error = None

    @contextlib.asynccontextmanager
    async def hold(self, _plan):
        await self.loading.wait()
        if self.load_error is not None:
            raise self.load_error
        self.held += 1
        try:
            yield
        finally:
            self.held -= 1

    @contextlib.contextmanager
    def lease_worker(self, _plan):
        yield self

    async def close_session(self, session_id):
        if self.close_error is not None:
            raise self.close_error
        self.closed.append(session_id)


class Clock:
    """A clock that the test sets."""

    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


class Connection:
    """An open socket that leaves only when the test lets it."""

    def __init__(self):
        self.left = []

    def request_close(self, code, reason):
        self.left.append((code, reason))


def handle(pool, metrics, name="m"):
    """Return a model that sessions can be made of."""
    plan = SimpleNamespace(spec=SimpleNamespace(name=name, task="track"))
    return Handle(pool, metrics, 64, lambda: plan)


class Store(SessionStore):
    """A store with two models to make sessions of."""

    def __init__(self, pool, metrics, clock=time.monotonic, ttl=10.0):
        super().__init__(metrics, limit=3, ttl=ttl, clock=clock)
        self.model, self.another = handle(pool, metrics), handle(pool, metrics, "another")


@pytest.fixture
def pool():
    return Pool()


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def metrics():
    return Metrics()


@pytest.fixture
def store(pool, metrics, clock):
    return Store(pool, metrics, clock)


def create(store):
    """Create a session."""
    return store.create(store.model, Params())


def gauge(metrics, name="mataserver_sessions"):
    """Return the value of a gauge."""
    return metrics.registry.get_sample_value(name)


async def test_a_session_has_an_id_and_what_it_was_made_of(store, metrics):
    """A session is found by its random id and knows its model and task."""
    session, other = await create(store), await create(store)
    assert re.fullmatch(r"sess_[0-9a-f]{12}", session.id)
    assert session.id != other.id
    assert store.get(session.id) is session
    assert (session.model, session.task) == ("m", "track")
    assert store.all() == [session, other]
    assert len(store) == gauge(metrics) == 2


async def test_a_session_holds_its_model_until_it_is_deleted(store, pool, metrics):
    """Creating holds the model; deleting closes the state in the worker and lets it go."""
    session = await create(store)
    assert pool.held == 1
    await store.delete(session.id)
    assert (pool.held, pool.closed) == (0, [session.id])
    assert gauge(metrics) == 0


async def test_deleting_twice_is_not_found(store):
    """A deleted session and one that never was are the same."""
    session = await create(store)
    await store.delete(session.id)
    for unknown in (session.id, "sess_000000000000", "x" * 500):
        with pytest.raises(NotFound):
            await store.delete(unknown)
        with pytest.raises(NotFound):
            store.get(unknown)


async def test_one_over_the_limit_is_unavailable(store, pool):
    """Sessions over the limit are refused and hold nothing; a deleted one makes room."""
    sessions = [await create(store) for _ in range(3)]
    with pytest.raises(Unavailable, match=r"Maximum concurrent sessions reached \(limit: 3\)"):
        await create(store)
    assert pool.held == 3
    await store.delete(sessions[0].id)
    await create(store)


async def test_sessions_being_created_count(store, pool):
    """The limit holds for sessions whose model is still loading."""
    pool.loading.clear()
    waiting = [asyncio.create_task(create(store)) for _ in range(3)]
    await asyncio.sleep(0)
    with pytest.raises(Unavailable):
        await create(store)
    pool.loading.set()
    assert len({session.id for session in await asyncio.gather(*waiting)}) == 3


@pytest.mark.parametrize("error", [OutOfMemory("no room"), MataError("broken")])
async def test_a_failed_load_takes_no_place(store, pool, error):
    """Creations whose load fails raise its error and do not count."""
    pool.load_error = error
    for _ in range(5):
        with pytest.raises(type(error)):
            await create(store)
    pool.load_error = None
    await create(store)
    assert (len(store), pool.held) == (1, 1)


async def test_a_creation_that_is_cancelled_takes_no_place(store, pool):
    """A client that goes away while its model loads leaves no session and no hold."""
    pool.loading.clear()
    for _ in range(5):
        creating = asyncio.create_task(create(store))
        await asyncio.sleep(0)
        creating.cancel()
        await asyncio.gather(creating, return_exceptions=True)
    pool.loading.set()
    await create(store)
    assert (len(store), pool.held) == (1, 1)


async def test_without_a_connection_a_session_expires(store, pool, clock, metrics):
    """After its time to live a session cannot be found, and is removed at the next look."""
    session = await create(store)
    clock.now += 10.0
    assert store.get(session.id) is session
    clock.now += 0.1
    with pytest.raises(NotFound):
        store.get(session.id)
    await store.expire()
    assert (pool.held, pool.closed, gauge(metrics)) == (0, [session.id], 0)


async def test_an_expired_session_makes_room_at_once(store, clock):
    """A new session does not wait for the next look at the expired ones."""
    for _ in range(3):
        await create(store)
    clock.now += 11
    await create(store)
    assert len(store) == 1


async def test_with_a_connection_a_session_does_not_expire(store, clock, metrics):
    """A connected session stays; its time to live begins when the connection ends."""
    session = await create(store)
    connection = Connection()
    store.attach(session, connection.request_close)
    assert gauge(metrics, "mataserver_sessions_connected") == 1
    clock.now += 1000
    await store.expire()
    assert store.get(session.id) is session
    store.detach(session, connection.request_close)
    assert gauge(metrics, "mataserver_sessions_connected") == 0
    clock.now += 10
    await store.expire()
    assert store.get(session.id) is session
    clock.now += 0.1
    await store.expire()
    assert len(store) == 0


async def test_a_session_is_alone_with_its_model_while_no_other_is_connected(store):
    """One of another model is no company, nor is one that nobody is connected to."""
    session, other = await create(store), await create(store)
    elsewhere = await store.create(store.another, Params())
    for each in (session, elsewhere):
        store.attach(each, Connection().request_close)
    assert store.is_only_connected(session)
    connection = Connection()
    store.attach(other, connection.request_close)
    assert not store.is_only_connected(session)
    assert not store.is_only_connected(other)
    assert store.is_only_connected(elsewhere)
    store.detach(other, connection.request_close)
    assert store.is_only_connected(session)


async def test_the_watch_removes_expired_sessions(pool, metrics):
    """The watch finds by itself what has expired."""
    store = Store(pool, metrics, ttl=0.05)
    watching = asyncio.create_task(store.watch())
    await create(store)
    async with asyncio.timeout(10):
        while len(store):
            await asyncio.sleep(0.01)
    watching.cancel()
    await asyncio.gather(watching, return_exceptions=True)
    assert pool.held == 0


async def test_the_state_is_closed_after_the_last_frame(store, pool):
    """Deleting asks the socket to leave and closes the worker's state only when it has."""
    session = await create(store)
    connection = Connection()
    store.attach(session, connection.request_close)
    deleting = asyncio.create_task(store.delete(session.id))
    await asyncio.sleep(0.01)
    assert connection.left == [(1000, "session deleted")]
    assert (pool.held, pool.closed) == (1, [])
    with pytest.raises(NotFound):
        store.get(session.id)
    store.detach(session, connection.request_close)
    await deleting
    assert (pool.held, pool.closed) == (0, [session.id])


async def test_a_deletion_that_is_cancelled_is_finished(store, pool):
    """A client that goes away while its session is being deleted does not keep the model held."""
    session = await create(store)
    connection = Connection()
    store.attach(session, connection.request_close)
    deleting = asyncio.create_task(store.delete(session.id))
    await asyncio.sleep(0.01)
    deleting.cancel()
    await asyncio.gather(deleting, return_exceptions=True)
    store.detach(session, connection.request_close)
    await store.close()
    assert (pool.held, pool.closed) == (0, [session.id])


@pytest.mark.parametrize("error", [Unavailable("gone"), WorkerDied("dead")])
async def test_a_dead_worker_does_not_keep_a_session(store, pool, error):
    """A session whose worker is gone can be deleted: its state went with the worker."""
    session = await create(store)
    pool.close_error = error
    await store.delete(session.id)
    assert (len(store), pool.held) == (0, 0)


async def test_closing_removes_every_session(store, pool, metrics):
    """When the server stops, every session lets its model go."""
    for _ in range(3):
        await create(store)
    await store.close()
    assert (len(store), pool.held, gauge(metrics)) == (0, 0, 0)
