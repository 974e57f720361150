"""The server's table of video sessions on a scripted model: failures, and clients that leave."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from pathlib import Path
from types import SimpleNamespace

import pytest

from mataserver import Conflict, MataError, NotFound, Unavailable
from mataserver.frontends.resource_ids import ResourceIds
from mataserver_sam.callers import Caller
from mataserver_sam.ended_sessions import MAX_ENDED
from mataserver_sam.settings import Settings
from mataserver_sam.video_requests import (
    PropagateRequest,
    Resolution,
    SessionUsage,
    StartRequest,
    Step,
    VideoInfo,
)
from mataserver_sam.video_sessions import VideoSessions

INFO = VideoInfo(8, 10.0, Resolution(80, 64), 0.8)
ASKED = StartRequest(video_path="/video", session_id="a")
ADMIN = Caller("key:admin", sees_all=True)
OWNER = Caller()
"""Who starts a session without a name of an owner."""


class Model:
    """A model in a worker: it notes what it is asked; it waits and fails when it is told to."""

    def __init__(self):
        self.asked = []
        self.opened = []
        self.failure = None
        self.go_on = asyncio.Event()
        self.go_on.set()

    async def call(self, _video, method, *args):
        self.asked.append(method)
        if method == "open":
            self.opened.append(args[0])
        await self.go_on.wait()
        if self.failure is not None and method != "close":
            raise self.failure
        return {"open": INFO, "reset": (2, SessionUsage()), "close": 5_000_000}.get(
            method, SessionUsage(3)
        )

    async def stream(self, _video, _method, *_args):
        for frame in range(8):
            if frame == 2 and self.failure is not None:
                raise self.failure
            yield Step(frame, b"[]", SessionUsage(1, frame + 1, 7_000_000, gpus=[(0, frame, 9)]))


class Served:
    """The model behind the API; ``loaded_at`` changes when its worker is replaced."""

    in_memory = True

    def __init__(self):
        self.model = Model()
        self.loaded_at = 1.0
        self.held = 0

    @contextlib.asynccontextmanager
    async def acquire(self):
        self.held += 1
        try:
            yield self.model
        finally:
            self.held -= 1

    def info(self):
        return SimpleNamespace(loaded_at=self.loaded_at)


class Sources:
    """Gives a file without looking for one."""

    @contextlib.asynccontextmanager
    async def file(self, _asked):
        yield Path("/video")

    def remove_leftovers(self):
        pass


def context(share=1.0, **settings):
    """Return what a service gets of the server, as far as the table looks at it."""
    return SimpleNamespace(
        log=logging.getLogger("sam"),
        settings=Settings(**settings),
        server=SimpleNamespace(auth_mode="api_key", caller_share=share, max_pixels=1_000_000),
        run_process=None,
        stopping=asyncio.Event(),
        held=ResourceIds().of_kind("sam"),
    )


@pytest.fixture
def served():
    """The scripted model."""
    return Served()


@pytest.fixture
async def sessions(served):
    """The table, while its server runs."""
    ctx = context(max_sessions=2)
    async with VideoSessions(ctx, served, Sources()) as table:
        yield table


async def test_one_caller_has_a_share_of_the_sessions(served):
    """Whoever has its share is refused, also while sessions are being opened; others not."""
    async with VideoSessions(context(share=0.5, max_sessions=4), served, Sources()) as table:
        asked = [StartRequest(session_id=name, video_path="/v") for name in "abc"]
        opened = await asyncio.gather(
            *(table.start(each, "key:one") for each in asked), return_exceptions=True
        )
        refused = [str(each) for each in opened if isinstance(each, Unavailable)]
        assert refused == ["Maximum concurrent sessions of one caller reached (2)"]
        await table.start(StartRequest(session_id="d", video_path="/v"), "key:another")
        assert len(table) == 3


async def test_a_failed_session_can_be_reset(sessions, served):
    """When the model fails the session is in error: nothing but reset and close is served."""
    await sessions.start(ASKED)
    session = sessions.get("a", OWNER)
    served.model.failure = MataError("The model failed: RuntimeError")
    with pytest.raises(MataError, match="The model failed"):
        await session.call("prompt")
    assert sessions.status("a", OWNER).status == "error"
    served.model.failure = None
    with pytest.raises(Conflict, match="has failed: reset or close it"):
        await session.call("prompt")
    assert await session.call("reset", repair=True) == (2, SessionUsage())
    assert sessions.status("a", OWNER).status == "ready"


async def test_a_failed_propagation_is_an_error_too(sessions, served):
    """Frames before the failure are told, then the session is in error; it can be closed."""
    await sessions.start(ASKED)
    served.model.failure = MataError("Out of memory", status=507)
    steps = sessions.get("a", OWNER).propagate(PropagateRequest())
    seen = [(await anext(steps)).frame_index for _ in range(2)]
    with pytest.raises(MataError, match="Out of memory"):
        await anext(steps)
    status = sessions.status("a", OWNER)
    assert (seen, status.status, status.frames_processed) == ([0, 1], "error", 2)
    assert status.gpu_memory_used_mb == 7.0
    assert served.gpu_memory == [(0, 1, 9)]  # for the gauges, also without any image
    assert (await sessions.close("a", OWNER)).memory_freed_mb == 5.0
    assert served.held == 0


async def test_a_client_that_leaves_while_its_video_opens(sessions, served):
    """A start whose client is gone leaves nothing: not in the worker, not in the table."""
    served.model.go_on.clear()
    starting = asyncio.create_task(sessions.start(ASKED))
    while not served.model.asked:
        await asyncio.sleep(0)
    with pytest.raises(Conflict, match="exists already"):
        await sessions.start(ASKED)
    starting.cancel()
    served.model.go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert served.model.asked == ["open", "close"]
    assert (len(sessions), served.held) == (0, 0)
    await sessions.start(ASKED)


async def test_a_session_is_closed_while_it_opens(sessions, served):
    """Who gave a session its name may end it without the answer to its start; nothing is left."""
    served.model.go_on.clear()
    starting = asyncio.create_task(sessions.start(ASKED))
    while not served.model.asked:
        await asyncio.sleep(0)
    closing = asyncio.create_task(sessions.close("a", OWNER))
    await asyncio.sleep(0)
    served.model.go_on.set()
    await starting
    assert (await closing).status == "closed"
    assert served.model.asked == ["open", "close"]
    assert (len(sessions), served.held) == (0, 0)


async def test_other_front_ends_know_a_chosen_name_from_its_start_on(served):
    """A chosen name is told while its video opens, and no more when that fails."""
    ctx, names = context(), ResourceIds()
    ctx.held = names.of_kind("sam")
    async with VideoSessions(ctx, served, Sources()) as table:
        served.model.go_on.clear()
        served.model.failure = MataError("Out of memory", status=507)
        starting = asyncio.create_task(table.start(ASKED))
        while not served.model.asked:
            await asyncio.sleep(0)
        assert set(names.announced) == {"sam:a"}
        served.model.go_on.set()
        with pytest.raises(MataError, match="Out of memory"):
            await starting
        assert not names.announced


async def test_each_caller_names_its_own_sessions(sessions, served):
    """Two callers may choose the same name: each has its own session, also in the worker."""
    one, other = Caller("key:one"), Caller("key:other")
    for caller in (one, other):
        await sessions.start(ASKED, caller.id)
    assert [sessions.get("a", caller).owner for caller in (one, other)] == [one.id, other.id]
    assert len(set(served.model.opened)) == 2
    with pytest.raises(Conflict, match="Several callers have a session a"):
        await sessions.close("a", ADMIN)
    await sessions.close("a", one)
    with pytest.raises(NotFound):
        sessions.get("a", one)
    assert sessions.status("a", one).status == "closed"
    assert sessions.get("a", ADMIN).owner == other.id
    await sessions.close("a", other)
    await sessions.start(ASKED, other.id)
    assert sessions.status("a", one).status == "closed"  # not forgotten for the namesake
    assert sessions.status("a", other).status == "ready"


async def test_an_administrator_s_own_session_comes_first(sessions):
    """Who closes a session twice does not close that of another caller with the same name."""
    await sessions.start(ASKED, "key:one")
    await sessions.start(ASKED, ADMIN.id)
    assert (await sessions.close("a", ADMIN)).status == "closed"
    with pytest.raises(NotFound):
        await sessions.close("a", ADMIN)
    assert sessions.status("a", ADMIN).status == "closed"
    assert sessions.get("a", Caller("key:one")).owner == "key:one"


async def test_an_administrator_s_session_that_is_being_opened_comes_first(sessions, served):
    """Until it is open, an administrator finds none of that name; closing waits for no other."""
    one = Caller("key:one")
    await sessions.start(ASKED, one.id)
    served.model.go_on.clear()
    starting = asyncio.create_task(sessions.start(ASKED, ADMIN.id))
    while len(served.model.asked) < 2:
        await asyncio.sleep(0)
    for find in (sessions.get, sessions.status):
        with pytest.raises(NotFound):
            find("a", ADMIN)
    served.model.go_on.set()
    await starting
    await sessions.close("a", one)
    served.model.go_on.clear()
    again = asyncio.create_task(sessions.start(ASKED, one.id))
    while served.model.asked.count("open") < 3:
        await asyncio.sleep(0)
    closing = asyncio.create_task(sessions.close("a", ADMIN))
    while served.model.asked[-1] != "close":  # and the other is still being opened
        await asyncio.sleep(0)
    served.model.go_on.set()
    assert (await closing).status == "closed"
    await again
    assert sessions.get("a", one).owner == one.id


async def test_a_close_goes_on_without_its_client(sessions, served):
    """A session whose close nobody waits for any more is closed all the same, and only once."""
    await sessions.start(ASKED)
    served.model.go_on.clear()
    closing = [asyncio.create_task(sessions.close("a", OWNER)) for _ in range(2)]
    while "close" not in served.model.asked:
        await asyncio.sleep(0)
    with pytest.raises(Conflict, match="is busy"):
        await sessions.get("a", OWNER).call("prompt")
    closing[0].cancel()
    served.model.go_on.set()
    assert (await closing[1]).status == "closed"
    assert served.model.asked == ["open", "close"]
    with pytest.raises(NotFound):
        await sessions.close("a", OWNER)


async def test_a_replaced_worker_has_none_of_the_sessions(sessions, served):
    """When the worker is another one the sessions are lost, and their places are free."""
    for name in ("a", "b"):
        await sessions.start(StartRequest(video_path="/video", session_id=name))
    with pytest.raises(Unavailable, match="Maximum concurrent sessions"):
        await sessions.start(StartRequest(video_path="/video"))
    served.loaded_at = 2.0
    assert sessions.all() == []
    assert sessions.status("a", OWNER).status == "error"
    with pytest.raises(NotFound, match="Session a is lost"):
        sessions.get("a", OWNER)
    await sessions.start(ASKED)
    assert sessions.status("a", OWNER).status == "ready"
    assert served.held == 1


async def test_ended_sessions_are_forgotten_at_last(sessions):
    """The status of a session that ended can be asked for, until many others have ended."""
    for number in range(MAX_ENDED + 1):
        await sessions.start(StartRequest(video_path="/video", session_id=f"s{number}"))
        await sessions.close(f"s{number}", OWNER)
    assert sessions.status(f"s{MAX_ENDED}", OWNER).status == "closed"
    assert sessions.status("s1", OWNER).status == "closed"
    with pytest.raises(NotFound):
        sessions.status("s0", OWNER)


async def test_a_server_that_stops_closes_every_session(served):
    """At the end of the server no session is left in the worker."""
    ctx = context()
    async with VideoSessions(ctx, served, Sources()) as table:
        await table.start(ASKED)
        await table.start(StartRequest(video_path="/video", session_id="b"))
    assert served.model.asked == ["open", "open", "close", "close"]
    assert served.held == 0
