"""Services: a plugin's routes, state, start-up and shutdown, and its way to the models."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.metadata
import itertools
import logging
import textwrap
from pathlib import Path

import aiohttp
import numpy as np
import psutil
import pytest
from aiohttp import web

from conftest import picture, register
from mataserver import app
from mataserver import plugins as plugin_host
from mataserver.errors import InvalidParams, MataError, NotFound, Unavailable
from mataserver.plugins import PluginError
from mataserver.results import Detection, DetectResult
from mataserver.testing import FAKE, serving

_NUMBERS = itertools.count()

PREAMBLE = """
from aiohttp import web
from msgspec import Struct
from mataserver import Backend, BadRequest, Classification, ClassifyResult, hookimpl

class Settings(Struct, frozen=True, forbid_unknown_fields=True):
    greeting: str = "hello"

class Base:
    def __init__(self, ctx):
        self.ctx = ctx

    def note(self, what):
        with (self.ctx.data_dir / "events").open("a") as file:
            file.write(what + " ")

    def routes(self):
        return []

    async def __aenter__(self):
        return self

    async def __aexit__(self, *exc):
        pass

@hookimpl
def settings():
    return Settings

@hookimpl
def service(ctx):
    return Service(ctx)
"""
LAB = """
class Service(Base):
    def routes(self):
        return [web.get("/v1/lab/{name}", self.greet), web.get("/v1/lab", self.socket)]

    async def greet(self, request):
        name = request.match_info["name"]
        if name == "nobody":
            raise BadRequest("nobody is no name")
        if name == "broken":
            raise RuntimeError("secret detail at /some/path")
        return web.json_response({"said": f"{self.ctx.settings.greeting} {name}"})

    async def socket(self, request):
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        async for message in socket:
            await socket.send_str(message.data.upper())
        return socket

    def ping(self):
        return {"lab": "open"}

class Model:
    def __init__(self):
        self.computed = 0
        self.closed = False

    def predict(self, images, params):
        return [ClassifyResult([Classification("any", 1.0)]) for _ in images]

    def numbers(self, stop):
        try:
            for number in range(stop):
                self.computed += 1
                yield number
            raise BadRequest("there are no more numbers")
        finally:
            self.closed = True

    def seen(self):
        return self.computed, self.closed

    def lock(self):
        import threading
        return threading.Lock()

    def _secret(self):
        return "secret"

def load(spec, ctx):
    return Model()

@hookimpl
def backends():
    return [Backend(name="lab", task="classify", source="pip", load=load)]
"""
ENGINES = ["thread", "process"]


@pytest.fixture
def plugin(tmp_path, monkeypatch):
    """Write a service's module and return its entry point."""
    folder = tmp_path / "modules"
    folder.mkdir()
    monkeypatch.syspath_prepend(folder)

    def written(source, name="lab"):
        module = f"service_under_test_{next(_NUMBERS)}"
        (folder / f"{module}.py").write_text(PREAMBLE + textwrap.dedent(source))
        return importlib.metadata.EntryPoint(name, module, plugin_host.GROUP)

    return written


@pytest.fixture
def folder(tmp_path):
    """A data directory with the fake models and the lab's."""
    models = {f"fake-{task}": task for task in ("detect", "segment", "depth", "track", "ocr")}
    register(tmp_path / "data", {**models, "lab": "classify"})
    return tmp_path / "data"


@pytest.fixture
async def server(plugin, folder):
    """A server with the lab's service."""
    async with serving(folder, entry_points=[plugin(LAB)], engine="thread") as served:
        yield served


@pytest.fixture
async def http(server):
    """An HTTP session with the server's key."""
    async with aiohttp.ClientSession(server.url, headers=server.headers) as session:
        yield session


@contextlib.asynccontextmanager
async def models(plugin, folder, engine, **settings):
    """The models as a service sees them, on an engine."""
    points = [FAKE, plugin(LAB)]
    async with serving(folder, entry_points=points, engine=engine, **settings) as served:
        ((_, service),) = served.app[app.STATE].services
        yield service.ctx.models


