"""A plugin's code that waits for what was cancelled: it fails, and is not taken for cancelled."""

from __future__ import annotations

import asyncio
import logging

import pytest

from api_answers import until
from conftest import picture
from mataserver.app.deadline import finish_by
from mataserver.plugin_ends import LostWaitError, ends_as_errors
from mataserver.testing import serving
from plugin_sources import plugin_fixture  # noqa: F401 - the fixture "plugin"
from service_plugins import PREAMBLE

PNG = picture()
LOST = """
import asyncio
from mataserver import SessionSource

async def lost():
    task = asyncio.create_task(asyncio.sleep(60))
    await asyncio.sleep(0)
    task.cancel()
    await task

class Service(Base):
    def routes(self):
        return [
            Route("GET", "/lost/handler", self.handler, needs="infer"),
            Route("POST", "/lost/task", self.begin, needs="infer"),
        ]

    async def handler(self, request):
        await lost()

    async def begin(self, request):
        self.ctx.tasks.spawn(lost(), "wait")
        return web.Response()

    async def authenticate(self, credentials):
        if credentials.secret == "lost":
            await lost()

    async def on_result(self, event):
        self.note(event.model)
        await lost()

    async def session_source(self, source, fps):
        return SessionSource(self.frames, "lost")

    async def frames(self):
        yield await lost()
"""
CLAIMS = """
import sys

class Service(Base):
    def routes(self):
        return [Route("GET", "/claims/own", self.handler, needs="infer")]

    async def handler(self, request):
        return web.Response()

    def claims(self, request):
        {act}
"""
SERVICE_STOPS = """
import asyncio

class Service(Base):
    async def __aenter__(self):
        raise asyncio.CancelledError
"""


@pytest.fixture
async def lost(plugin, mata_client, fake_models):
    """A client of a server whose service waits for what was cancelled."""
    point = plugin(LOST, name="lost", preamble=PREAMBLE)
    return await mata_client(point, engine="thread", observe_infer=True)


async def test_a_handler(lost, caplog):
    """It is answered as any that fails; the log says whose fault it is."""
    answer = await lost.get("/lost/handler")
    assert (answer.status, await answer.json()) == (500, {"detail": "Internal server error"})
    (record,) = [each for each in caplog.records if each.levelno == logging.ERROR]
    assert record.getMessage().startswith("GET /lost/handler failed")
    assert "something that it waited for was cancelled" in caplog.text
    assert "plugin_under_test" in caplog.text


@pytest.mark.undocumented("the plugin that authenticates fails")
async def test_authenticate(lost):
    """The request that it was asked about is answered with an error."""
    headers = {"Authorization": "Bearer lost"}
    assert (await lost.get("/v1/models", headers=headers)).status == 500
    assert (await lost.get("/v1/models")).status == 200


async def test_a_background_task(lost):
    """It has failed, as ``GET /ready`` says; it ended without a word."""
    assert (await lost.post("/lost/task")).status == 200

    async def failed():
        tasks = (await (await lost.get("/ready")).json()).get("failed_tasks", {})
        return tasks == {"lost: wait": "LostWaitError"}

    await until(failed)


async def test_on_result(lost, mata_data_dir):
    """It receives the next result, too."""
    for _ in range(2):
        assert (await lost.post("/v1/infer?model=fake-detect", data=PNG)).status == 200

    async def received():
        written = mata_data_dir / "events"
        return written.exists() and written.read_text().split() == ["fake-detect"] * 2

    await until(received)


async def test_frames_of_a_source(lost):
    """The camera is shown as failed, and opened again; it stood still for ever."""
    body = {"model": "fake-detect", "source": "lost://1"}
    session = await (await lost.post("/v1/sessions", json=body)).json()
    path = f"/v1/stream/{session['session_id']}?token=test-key"
    async with lost.ws_connect(path) as socket:
        said = await socket.receive_json()
    assert "it has failed" in said["detail"]


async def test_a_service_that_cannot_start(plugin, tmp_path, fake_models):
    """The error names the plugin, as for any other exception."""
    point = plugin(SERVICE_STOPS, name="stops", preamble=PREAMBLE)
    with pytest.raises(LostWaitError) as raised:
        async with serving(tmp_path, entry_points=[point]):
            pass
    assert "the service of stops failed" in raised.value.__notes__[0]


@pytest.mark.parametrize(
    "act",
    ["raise KeyError", "return 7", "sys.exit(3)", "raise __import__('asyncio').CancelledError"],
)
async def test_claims_that_fail_take_no_request(plugin, mata_client, caplog, act):
    """They are asked about every request: the others' are answered, and the log names the plugin.

    It does so once, with where.
    """
    point = plugin(CLAIMS.format(act=act), name="claims", preamble=PREAMBLE)
    client = await mata_client(point)
    for path in ("/v1/models", "/v1/health", "/claims/own", "/docs"):
        assert (await client.get(path)).status == 200, path
    assert (await client.get("/nothing")).status == 404
    (record,) = [each for each in caplog.records if "claims()" in each.getMessage()]
    assert record.getMessage() == "claims() of the plugin claims failed"
    assert record.exc_info


async def test_a_real_cancellation_stays_one():
    """A task that is cancelled ends as one, whatever it does."""

    async def work():
        with ends_as_errors():
            await asyncio.sleep(60)

    task = asyncio.create_task(work())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_who_took_no_time_is_not_blamed(caplog):
    """After the deadline, which one clean-up used up, the others still end."""
    ended = []

    async def end():
        for _ in range(3):
            await asyncio.sleep(0)
        ended.append(True)

    passed = asyncio.get_running_loop().time() - 1
    await finish_by(passed, "what hangs", asyncio.Event().wait())
    await finish_by(passed, "the rest", end())
    assert ended
    assert [each.getMessage() for each in caplog.records] == ["what hangs did not end in time"]
