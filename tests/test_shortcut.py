"""The short way of requests and answers: a client cannot tell it from aiohttp's own."""

from __future__ import annotations

import asyncio

import pytest

from conftest import FAKES, register
from mataserver import testing
from mataserver.http import fast_routing
from odd_requests import LAST, REQUESTS, VARYING, request
from service_plugins import plugin

__all__ = ["plugin"]

SERVICE = """
class Service(Base):
    def routes(self):
        return [Route("GET", "/answers", self.answer, needs="any")]

    def claims(self, request):
        return self.claimed if request.rel_url.raw_path.startswith("/claimed/") else None

    async def claimed(self, request):
        assert isinstance(request.app, web.Application)
        if request.path.endswith("fault"):
            raise BadRequest("A fault")
        return web.Response(text=request.path + (await request.text()), headers={"X-Own": "1"})

    async def answer(self, request):
        assert isinstance(request.app, web.Application)
        path = request.match_info.route.resource.canonical
        answer = self.ctx.http.respond({"path": path, "variables": dict(request.match_info)})
        if request.query:
            answer.set_cookie("name", "value")
            answer.enable_compression()
        return answer
"""


async def told(url: str, asked: bytes) -> bytes:
    """Return all that is answered, without what differs from time to time."""
    host, port = url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(asked + LAST)
    answer = await asyncio.wait_for(reader.read(), 30)
    writer.close()
    return VARYING.sub(b"...", answer)


@pytest.mark.parametrize("origins", [[], ["https://a.example"]])
async def test_both_ways_give_the_same_bytes(tmp_path, plugin, origins):
    """Whatever is asked, the short way answers what aiohttp's own would, header by header."""
    found = []
    points = (testing.FAKE, plugin(SERVICE))
    for way in (True, False):
        register(tmp_path / str(way), {f"fake-{task}": task for task in FAKES})
        async with testing.serving(
            tmp_path / str(way),
            entry_points=points,
            engine="thread",
            cors_origins=origins,
            short_way=way,
        ) as served:
            found.append({name: await told(served.url, asked) for name, asked in REQUESTS.items()})
    short, long = found
    assert not {name: (short[name], long[name]) for name in REQUESTS if short[name] != long[name]}
    assert all(answer.startswith(b"HTTP/1.") for answer in short.values())
    assert short["raw"].count(b" 200 ") == 1
    assert short["twice"].count(b" 200 ") == 2


async def test_the_last_answers_of_a_server_say_so_on_the_short_way(server):
    """A server that drains closes a connection behind its answer."""
    host, port = server.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    server.composed.lifecycle.stopping.set()
    writer.write(request("GET", "/v1/models"))
    answer = await asyncio.wait_for(reader.read(), 30)
    assert b"\r\nConnection: close\r\n" in answer
    writer.close()


def test_only_releases_that_were_tried_are_known():
    """A release of aiohttp that nobody has tried goes its own way."""
    assert fast_routing.is_supported("3.11.0")
    assert fast_routing.is_supported("3.14.5")
    assert not fast_routing.is_supported("3.15.0b1")
    assert not fast_routing.is_supported("4.0")
    assert not fast_routing.is_supported("unknown")
