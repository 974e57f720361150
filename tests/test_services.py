"""Services: a plugin's routes, state, start-up and shutdown, and its way to the models."""

from __future__ import annotations

import logging
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from mataserver.plugins import PluginError
from mataserver.testing import FAKE, serving
from own_processes import descendants
from service_plugins import LAB, folder, plugin

__all__ = ["folder", "plugin"]


@pytest.fixture
async def server(plugin, folder, mata_server):
    """A server with the lab's service."""
    return await mata_server(plugin(LAB), data_dir=folder, engine="thread")


@pytest.fixture
async def http(server, mata_client):
    """A client with the server's key."""
    return await mata_client(server=server)


async def read(http, path, **options):
    """Return status and decoded answer of a GET."""
    async with http.get(path, **options) as answer:
        return answer.status, await answer.json()


# routes


async def test_routes_are_served(http):
    """A REST route of a service answers, with the plugin's settings at hand."""
    assert await read(http, "/v1/lab/you") == (200, {"said": "hello you"})


async def test_settings_reach_the_service(plugin, mata_client):
    """``plugins.<name>`` of the configuration is ``Context.settings``."""
    http = await mata_client(plugin(LAB), plugins={"lab": {"greeting": "moin"}})
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


async def test_a_websocket_takes_the_key_in_its_url(server):
    """A browser cannot set the header: ``?token=`` counts for a WebSocket, and nothing else."""
    async with aiohttp.ClientSession(server.url) as stranger:
        async with stranger.ws_connect(f"/v1/lab?token={server.key}") as socket:
            await socket.send_str("hello")
            assert (await socket.receive(timeout=10)).data == "HELLO"
        for token, status in (("wrong", 403), ("", 401)):
            with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
                await stranger.ws_connect(f"/v1/lab?token={token}")
            assert refused.value.status == status
        assert (await read(stranger, f"/v1/lab/you?token={server.key}"))[0] == 401


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


@pytest.mark.parametrize("reply", ["1 / 0", "['no', 'mapping', 'at', 'all']", "{'x': object()}"])
async def test_a_failing_ping_leaves_health_alone(plugin, mata_client, reply, caplog):
    """A ``ping()`` that raises or returns what is no JSON is logged, and ``/health`` answers."""
    source = f"class Service(Base):\n    def ping(self): return {reply}"
    http = await mata_client(plugin(source))
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
        "routes() gave a str, not a mataserver.Route",
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
    "a method beside all of them": (
        """
        class Service(Base):
            def routes(self):
                return [web.route('*', '/v1/lab', print), web.get('/v1/lab', print)]
        """,
        "exists already: GET /v1/lab",
    ),
    "a method twice, in small letters": (
        """
        class Service(Base):
            def routes(self):
                return [Route('get', '/v1/lab', print), web.get('/v1/lab', print)]
        """,
        "exists already: GET /v1/lab",
    ),
    "a path that is none": (
        "class Service(Base):\n    def routes(self): return [Route('GET', 'v1/lab', print)]",
        "its route cannot be served: GET v1/lab: path should be started with /",
    ),
    "a variable that is none": (
        "class Service(Base):\n    def routes(self): return [Route('GET', '/v1/{lab', print)]",
        "its route cannot be served: GET /v1/{lab: Invalid path",
    ),
    "a variable twice": (
        "class Service(Base):\n    def routes(self): return [Route('GET', '/{a}/{a}', print)]",
        "its route cannot be served: GET /{a}/{a}: Bad pattern",
    ),
    "a method that is none": (
        "class Service(Base):\n    def routes(self): return [Route('GE T', '/v1/lab', print)]",
        "its route cannot be served: GE T /v1/lab: GE T is not allowed HTTP method",
    ),
    "a handler that is none": (
        "class Service(Base):\n    def routes(self): return [Route('GET', '/v1/lab', 5)]",
        "its route cannot be served: GET /v1/lab: 5",
    ),
    "an answer without a schema": (
        """
        class Service(Base):
            def routes(self):
                own = (Body('application/json', Base),)
                return [Route('GET', '/v1/lab', print, 'A lab', response=own)]
        """,
        "its routes cannot be described: ",
    ),
    "a status that there is not": (
        """
        class Service(Base):
            def routes(self):
                return [Route('GET', '/v1/lab', print, 'A lab', errors=(299,))]
        """,
        "its routes cannot be described: 299 is not a valid HTTPStatus",
    ),
    "forms of errors that are none": (
        "class Service(Base):\n    def error_forms(self): return {'lab': print}",
        "error_forms() must give functions by prefix, not 'lab'",
    ),
    "forms of errors that fail": (
        "class Service(Base):\n    def error_forms(self): return 1 / 0",
        "ZeroDivisionError: division by zero",
    ),
}

