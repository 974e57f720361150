"""Bodies that come later than their heads, of those who may not ask any more by then."""

from __future__ import annotations

import asyncio
import contextlib

import aiohttp
import pytest

from api_answers import answer
from conftest import POINTS
from mataserver import Principal, testing
from mataserver.http.revocation import MAX_REMEMBERED, Revocations
from service_plugins import folder, plugin

__all__ = ["folder", "plugin"]

KEY = "script-key"
GENEROUS = 20.0
OWN = """
import asyncio

from msgspec import Struct

from mataserver import PRINCIPAL, Route

class Told(Struct):
    name: str

class Service(Base):
    done, others = (), ()

    def routes(self):
        ways = (self.told, self.form, self.saved, self.pieces, self.later)
        over = Route("POST", "/v1/over", self.over, needs="admin")
        named = ((f"/v1/{way.__name__}", self.noted(way)) for way in ways)
        return [over, *(Route("POST", path, way, needs="infer") for path, way in named)]

    def noted(self, way):
        async def handler(request):
            self.who = request[PRINCIPAL].id
            await way(request)
            self.done = (*self.done, way.__name__)
            return web.Response()
        return handler

    async def told(self, request):
        async with self.ctx.http.read_json(request, Told):
            pass

    async def form(self, request):
        async with self.ctx.http.read_form(request):
            pass

    async def saved(self, request):
        await self.ctx.http.save_body(request, self.ctx.data_dir / "saved")

    async def pieces(self, request):
        async for piece in self.ctx.http.read_chunks(request):
            pass

    async def later(self, request):
        while not self.others:
            await asyncio.sleep(0.01)
        await self.told(request)

    async def over(self, request):
        self.others = request.query.getall("others", ())
        for each in (self.who, *self.others):
            self.ctx.sign_out(each)
        return web.json_response(self.done)
"""
JSON = ("application/json", b'{"name": "a"}')
FORM = (
    "multipart/form-data; boundary=limit",
    b'--limit\r\nContent-Disposition: form-data; name="file"\r\n\r\nbytes\r\n--limit--\r\n',
)
WAYS = {"told": JSON, "form": FORM, "saved": JSON, "pieces": JSON}


@pytest.fixture
async def server(plugin, folder):
    """A server with the service, and a key that may do little."""
    keys = ["test-key", {"key": KEY, "name": "script", "scopes": ["infer"]}]
    points = [*POINTS, plugin(OWN)]
    async with testing.serving(folder, entry_points=points, engine="thread", api_keys=keys) as made:
        yield made


@contextlib.asynccontextmanager
async def begun(server, way, sent=None):
    """Give a connection that has sent a request but for the last byte; and that byte."""
    host, port = server.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    kind, body = sent or WAYS[way]
    head = f"POST /v1/{way} HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {KEY}\r\n"
    head += f"Content-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n"
    writer.write(head.encode() + body[:-1])
    try:
        async with asyncio.timeout(GENEROUS):
            while not server.composed.lifecycle.active:
                await asyncio.sleep(0.01)
        yield reader, writer, body[-1:]
    finally:
        writer.close()


async def over(server, *others):
    """Have what the key's request showed count no more, then others; return what was done."""
    asked = [("others", each) for each in others]
    async with (
        aiohttp.ClientSession(server.url, headers=server.headers) as http,
        http.post("/v1/over", params=asked) as response,
    ):
        return await response.json()


@pytest.mark.parametrize("way", WAYS)
async def test_nothing_is_done_with_it(server, way):
    """It is refused at once, before the rest of it has come: the head alone was judged."""
    async with begun(server, way) as (reader, writer, last):
        await over(server)
        async with asyncio.timeout(GENEROUS):
            status, _, said = await answer(reader)
        writer.write(last)
    assert (status, b"what you showed counts no more" in said.lower()) == (401, True)
    assert await over(server) == []


async def test_nothing_is_done_with_one_that_is_read_later(server):
    """A handler that waits for something else first learns of it when it reads the body."""
    async with begun(server, "later", JSON) as (reader, writer, last):
        writer.write(last)
        await over(server, "key:of-another", "key:of-a-third")
        async with asyncio.timeout(GENEROUS):
            status, _, said = await answer(reader)
    assert (status, b"what you showed counts no more" in said.lower()) == (401, True)
    assert await over(server) == []


def test_more_revocations_than_are_remembered():
    """A principal of which it is not known any more whether it was revoked is refused."""
    grants, one = Revocations(), Principal("key:one", "one", "key", frozenset())
    before = grants.total
    for _ in range(MAX_REMEMBERED):
        grants.end_all("key:another")
    assert not grants.is_revoked_since(one, before)
    grants.end_all("key:another")
    assert grants.is_revoked_since(one, before)
    assert not grants.is_revoked_since(one, grants.total)


@pytest.mark.parametrize("way", WAYS)
async def test_who_may_ask_still_is_answered(server, way):
    """A body may come as late as it likes."""
    async with begun(server, way) as (reader, writer, last):
        writer.write(last)
        async with asyncio.timeout(GENEROUS):
            assert (await answer(reader))[0] == 200
    assert await over(server) == [way]