def children():
    """Return the processes below this one."""
    return psutil.Process().children(recursive=True)


async def read(http, path, **options):
    """Return status and decoded answer of a GET."""
    async with http.get(path, **options) as answer:
        return answer.status, await answer.json()


# routes


async def test_routes_are_served(http):
    """A REST route of a service answers, with the plugin's settings at hand."""
    assert await read(http, "/v1/lab/you") == (200, {"said": "hello you"})


async def test_settings_reach_the_service(plugin, folder):
    """``plugins.<name>`` of the configuration is ``Context.settings``."""
    chosen = {"lab": {"greeting": "moin"}}
    async with (
        serving(folder, entry_points=[plugin(LAB)], plugins=chosen) as server,
        aiohttp.ClientSession(server.url, headers=server.headers) as http,
    ):
        assert await read(http, "/v1/lab/you") == (200, {"said": "moin you"})


async def test_websocket_routes_are_served(http):
    """A WebSocket route of a service answers."""
    async with http.ws_connect("/v1/lab") as socket:
        await socket.send_str("hello")
        assert (await socket.receive(timeout=10)).data == "HELLO"


async def test_routes_need_a_key(server):
    """Without a key a service's routes are as closed as the core's."""
    async with aiohttp.ClientSession(server.url) as stranger:
        assert (await read(stranger, "/v1/lab/you"))[0] == 401
        wrong = {"Authorization": "Bearer wrong"}
        assert (await read(stranger, "/v1/lab/you", headers=wrong))[0] == 403
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            await stranger.ws_connect("/v1/lab")
        assert refused.value.status == 401


async def test_errors_become_the_apis(http, caplog):
    """A ``MataError`` keeps its status and sentence, anything else tells the client nothing."""
    assert await read(http, "/v1/lab/nobody") == (400, {"detail": "nobody is no name"})
    assert await read(http, "/v1/lab/broken") == (500, {"detail": "Internal server error"})
    assert "secret detail" in caplog.text


async def test_ping_is_merged_into_health(http):
    """What ``ping()`` returns stands in ``GET /health`` and not in ``GET /v1/health``."""
    status, health = await read(http, "/health")
    assert (status, health["status"], health["lab"]) == (200, "ok", "open")
    assert "lab" not in (await read(http, "/v1/health"))[1]


@pytest.mark.parametrize("reply", ["1 / 0", "['no', 'mapping', 'at', 'all']"])
async def test_a_failing_ping_leaves_health_alone(plugin, folder, reply, caplog):
    """A ``ping()`` that raises or returns no mapping is logged, and ``/health`` answers."""
    source = f"class Service(Base):\n    def ping(self): return {reply}"
    async with (
        serving(folder, entry_points=[plugin(source)]) as server,
        aiohttp.ClientSession(server.url) as http,
    ):
        status, health = await read(http, "/health")
    assert (status, health["status"]) == (200, "ok")
    assert "ping() of the plugin lab failed" in caplog.text


REFUSED = {
    "raises": ("def Service(ctx): raise RuntimeError('no luck')", "RuntimeError: no luck"),
    "no service": ("def Service(ctx): return 5", "service() must return an object with routes()"),
    "routes raise": (
        "class Service(Base):\n    def routes(self): return 1 / 0",
        "ZeroDivisionError: division by zero",
    ),
    "no route": (
        "class Service(Base):\n    def routes(self): return ['/v1/lab']",
        "routes() gave a str, not an aiohttp RouteDef",
    ),
    "route of the core": (
        "class Service(Base):\n    def routes(self): return [web.get('/health', print)]",
        "already: GET /health",
    ),
    "the same route twice": (
        "class Service(Base):\n    def routes(self): return [web.get('/v1/lab', print)] * 2",
        "exists already: GET /v1/lab",
    ),
    "the same route with another variable": (
        """
        class Service(Base):
            def routes(self):
                return [web.get('/v1/lab/{a}', print), web.get('/v1/lab/{b}', print)]
        """,
        "exists already: GET /v1/lab/{b}",
    ),
}


