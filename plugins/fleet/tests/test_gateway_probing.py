"""What a gateway asks servers by itself: what they answer is bounded."""

from __future__ import annotations

import asyncio

import aiohttp
import pytest
from aiohttp import web
from gateway_stand import INFER, application, eventually, stand, upstreams  # noqa: F401
from upstreams import Upstream

from mataserver_fleet.gateway.probes import Prober, seconds_until_next
from mataserver_fleet.gateway.resolving import AddressResolver
from mataserver_fleet.gateway.servers import Servers
from mataserver_fleet.gateway.snapshot import Application, Route, Target

PIECE = bytes(1 << 20)


class Anywhere:
    """The rule for addresses: none is refused."""

    async def check_outbound(self, url, _policy):
        return (url,)


@pytest.mark.parametrize("kind", ["triton", "mataserver"])
async def test_a_word_that_has_no_end(aiohttp_server, kind):
    """A server whose answer to whether it is ready has no end is not read on, and is not alive."""
    sent = []

    async def endless(request):
        answer = web.StreamResponse()
        await answer.prepare(request)
        while len(sent) < 4_000:
            await answer.write(PIECE)
            sent.append(1)
        return answer

    application = web.Application()
    application.router.add_get("/{path:.*}", endless)
    served = await aiohttp_server(application)
    target, servers = Target("127.0.0.1", served.port, kind=kind), Servers()
    async with aiohttp.ClientSession() as session:
        probes = Prober(
            servers, session, AddressResolver(Anywhere()), lambda _: False, timeout=20.0
        )
        server = servers.get(target)
        assert not await probes.probe(target, server, "/v2/models/m/versions/1/ready")
        assert (server.missed_probes, server.is_alive) == (1, False)
    assert len(sent) < 40, "megabytes, most of them in the system's buffers"


class Hanging(Upstream):
    """A server that does not answer whether some models are ready, or answers nothing.

    hanging: parts of paths. ``late`` counts what waits.
    """

    def __init__(self):
        super().__init__("hanging")
        self.hanging = set()
        self.late = 0
        self.refusing = False

    async def answer(self, request):
        """Hang, or answer."""
        if any(each in request.path for each in self.hanging):
            self.late += 1
            await asyncio.Event().wait()
        return await super().answer(request)

    async def inferred(self, request):
        """Refuse an inference, if so told."""
        if self.refusing:
            return web.json_response({"error": "a tensor is wrong"}, status=400)
        return await super().inferred(request)


@pytest.fixture
async def hanging():
    """A server that hangs in part."""
    server = Hanging()
    await server.start()
    yield server
    await server.stop()


def two_models(target):
    """Return an application with two models of one server."""
    routes = [Route(name, (f"/v2/models/{name}",), (target,)) for name in ("ants", "bees")]
    return Application("shop", routes=tuple(routes), consumers=frozenset({1}))


async def test_a_model_that_does_not_say_whether_it_is_ready(stand, hanging):  # noqa: F811
    """It is not ready. Its server is neither dead nor doubted, and other models are looked at."""
    target = Target("127.0.0.1", hanging.port)
    server = stand.gateway.servers.get(target)
    stand.follow(two_models(target))
    await eventually(lambda: server.recovered_at == 0.0 and hanging.served)
    hanging.hanging.add("ants")
    ants, bees = (f"/v2/models/{name}/ready" for name in ("ants", "bees"))
    await eventually(lambda: server.unready == {ants})
    hanging.ready.clear()
    await eventually(lambda: server.unready == {ants, bees})
    hanging.ready.add("")
    await eventually(lambda: server.unready == {ants})
    assert (server.is_alive, server.is_suspect, server.missed_probes) == (True, False, 0)
    assert (await stand.ask("/gateway/shop/v2/models/ants/infer"))[0] == 503
    assert (await stand.ask("/gateway/shop/v2/models/bees/infer"))[0] == 200
    hanging.hanging.clear()
    await eventually(lambda: not server.unready)


async def test_a_model_that_does_not_say_once(stand, hanging):  # noqa: F811
    """It stays ready: the gateway may have been too busy to hear the answer."""
    target = Target("127.0.0.1", hanging.port)
    server = stand.gateway.servers.get(target)
    stand.follow(two_models(target))
    await eventually(lambda: server.recovered_at == 0.0 and hanging.served)
    prober = stand.gateway.prober
    await prober.close()  # what a request finds is looked at alone
    hanging.hanging.add("ants")
    path = "/v2/models/ants/ready"
    asking = [prober.probe(target, server, path) for _ in range(5)]
    assert await asyncio.gather(*asking) == [True] * 5
    assert server.serves(path)
    hanging.hanging.clear()
    assert await prober.probe(target, server, path)
    hanging.hanging.add("ants")
    assert [await prober.probe(target, server, path) for _ in range(2)] == [True, None]
    assert not server.serves(path)
    assert await prober.probe(target, server, path + "/unknown") is None
    assert not await prober.says_not_ready(target, server, path)
    assert server.late.keys() == {path}


@pytest.mark.parametrize("path", [INFER, INFER.replace("/infer", "/versions/7/infer")])
async def test_an_answer_whose_server_then_does_not_say(stand, hanging, upstreams, path):  # noqa: F811
    """A refusal is the server's word, unless it says that it has not the model: it says nothing.

    Nobody else is asked the same, whichever version the client names.
    """
    hanging.refusing = True
    target = Target("127.0.0.1", hanging.port, 1e6)
    stand.follow(application(target, Target("127.0.0.1", upstreams[0].port)))
    await stand.ready()
    await stand.gateway.prober.close()  # what a request finds is looked at alone
    server = stand.gateway.servers.get(target)
    hanging.hanging.add("/ready")
    for _ in range(3):
        server.unready.clear()
        assert (await stand.ask(path))[:2] == (400, {"error": "a tensor is wrong"})
    assert (len(hanging.seen), upstreams[0].seen, server.is_alive) == (3, [], True)


async def test_many_who_find_a_server_late(stand, hanging):  # noqa: F811
    """However many probes wait at a time, a server that is late once is not dead."""
    target = Target("127.0.0.1", hanging.port)
    server = stand.gateway.servers.get(target)
    stand.follow(application(target))
    await stand.ready()
    await stand.gateway.prober.close()  # what a request finds is looked at alone
    hanging.hanging.add("/v2/")
    path = "/v2/models/cats/ready"
    asking = [stand.gateway.prober.probe(target, server, path) for _ in range(20)]
    assert await asyncio.gather(*asking) == [None] * 20
    assert (hanging.late >= 20, server.is_suspect, server.is_alive) == (True, True, True)
    assert not await stand.gateway.prober.probe(target, server, path)
    assert not server.is_alive


@pytest.mark.parametrize(
    ("trouble", "seconds"), [(float("-inf"), 1.0), (0.0, 0.25), (10.0, 0.5), (3600.0, 1.0)]
)
def test_how_soon_a_server_in_trouble_is_looked_at_again(trouble, seconds):
    """Soon at first; one that lacks a version that others try out is asked as often as any."""
    assert seconds_until_next(1.0, trouble) == seconds
