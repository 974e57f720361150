"""The policy of cameras: when they are read, how they are tried again, who is shown what."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest

from mataserver.contract.sessions import SourceFrame
from mataserver.engines.work import Outcome, Timing
from mataserver.engines.worker_errors import Failure, WorkerDied
from mataserver.errors import MataError, NotFound, Unavailable
from mataserver.metrics import Metrics
from mataserver.params.table import Params
from mataserver.serving.feeds import camera as cameras
from mataserver.serving.feeds import feed as feed_module
from mataserver.serving.feeds.feed import FIRST_PAUSE, MAX_PAUSE, Feed, SourceLostError
from mataserver.serving.frames import FrameSession
from mataserver.serving.handle import Handle


class Source:
    """What a feed connects to: frames that the test puts in, errors among them."""

    def __init__(self):
        self.frames: asyncio.Queue[SourceFrame | MataError] = asyncio.Queue()
        self.open = 0
        self.connected = 0

    async def connect(self):
        self.connected += 1
        self.open += 1
        try:
            while isinstance(found := await self.frames.get(), SourceFrame):
                yield found
            raise found
        finally:
            self.open -= 1

    def give(self, passed=1):
        self.frames.put_nowait(SourceFrame(b"jpeg", passed))


class Pool:
    """A pool that answers at once with what the test says."""

    def __init__(self):
        self.answer: object = Outcome(b"\x81\xaadetections\x90", Timing(infer=3.0))
        self.jobs = []

    async def infer(self, _plan, job):
        self.jobs.append(job)
        if isinstance(self.answer, MataError):
            raise self.answer
        return self.answer, 0.0


class Viewer:
    """Notes what it is shown."""

    def __init__(self):
        self.received = []
        self.warnings = []

    def show(self, inferred):
        self.received.append(inferred)

    def warn(self, detail):
        self.warnings.append(detail)


@pytest.fixture
def parts():
    """A session, a source, a pool, and the feed between them."""
    plan = SimpleNamespace(spec=SimpleNamespace(name="m", task="detect"))
    pool = Pool()
    session = FrameSession(Handle(pool, Metrics(), 64, lambda: plan), Params(), "sess_1")
    source = Source()
    feed = Feed(source.connect)
    return SimpleNamespace(session=session, source=source, feed=feed, pool=pool)


@pytest.fixture
async def make(parts):
    """Return what makes a camera of the parts; it is closed at the end."""
    made = []

    def build(**options):
        camera = cameras.Camera(
            parts.session,
            parts.feed,
            shown="x",
            **options,
        )
        made.append(camera)
        return camera

    yield build
    for camera in made:
        await camera.close()
    assert parts.source.open == 0


async def settle(check):
    """Wait until ``check()`` holds."""
    async with asyncio.timeout(10):
        while not check():
            await asyncio.sleep(0.005)


async def test_nobody_looks(parts, make):
    """A camera that nobody wants is not even connected."""
    make()
    parts.source.give()
    await asyncio.sleep(0.05)
    assert (parts.source.connected, parts.feed.state) == (0, "idle")


async def test_always(parts, make):
    """A camera that is always wanted is inferred with nobody there."""
    make(always=True)
    parts.source.give()
    await settle(lambda: parts.session.results == 1)
    assert parts.feed.state == "connected"


async def test_frames_that_were_passed_over_are_dropped(parts, make):
    """What was decoded and not inferred counts as received and dropped."""
    viewer = Viewer()
    make().subscribe(viewer)
    parts.source.give()
    parts.source.give(passed=5)
    await settle(lambda: len(viewer.received) == 2)
    assert [(inferred.number, inferred.dropped) for inferred in viewer.received] == [(0, 0), (5, 4)]
    assert (parts.session.frames, parts.session.dropped, parts.session.results) == (6, 4, 2)


async def test_it_lingers_then_disconnects(parts, make, monkeypatch):
    """When the last viewer is gone the camera stays connected for a while, and comes back."""
    monkeypatch.setattr(cameras, "IDLE_DISCONNECT", 0.2)
    camera, viewer = make(), Viewer()
    camera.subscribe(viewer)
    parts.source.give()
    await settle(lambda: viewer.received)
    camera.unsubscribe(viewer)
    parts.source.give()  # the frame that was asked for already
    await settle(lambda: parts.session.results == 2)
    assert parts.source.open == 1
    await settle(lambda: parts.source.open == 0)
    assert parts.feed.state == "idle"
    camera.subscribe(viewer)
    parts.source.give()
    await settle(lambda: len(viewer.received) == 2)
    assert (parts.source.connected, parts.feed.reconnects) == (2, 0)


async def test_a_snapshot_wakes_the_camera(parts, make):
    """A snapshot reads one frame; a second one soon after gets the same."""
    camera = make()
    asking = asyncio.create_task(camera.newest())
    await settle(lambda: parts.source.connected)
    parts.source.give()
    inferred = await asking
    assert await camera.newest() is inferred
    assert len(parts.pool.jobs) == 1


async def test_a_snapshot_of_a_camera_that_is_lost(parts, make):
    """Whoever waits is told why there is no frame, and the next one at once."""
    camera = make()
    asking = asyncio.create_task(camera.newest())
    await settle(lambda: parts.source.connected)
    parts.source.frames.put_nowait(MataError("the connection was refused"))
    for waiting in (asking, camera.newest()):
        with pytest.raises(NotFound) as caught:
            await waiting
        assert caught.value.detail == "The camera gives no frames: the connection was refused"


async def test_snapshots_alone_find_a_camera_that_is_back(parts, make):
    """Each one of a lost camera has it tried again: it need not be idle before.

    What asked for one more attempt asks for no second one, and for no frame after it.
    """
    camera = make()
    for _ in range(2):
        parts.source.frames.put_nowait(MataError("gone"))
    with pytest.raises(NotFound):
        await camera.newest()
    await settle(lambda: parts.feed.state == "failed")
    assert (parts.feed.failures, camera._demand.is_set()) == (1, False)
    with pytest.raises(NotFound):
        await camera.newest()
    await settle(lambda: parts.feed.failures == 2)
    parts.source.give()
    with pytest.raises(NotFound):
        await camera.newest()
    await settle(lambda: parts.feed.state == "connected")
    assert not camera._demand.is_set()
    assert (await camera.newest()).number == 0


async def test_a_snapshot_of_a_slow_model(parts, make, monkeypatch):
    """Where no result comes in time there is none yet; later the last one is shown."""
    monkeypatch.setattr(cameras, "SNAPSHOT_TIMEOUT", 0.05)
    camera = make(always=True)
    with pytest.raises(NotFound) as caught:
        await camera.newest()
    assert caught.value.detail == "The camera has given no result yet"
    parts.source.give()
    await settle(lambda: parts.session.results)
    inferred = await camera.newest()
    inferred.at -= 60.0
    assert await camera.newest() is inferred


async def test_whoever_waits_when_the_session_is_deleted(parts, make):
    """A snapshot that waits while its session is deleted is answered."""
    camera = make()
    asking = asyncio.create_task(camera.newest())
    await settle(lambda: parts.source.connected)
    await camera.close()
    with pytest.raises(NotFound):
        await asking
    camera._next = asyncio.get_running_loop().create_future()


async def test_viewers_are_told_once(parts, make):
    """A camera that stays away is told of once; one who comes meanwhile is told too."""
    camera, first, second = make(), Viewer(), Viewer()
    camera.subscribe(first)
    parts.source.frames.put_nowait(MataError("gone"))
    parts.source.frames.put_nowait(MataError("gone"))
    await settle(lambda: parts.feed.failures == 2)
    camera.subscribe(second)
    assert first.warnings == second.warnings == ["The camera gives no frames: gone"]


async def test_who_comes_while_a_lost_camera_is_tried_again_is_told(parts, make, monkeypatch):
    """An attempt may take as long as the camera is silent: until then its loss is known."""
    monkeypatch.setattr(cameras, "SNAPSHOT_TIMEOUT", 0.05)
    camera, first, second = make(), Viewer(), Viewer()
    camera.subscribe(first)
    parts.source.frames.put_nowait(MataError("gone"))
    await settle(lambda: (parts.feed.failures, parts.feed.state) == (1, "connecting"))
    camera.subscribe(second)
    assert second.warnings == ["The camera gives no frames: gone"]
    with pytest.raises(NotFound) as caught:
        await camera.newest()
    assert caught.value.detail == "The camera gives no frames: gone"


async def test_the_log_has_each_reason_once_and_the_return(parts, make, caplog):
    """A camera that is off and then refuses the password says both, and that it is back."""
    caplog.set_level("INFO", "mataserver.cameras")
    camera, viewer = make(), Viewer()
    camera.subscribe(viewer)
    for reason in ("off", "off", "wrong password", "off"):
        parts.source.frames.put_nowait(MataError(reason))
    parts.source.give()
    parts.source.give()
    await settle(lambda: len(viewer.received) == 2)
    parts.source.frames.put_nowait(MataError("off"))
    await settle(lambda: parts.feed.state == "failed")
    assert caplog.messages == [
        "x of sess_1: off",
        "x of sess_1: wrong password",
        "x of sess_1 gives frames now",
        "x of sess_1: off",
    ]
    assert viewer.warnings == ["The camera gives no frames: off"] * 2


async def test_the_pauses_between_tries(parts):
    """Each try that fails is followed by a pause twice as long, up to the longest."""
    pauses = []
    for _ in range(8):
        parts.source.frames.put_nowait(MataError("gone"))
        with pytest.raises(SourceLostError):
            await parts.feed.frame()
        pauses.append(parts.feed.pause)
    assert pauses[:3] == [FIRST_PAUSE, 2 * FIRST_PAUSE, 4 * FIRST_PAUSE]
    assert pauses[-1] == MAX_PAUSE
    assert (parts.feed.state, parts.source.open) == ("failed", 0)
    parts.source.give()
    await parts.feed.frame()
    assert (parts.feed.state, parts.feed.failures, parts.feed.reconnects) == ("connected", 0, 0)
    await parts.feed.stop()


async def test_a_source_that_ends_soon_each_time_is_tried_less_often(parts, monkeypatch):
    """Its few frames are no reason to try at once again; those of a connection that lasted are."""
    now, pauses = 0.0, []
    monkeypatch.setattr(feed_module, "_now", lambda: now)
    for lasted in (1.0, 1.0, MAX_PAUSE, 2 * MAX_PAUSE, 1.0):
        parts.source.give()
        await parts.feed.frame()
        now += lasted
        parts.source.frames.put_nowait(MataError("the stream ended"))
        with pytest.raises(SourceLostError):
            await parts.feed.frame()
        assert parts.feed.failures == 1
        pauses.append(parts.feed.pause / FIRST_PAUSE)
    assert pauses == [1, 2, 4, 1, 2]
    await parts.feed.stop()


async def test_damaged_frames_are_counted(parts):
    """Also while there is nothing but them: they are among those that the next frame passed."""
    for frame in (SourceFrame(b"", 3, 3), SourceFrame(b"jpeg", 4, 2), SourceFrame(b"", 0, 0)):
        parts.source.frames.put_nowait(frame)
    assert await parts.feed.frame() == SourceFrame(b"jpeg", 7, 5)
    assert parts.feed.damaged == 5
    # One that is empty without damage is the source's fault, which the model tells.
    assert await parts.feed.frame() == SourceFrame(b"", 0, 0)
    await parts.feed.stop()


async def test_reconnects_are_counted(parts):
    """A camera that was there, went, and came back was reconnected once, however many tries."""
    parts.source.give()
    await parts.feed.frame()
    for reason in ("gone", "still gone"):
        parts.source.frames.put_nowait(MataError(reason))
        with pytest.raises(SourceLostError):
            await parts.feed.frame()
        assert parts.feed.problem == reason
    parts.source.give()
    await parts.feed.frame()
    assert (parts.feed.reconnects, parts.feed.problem) == (1, None)
    await parts.feed.stop()


@pytest.mark.parametrize(
    ("answer", "told", "reset"),
    [
        (Outcome(b"", Timing(), Failure(500, "The model failed: X")), (500, None), False),
        (Outcome(b"", Timing(), Failure(503, "busy", 4.0)), (503, 4.0), False),
        (Unavailable("full", retry_after=7), (503, 7), False),
        (WorkerDied("dead"), (500, None), True),
    ],
)
async def test_failures_of_the_model(parts, make, answer, told, reset):
    """A failure is shown with the time to ask again; a worker's death resets the next result."""
    camera, viewer = make(), Viewer()
    camera.subscribe(viewer)
    parts.pool.answer = answer
    parts.source.give()
    await settle(lambda: viewer.received)
    failure = viewer.received[0].failure
    assert (failure.status, failure.retry_after) == told
    with pytest.raises(MataError) as caught:
        await viewer.received[0].picture("detect")
    assert (caught.value.status, caught.value.retry_after) == told
    parts.pool.answer = Outcome(b"", Timing())
    parts.source.give()
    await settle(lambda: len(viewer.received) == 2)
    assert viewer.received[1].reset is reset


async def test_fps_is_a_limit(parts, make):
    """At most so many frames a second are inferred."""
    viewer, loop = Viewer(), asyncio.get_running_loop()
    make(fps=20).subscribe(viewer)
    for _ in range(6):
        parts.source.give()
    begun = loop.time()
    await settle(lambda: len(viewer.received) == 6)
    assert loop.time() - begun > 5 / 20 - 0.02