@pytest.mark.parametrize(("source", "reason"), REFUSED.values(), ids=REFUSED)
async def test_a_broken_service_is_out_of_use_with_its_reason(plugin, folder, source, reason):
    """Whatever is wrong with one service, the server starts and the next service is in use."""
    points = [plugin(source, name="a-broken"), plugin(LAB, name="lab")]
    async with (
        serving(folder, entry_points=points) as server,
        aiohttp.ClientSession(server.url, headers=server.headers) as http,
    ):
        assert await read(http, "/v1/lab/you") == (200, {"said": "hello you"})
        assert (await read(http, "/health"))[1]["status"] == "ok"
        broken, sound = (await read(http, "/v1/plugins"))[1]
    assert reason in broken["error"]
    assert "error" not in sound


async def test_two_services_with_one_route(plugin, folder):
    """The second plugin is refused, and its backends are out of use with it."""
    source = """
    class Service(Base):
        def routes(self):
            return [web.get("/v1/lab/{other}", print)]

    def load(spec, ctx): ...

    @hookimpl
    def backends():
        return [Backend(name="other", task="detect", source="pip", load=load)]
    """
    points = [plugin(LAB, name="first"), plugin(source, name="second")]
    async with serving(folder, entry_points=points) as server:
        found = server.app[app.STATE].plugins
        assert found.found[1].error == "its route exists already: GET /v1/lab/{other}"
        assert found.pip("other") is None
        assert found.pip("lab") is not None


async def test_strict_stops_the_start_at_a_broken_service(plugin, folder):
    """With ``plugins.strict`` a service that cannot be made is an error that names its plugin."""
    point = plugin("def Service(ctx): raise RuntimeError('no luck')")
    with pytest.raises(PluginError, match="plugin lab: RuntimeError: no luck"):
        async with serving(folder, entry_points=[point], plugins={"strict": True}):
            pass


# start and end

ORDERED = """
class Service(Base):
    async def __aenter__(self):
        self.note("+NAME")

    async def __aexit__(self, *exc):
        self.note("-NAME")
"""


async def test_services_end_in_the_reverse_order(plugin, folder):
    """Services are entered by plugin name and left in the opposite order."""
    points = [plugin(ORDERED.replace("NAME", name), name=name) for name in "bca"]
    async with serving(folder, entry_points=points):
        assert (folder / "events").read_text().split() == ["+a", "+b", "+c"]
    assert (folder / "events").read_text().split() == ["+a", "+b", "+c", "-c", "-b", "-a"]


HOLDER = """
import contextlib

class Service(Base):
    async def __aenter__(self):
        self.note("+holder")
        async with contextlib.AsyncExitStack() as stack:
            model = await stack.enter_async_context(self.ctx.models.acquire("fake-detect"))
            self.note(await model.call("echo", "loaded"))
            self.stack = stack.pop_all()

    async def __aexit__(self, *exc):
        await self.stack.aclose()
        self.note("-holder")
"""
FAILING = """
class Service(Base):
    async def __aenter__(self):
        raise RuntimeError("cannot start")

    async def __aexit__(self, *exc):
        self.note("never")
"""


async def test_a_failed_start_is_cleaned_up(plugin, folder):
    """When a service cannot start, those before it end and no worker process is left."""
    before = children()
    points = [FAKE, plugin(HOLDER, name="a"), plugin(FAILING, name="b")]
    with pytest.raises(RuntimeError, match="cannot start"):
        async with serving(folder, entry_points=points, engine="process"):
            pass
    assert (folder / "events").read_text().split() == ["+holder", "loaded", "-holder"]
    assert children() == before


async def test_a_held_model_is_let_go_at_the_end(plugin, folder):
    """A service that holds a model while the server runs leaves no worker process behind."""
    before = children()
    points = [FAKE, plugin(HOLDER)]
    async with serving(folder, entry_points=points, engine="process"):
        assert len(children()) > len(before)
    assert children() == before


# context


