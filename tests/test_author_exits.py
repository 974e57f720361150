"""A plugin's code that calls ``sys.exit``, as a program does: it fails, and ends no server."""

from __future__ import annotations

import logging

import aiohttp
import pytest

from api_answers import until
from conftest import picture
from mataserver.config import Settings
from mataserver.contract.backend import ModelFiles
from mataserver.plugins import discover
from mataserver.serving.engine_set import EngineSet
from mataserver.testing import serving
from plugin_sources import plugin_fixture  # noqa: F401 - the fixture "plugin"
from service_plugins import PREAMBLE

PNG = picture()
EXITS = """
import sys
from mataserver import SessionSource

class Service(Base):
    def __init__(self, ctx):
        super().__init__(ctx)
        self.entered = False

    def routes(self):
        return [
            Route("GET", "/exits/handler", self.handler, needs="infer"),
            Route("GET", "/exits/thread", self.thread, needs="infer"),
            Route("GET", "/exits/socket", self.talk, needs="infer", socket=True),
            Route("POST", "/exits/task", self.begin, needs="infer"),
        ]

    async def handler(self, request):
        sys.exit(3)

    async def thread(self, request):
        await self.ctx.run_blocking(sys.exit, "usage: ...")

    async def talk(self, request):
        async with self.ctx.http.socket(request) as socket:
            async for _ in socket:
                sys.exit()

    async def begin(self, request):
        self.ctx.tasks.spawn(self.exit(), "leave")
        self.ctx.tasks.spawn(self.exit, "leave again")
        return web.Response()

    async def exit(self):
        sys.exit(4)

    async def authenticate(self, credentials):
        if credentials.secret == "leave":
            sys.exit(5)

    async def on_result(self, event):
        sys.exit(7)

    async def session_source(self, source, fps):
        return SessionSource(self.frames, "exits")

    async def frames(self):
        yield sys.exit(8)

    def ping(self):
        sys.exit(9)

    def ready(self):
        sys.exit(10)

    def pages(self):
        sys.exit(11)

    def error_forms(self):
        return {"/formed": lambda status, detail: sys.exit(12)}

    async def __aexit__(self, *exc):
        sys.exit(13)
"""
SERVICE_STOPS = """
import sys

class Service(Base):
    async def __aenter__(self):
        sys.exit(3)
"""
BACKEND = """
import sys

def leaves(files, settings=None):
    sys.exit(3)

@hookimpl
def backends():
    return [backend(source="local", accepts={accepts}, facts={facts}, parts={parts})]
"""
ENGINE = """
import sys
from mataserver import EngineSpec

class Leaving:
    async def start(self, assignment, placement):
        sys.exit(3)

    async def close(self):
        sys.exit(4)

    waiting = property(lambda self: sys.exit(5))

@hookimpl
def engines():
    return [EngineSpec(name="leaving", make=lambda ctx: Leaving())]

@hookimpl
def backends():
    return [backend()]
"""


@pytest.fixture
async def exits(plugin, mata_client, fake_models):
    """A client of a server whose service exits wherever it is called."""
    point = plugin(EXITS, name="exits", preamble=PREAMBLE)
    return await mata_client(point, engine="thread", observe_infer=True)


@pytest.mark.parametrize("name", ["handler", "thread"])
async def test_a_handler(exits, caplog, name):
    """It is answered as any that fails; the log has the call and its traceback."""
    answer = await exits.get(f"/exits/{name}")
    assert (answer.status, await answer.json()) == (500, {"detail": "Internal server error"})
    (record,) = [each for each in caplog.records if each.levelno == logging.ERROR]
    assert record.getMessage().startswith(f"GET /exits/{name} failed")
    assert ("sys.exit(3) was called" in caplog.text) is (name == "handler")
    assert (await exits.get("/v1/models")).status == 200


async def test_a_socket(exits):
    """It is closed, and the server takes the next one."""
    for _ in range(2):
        async with exits.ws_connect("/exits/socket") as socket:
            await socket.send_str("leave")
            assert (await socket.receive()).type in {
                aiohttp.WSMsgType.CLOSE,
                aiohttp.WSMsgType.CLOSED,
            }


