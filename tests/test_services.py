"""Services: a plugin's routes, state, start-up and shutdown, and its way to the models."""

from __future__ import annotations

import logging
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from mataserver.testing import serving
from service_plugins import LAB, folder, plugin, read

__all__ = ["folder", "plugin"]


@pytest.fixture
async def server(plugin, folder, mata_server):
    """A server with the lab's service."""
    return await mata_server(plugin(LAB), data_dir=folder, engine="thread")


@pytest.fixture
async def http(server, mata_client):
    """A client with the server's key."""
    return await mata_client(server=server)


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


@pytest.mark.parametrize("path", ["/metrics", "/lab/metrics"])
async def test_a_metric_that_fails_is_left_out(plugin, mata_client, caplog, path):
    """All others are exposed, the plugin's and the server's; the log says where it failed.

    Also on a page of a plugin's own.
    """
    source = """
    from mataserver import LoopHistogram
    from prometheus_client import Gauge, generate_latest
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
            self.ctx = ctx

        def routes(self):
            return [web.get("/lab/metrics", self.page)]

        async def page(self, request):
            return web.Response(body=generate_latest(self.ctx.metrics))
    """
    http = await mata_client(plugin(source))
    async with http.get(path) as answer:
        told = await answer.text()
    assert answer.status == 200
    assert "mataserver_body_bytes_in_flight 0.0" in told
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