async def test_the_context_is_small_and_typed(server, folder, tmp_path):
    """A service gets its settings, the models, metrics, a log, a directory, and no application."""
    ((_, service),) = server.app[app.STATE].services
    context = service.ctx
    assert context.settings.greeting == "hello"
    assert context.log.name == "mataserver.plugin.lab"
    assert isinstance(context.log, logging.Logger)
    assert context.data_dir == folder
    assert await context.run_blocking(Path.exists, folder) is True
    assert not any(isinstance(value, web.Application) for value in vars_of(context))


def vars_of(thing):
    """Return the values of a slotted dataclass."""
    return [getattr(thing, name) for name in type(thing).__slots__]


async def test_metrics_of_a_service_are_exposed(plugin, folder):
    """A metric that a service registers stands in ``GET /metrics``."""
    source = """
    from prometheus_client import Counter

    class Service(Base):
        def __init__(self, ctx):
            Counter("lab_visits", "Visits.", registry=ctx.metrics).inc(3)
    """
    async with (
        serving(folder, entry_points=[plugin(source)]) as server,
        aiohttp.ClientSession(server.url) as http,
        http.get("/metrics") as answer,
    ):
        assert "lab_visits_total 3.0" in await answer.text()


# models


@pytest.mark.parametrize("engine", ENGINES)
async def test_predict_gives_the_models_struct(plugin, folder, engine):
    """The handle's ``predict`` returns the very struct that the model made."""
    async with models(plugin, folder, engine) as at, at.acquire("fake-detect") as model:
        result = await model.predict(picture())
    assert result == DetectResult([Detection("64x48", 0.9, (10.0, 8.0, 30.0, 28.0))])


@pytest.mark.parametrize("engine", ENGINES)
async def test_predict_gives_arrays(plugin, folder, engine):
    """Masks come back as boolean arrays, depth as a float32 array, as the model gave them."""
    async with models(plugin, folder, engine) as at:
        async with at.acquire("fake-segment") as model:
            masked, unmasked = (await model.predict(picture())).segments
        async with at.acquire("fake-depth") as model:
            depth = (await model.predict(picture(), {"normalize": False})).depth_map
    expected = np.zeros((48, 64), bool)
    expected[8:28, 10:30] = True
    assert np.array_equal(masked.mask, expected)
    assert unmasked.mask is not None
    assert not isinstance(unmasked.mask, np.ndarray)
    assert (depth.shape, depth.dtype, depth.max()) == ((48, 64), np.float32, 10.0)


@pytest.mark.parametrize("engine", ENGINES)
async def test_predict_encoded_gives_json(plugin, folder, engine):
    """The handle's ``predict_encoded`` returns each field as JSON bytes."""
    async with models(plugin, folder, engine) as at, at.acquire("fake-detect") as model:
        fields = await model.predict_encoded(picture(), {"confidence": 0.0})
    assert list(fields) == ["detections"]
    assert fields["detections"].startswith(b'[{"label":"64x48","confidence":0.9,"bbox":[10.0,')
    assert b"faint" in fields["detections"]


async def test_params_are_checked_like_a_requests(plugin, folder):
    """Names and ranges of the API hold for services; the model's own params fill the gaps."""
    own = [{"model": "fake-detect", "params": {"confidence": 0.1}}]
    async with (
        models(plugin, folder, "thread", models=own) as at,
        at.acquire("fake-detect") as model,
    ):
        assert len((await model.predict(picture())).detections) == 2
        assert len((await model.predict(picture(), {"confidence": 0.5})).detections) == 1
        with pytest.raises(InvalidParams, match=r"params\.threshold: .*use 'confidence'"):
            await model.predict(picture(), {"threshold": 0.5})
        with pytest.raises(InvalidParams, match=r"params\.confidence"):
            await model.predict_encoded(picture(), {"confidence": 2})
        with pytest.raises(InvalidParams, match="params: expected `object`"):
            await model.predict(picture(), ["confidence"])


