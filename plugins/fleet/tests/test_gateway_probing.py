"""What a gateway asks servers by itself: what they answer is bounded."""

from __future__ import annotations

import aiohttp
import pytest
from aiohttp import web

from mataserver_fleet.gateway.probes import Prober
from mataserver_fleet.gateway.resolving import AddressResolver
from mataserver_fleet.gateway.servers import Servers
from mataserver_fleet.gateway.snapshot import Target

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