@pytest.mark.undocumented("the plugin that authenticates fails")
async def test_whoever_is_asked_about_a_request(exits):
    """``authenticate`` fails the request that it was asked about."""
    headers = {"Authorization": "Bearer leave"}
    assert (await exits.get("/v1/models", headers=headers)).status == 500
    assert (await exits.get("/v1/models")).status == 200


async def test_what_adds_to_the_servers_own_answers(exits):
    """They are answered without that plugin's part."""
    for path in ("/health", "/ready", "/v1/pages"):
        answer = await exits.get(path)
        assert answer.status == 200, path
    answer = await exits.get("/formed/nothing")
    assert (answer.status, await answer.json()) == (404, {"detail": "Not found"})


async def test_background_tasks(plugin, mata_client):
    """They have failed, as ``GET /ready`` says."""
    source = EXITS.replace("    def ready(self):\n        sys.exit(10)\n", "")
    client = await mata_client(plugin(source, name="exits", preamble=PREAMBLE))
    assert (await client.post("/exits/task")).status == 200

    async def failed():
        tasks = (await (await client.get("/ready")).json()).get("failed_tasks", {})
        return tasks == {"exits: leave": "ExitError", "exits: leave again": "ExitError"}

    await until(failed)


async def test_on_result(exits, caplog):
    """The answer has left, and so do those after it."""
    for _ in range(2):
        answer = await exits.post("/v1/infer?model=fake-detect", data=PNG)
        assert answer.status == 200

    async def told():
        return (
            "on_result() of the plugin exits failed: ExitError: sys.exit(7) was called"
            in caplog.text
        )

    await until(told)


async def test_the_frames_of_a_source(exits):
    """Who looks is told that the source has failed."""
    asked = {"model": "fake-detect", "source": "feed"}
    session = await (await exits.post("/v1/sessions", json=asked)).json()
    async with exits.ws_connect(f"/v1/stream/{session['session_id']}") as socket:
        said = await socket.receive_json()
    assert said == {"type": "error", "detail": "The camera gives no frames: it has failed"}


async def test_a_service_that_exits_as_it_starts(plugin, tmp_path):
    """The server does not start, and the error names the plugin."""
    point = plugin(SERVICE_STOPS, name="exits", preamble=PREAMBLE)
    with pytest.raises(RuntimeError, match="was called") as caught:
        async with serving(tmp_path / "data", entry_points=[point]):
            raise AssertionError
    assert caught.value.__notes__ == ["The server cannot start: the service of exits failed to."]


@pytest.mark.parametrize("function", ["accepts", "facts", "parts"])
def test_functions_of_a_backend(plugin, function):
    """``accepts`` and ``parts`` that exit serve nothing, and of ``facts`` none are told."""
    given = {"accepts": "accepts", "facts": "None", "parts": "None"} | {function: "leaves"}
    found = discover(Settings(), [plugin(BACKEND.format(**given))])
    files = ModelFiles("any", "local", None, {"model_type": "any"})
    served = found.find_backend(files, "classify")
    assert (served is not None) is (function == "facts")
    assert found.rejection_reason(files, "classify") is None
    if served is not None:
        assert served.facts(files) == {}


@pytest.mark.parametrize("replicas", [1, 2])
async def test_an_engine(plugin, mata_client, fake_models, replicas):
    """A model that it should start is 500, the server says so, and ends in order."""
    models = [{"model": "any", "task": "classify", "engine": "leaving", "replicas": replicas}]
    client = await mata_client(plugin(ENGINE), models=models)
    answer = await client.post("/v1/infer?model=any", data=PNG)
    assert (answer.status, await answer.json()) == (
        500,
        {"detail": "The model could not be loaded"},
    )
    ready = await client.get("/ready")
    assert (ready.status, (await ready.json())["waiting"]) == (
        503,
        {"engine leaving": "it does not say what it waits for"},
    )


def test_an_engine_that_cannot_be_made(plugin):
    """It stops the start as one that raises does."""
    source = ENGINE.replace("lambda ctx: Leaving()", "lambda ctx: sys.exit(6)")
    found = discover(Settings(), [plugin(source)])
    with pytest.raises(Exception, match="the engine leaving cannot start: SystemExit: 6"):
        EngineSet(Settings(engine="leaving"), found, None).get("leaving")