HEAD_AND_GET = """
class Service(Base):
    def routes(self):
        told = {"response": (Body("text/plain"),), "answer_headers": {"By": "Which of both."}}
        own = [
            Route("GET", "/v1/lab/{x}", self.get, "A lab", needs="any", **told),
            Route("HEAD", "/v1/lab/{y}", self.head, needs="any"),
        ]
        return [each for each in own if each.method in self.methods]

    async def get(self, request):
        return web.Response(text="1", headers={"By": "get"})

    async def head(self, request):
        return web.Response(headers={"By": "head"})
"""


@pytest.mark.parametrize(
    "methods",
    [("GET HEAD",), ("GET", "HEAD"), ("HEAD", "GET")],
    ids=["one plugin", "GET first", "HEAD first"],
)
async def test_a_declared_head_counts_before_that_of_a_get(plugin, folder, methods):
    """A GET with an answer answers HEAD by itself, unless some service declares that HEAD."""
    points = [
        plugin(f"{HEAD_AND_GET}    methods = {each.split()}", name=f"lab{index}")
        for index, each in enumerate(methods)
    ]
    async with (
        serving(folder, entry_points=points) as server,
        aiohttp.ClientSession(server.url, headers=server.headers) as http,
    ):
        assert not [each for each in (await read(http, "/v1/plugins"))[1] if "error" in each]
        async with http.head("/v1/lab/1") as answer:
            assert (answer.status, answer.headers["By"]) == (200, "head")
        async with http.get("/v1/lab/1") as answer:
            assert (answer.status, answer.headers["By"]) == (200, "get")


SENDING = """
class Service(Base):
    def routes(self):
        lines = (Body("text/plain"),)
        return [Route("GET", "/v1/lab", self.lines, "Lines", response=lines, needs="any")]

    async def lines(self, request):
        response = web.StreamResponse(headers={"Content-Type": "text/plain", **self.own})
        await response.prepare(request)
        await response.write(b"1")
        return response
"""


@pytest.mark.parametrize("own", [{}, {"X-Request-Id": "own", "Server-Timing": "first;dur=1"}])
async def test_an_answer_that_a_handler_sends_itself(plugin, folder, own):
    """It has the headers of every answer, of which those that the handler set are kept."""
    sent = {"X-Request-Id": "mine"}
    async with (
        serving(folder, entry_points=[plugin(f"{SENDING}    own = {own}")]) as server,
        aiohttp.ClientSession(server.url, headers=server.headers) as http,
        http.get("/v1/lab", headers=sent) as answer,
    ):
        assert await answer.read() == b"1"
        assert answer.headers["X-Request-Id"] == own.get("X-Request-Id", "mine")
        timing = own.get("Server-Timing", "total;dur=")
        assert answer.headers["Server-Timing"].startswith(timing)


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
        found = server.composed.plugins
        assert found.found[1].error == "its route exists already: GET /v1/lab/{other}"
        assert found.pip_backend("other") is None
        assert found.pip_backend("lab") is not None


async def test_who_is_not_admitted_is_out_of_use(plugin, folder):
    """A service may look at the others before the server listens: one it refuses is told why."""
    judge = """
    from mataserver import Conflict

    class Service(Base):
        def routes(self):
            return []

        def admits(self, name, service):
            if getattr(service, "noisy", False):
                raise Conflict(f"{name} is too noisy")
    """
    noisy = """
    class Service(Base):
        noisy = True

        def routes(self):
            return [web.get("/v1/noise", self.make)]

        async def make(self, request):
            return web.Response()
    """
    points = [plugin(noisy, name="a"), plugin(judge, name="b"), plugin(LAB, name="c")]
    async with serving(folder, entry_points=points) as server:
        found = {each.name: each.error for each in server.composed.plugins.found}
        assert found == {"a": "a is too noisy", "b": None, "c": None}
        async with aiohttp.ClientSession(server.url, headers=server.headers) as http:
            assert (await read(http, "/v1/lab/you"))[0] == 200
            assert (await read(http, "/v1/noise"))[0] == 404


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
    """When a service cannot start, it is named, those before it end and no worker is left."""
    before = descendants()
    points = [FAKE, plugin(HOLDER, name="a"), plugin(FAILING, name="b")]
    with pytest.raises(RuntimeError, match="cannot start") as failed:
        async with serving(folder, entry_points=points, engine="process"):
            pass
    assert "the service of b failed" in failed.value.__notes__[0]
    assert (folder / "events").read_text().split() == ["+holder", "loaded", "-holder"]
    assert descendants() == before