@pytest.mark.parametrize("engine", ENGINES)
async def test_failures_reach_the_service(plugin, folder, engine):
    """A refused picture is 400, a failing model 500, and neither text holds a secret."""
    async with models(plugin, folder, engine) as at, at.acquire("fake-detect") as model:
        with pytest.raises(MataError, match="image cannot be decoded") as refused:
            await model.predict(b"no picture")
        with pytest.raises(MataError, match="The model failed: RuntimeError") as failed:
            await model.predict(picture(), {"behave": "raise"})
    assert (refused.value.status, failed.value.status) == (400, 500)


async def test_models_that_cannot_be_acquired(plugin, folder):
    """An unknown model is ``NotFound``, a task that nothing serves ``Unavailable``."""
    async with models(plugin, folder, "thread") as at:
        with pytest.raises(NotFound, match="Model not found: nobody"):
            async with at.acquire("nobody"):
                pass
        with pytest.raises(Unavailable, match="fake-detect for the task ocr"):
            async with at.acquire("fake-detect", "ocr"):
                pass


@pytest.mark.parametrize("engine", ENGINES)
async def test_call_runs_a_public_method(plugin, folder, engine):
    """``call`` gives arguments and result through, whatever process the model lives in."""
    async with models(plugin, folder, engine) as at:
        async with at.acquire("fake-detect") as model:
            value = {"a": [1, np.arange(3)], "b": b"\x00"}
            answer = await model.call("echo", value=value)
        async with at.acquire("lab") as model:
            for name in ("_secret", "nothing", "computed"):
                with pytest.raises(MataError, match="no method") as refused:
                    await model.call(name)
                assert refused.value.status == 404
    assert np.array_equal(answer["a"][1], [0, 1, 2])
    assert answer["b"] == b"\x00"


async def test_a_result_that_cannot_travel(plugin, folder):
    """From a worker process a result that does not pickle is a failure, and the worker lives."""
    async with models(plugin, folder, "process") as at, at.acquire("lab") as model:
        with pytest.raises(MataError, match="something that cannot be sent"):
            await model.call("lock")
        assert await model.call("seen") == (0, False)


@pytest.mark.parametrize("engine", ENGINES)
async def test_stream_gives_every_item(plugin, folder, engine):
    """``stream`` iterates over a generator method to its end, and two streams interleave."""
    async with models(plugin, folder, engine) as at, at.acquire("fake-detect") as model:
        both = model.stream("count", 3), model.stream("count", stop=3)
        items = [await anext(stream) for _ in range(3) for stream in both]
        assert items == [0, 0, 1, 1, 2, 2]
        assert [item async for item in both[0]] == []
        await both[1].aclose()


@pytest.mark.parametrize("engine", ENGINES)
async def test_closing_a_stream_stops_the_work(plugin, folder, engine):
    """After three of a million items nothing more is computed and the generator is closed."""
    async with models(plugin, folder, engine) as at, at.acquire("lab") as model:
        async with contextlib.aclosing(model.stream("numbers", 1_000_000)) as stream:
            items = [await anext(stream) for _ in range(3)]
        assert items == [0, 1, 2]
        assert await model.call("seen") == (3, True)


@pytest.mark.parametrize("engine", ENGINES)
async def test_a_stream_ends_with_the_models_error(plugin, folder, engine):
    """An error of a generator method reaches whoever iterates, after the items before it."""
    async with models(plugin, folder, engine) as at, at.acquire("lab") as model:
        stream = model.stream("numbers", 2)
        assert [await anext(stream), await anext(stream)] == [0, 1]
        with pytest.raises(MataError, match="there are no more numbers") as ended:
            await anext(stream)
        assert ended.value.status == 400


@pytest.mark.parametrize("engine", ENGINES)
async def test_a_held_model_stays_loaded(plugin, folder, engine):
    """With ``keep_alive`` 0 a model goes when its last holder does, and not before."""
    async with models(plugin, folder, engine, keep_alive=0) as at:
        async with at.acquire("lab") as model:
            async with at.acquire("lab"), contextlib.aclosing(model.stream("numbers", 9)) as stream:
                await anext(stream)
            await model.predict(picture())
            assert await model.call("seen") == (1, True)
        while at._pool.loaded():
            await asyncio.sleep(0.01)
        async with at.acquire("lab") as model:
            assert await model.call("seen") == (0, False)