async def test_a_held_model_is_let_go_at_the_end(plugin, folder):
    """A service that holds a model while the server runs leaves no worker process behind."""
    before = descendants()
    points = [FAKE, plugin(HOLDER)]
    async with serving(folder, entry_points=points, engine="process"):
        assert len(descendants()) > len(before)
    assert descendants() == before


# context


async def test_the_context_is_small_and_typed(server, folder, tmp_path):
    """A service gets its settings, the models, metrics, a log, a directory, and no application."""
    service = server.service("lab")
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


READER = """
class Order(Struct, frozen=True):
    dish: str
    count: int = 1

class Service(Base):
    def routes(self):
        return [web.post("/v1/order", self.order)]

    async def order(self, request):
        async with self.ctx.http.read_json(request, Order) as order:
            return web.json_response({"said": f"{order.count} {order.dish}"})
"""
ORDERS = {
    "sound": (b'{"dish": "soup", "count": 2}', "application/json", 200, "2 soup"),
    "no JSON": (b"{", "application/json", 400, "not valid JSON"),
    "no object": (b"[]", "application/json", 422, "expected `object`"),
    "a wrong type": (b'{"dish": 5}', "application/json", 422, "dish: expected `str`"),
    "a field missing": (b"{}", "application/json", 422, "dish: field is required"),
    "another content type": (b"{}", "text/plain", 415, "Content-Type must be application/json"),
    "another charset": (b"{}", "application/json; charset=utf-16", 415, "said to be utf-16"),
    "its own charset": (b'{"dish": "soup"}', 'application/json; charset="UTF-8"', 200, "1 soup"),
    "too large": (b" " * 2_000, "application/json", 413, "over the limit of 1000 bytes"),
}


@pytest.mark.parametrize("order", ORDERS.values(), ids=ORDERS)
async def test_a_service_reads_json_within_the_servers_limits(
    plugin, mata_server, mata_client, order
):
    """``read_json`` decodes strictly, keeps to the limits, and gives its bytes back."""
    body, kind, status, said = order
    server = await mata_server(plugin(READER), max_body_mb=0.001)
    http = await mata_client(server=server)
    async with http.post("/v1/order", data=body, headers={"Content-Type": kind}) as answer:
        assert (answer.status, said in await answer.text()) == (status, True)
        assert server.composed.budget.taken == 0


async def test_a_metric_that_fails_is_left_out(plugin, mata_client, caplog):
    """All others are exposed, the plugin's and the server's; the log says where it failed."""
    source = """
    from mataserver import LoopHistogram
    from prometheus_client import Gauge
    from prometheus_client.core import GaugeMetricFamily

    class Own:
        def __init__(self, name, label, value):
            self.family = GaugeMetricFamily(name, "Is odd.", labels=["camera"])
            self.family.add_metric([label], value)

        def collect(self):
            yield self.family

    class Service(Base):
        def __init__(self, ctx):
            ctx.metrics.register(Own("lab_number", 3, 1.0))
            ctx.metrics.register(Own("lab_word", "yard", "many"))
            ctx.metrics.set_target_info({"site": "lab"})
            waits = LoopHistogram("lab_waits", "Waits.", ("camera",))
            ctx.metrics.register(waits)
            waits.observe(0.1, 3)
            Gauge("lab_broken", "Fails.", registry=ctx.metrics).set_function(lambda: 1 / 0)
            Gauge("lab_sound", "Does not.", registry=ctx.metrics).set(3)
            removed = Gauge("lab_removed", "Is gone.", registry=ctx.metrics)
            ctx.metrics.unregister(removed)
    """
    http = await mata_client(plugin(source))
    async with http.get("/metrics") as answer:
        told = await answer.text()
    assert answer.status == 200
    assert "lab_sound 3.0" in told
    assert 'target_info{site="lab"} 1.0' in told
    assert 'lab_waits_count{camera="3"} 1.0' in told
    assert "lab_number" not in told
    assert "lab_word" not in told
    assert "mataserver_models_loaded 0.0" in told
    assert "lab_broken" not in told
    assert "lab_removed" not in told
    assert "a metric is left out: its Gauge failed" in caplog.text
    assert "ZeroDivisionError" in caplog.text


async def test_metrics_of_a_service_are_exposed(plugin, mata_client):
    """A metric that a service registers stands in ``GET /metrics``."""
    source = """
    from prometheus_client import Counter

    class Service(Base):
        def __init__(self, ctx):
            Counter("lab_visits", "Visits.", registry=ctx.metrics).inc(3)
    """
    http = await mata_client(plugin(source))
    async with http.get("/metrics") as answer:
        assert "lab_visits_total 3.0" in await answer.text()
