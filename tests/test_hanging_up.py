"""Requests whose body nobody waits for: refused before it is sent, or too slow to come."""

from __future__ import annotations

import asyncio

import pytest

from api_answers import answer, connection, detail_of, head_of
from conftest import POINTS
from mataserver import testing
from service_plugins import folder, plugin

pytestmark = pytest.mark.long

__all__ = ["folder", "plugin"]

LINGERING = 9.0
"""Seconds in which a connection must have ended: less than aiohttp waits for a body by itself."""

JPEG = "Content-Type: image/jpeg"
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
KEYS = [([], 401), (["Authorization: Bearer wrong"], 403)]
ECHO = """
class Service(Base):
    def routes(self):
        return [web.post("/v1/echo", self.echo)]

    async def echo(self, request):
        return web.Response(body=await request.read())
"""

CLAIMING = """
class Service(Base):
    def claims(self, request):
        return self.echo if request.path.startswith("/claimed/") else None

    async def echo(self, request):
        return web.Response(body=await request.read())
"""


def expecting(path, *headers, length=5):
    """Return the head of a POST that waits to be asked for its body."""
    lines = [f"POST {path} HTTP/1.1", "Host: x", f"Content-Length: {length}", *headers]
    return "\r\n".join([*lines, "Expect: 100-continue", "", ""]).encode()


async def ended(reader):
    """Read to the end of a connection; return what came."""
    async with asyncio.timeout(LINGERING):
        return await reader.read()


@pytest.mark.parametrize(("key", "status"), KEYS)
@pytest.mark.parametrize("path", ["/v1/infer", "/v2/models/fake-detect/infer", "/v1/echo"])
async def test_a_stranger_is_not_asked_for_a_body(plugin, folder, path, key, status):
    """Without an accepted key ``Expect`` is answered 401 or 403 at once, also by a plugin."""
    points = [*POINTS, plugin(ECHO)]
    async with (
        testing.serving(folder, entry_points=points, engine="thread") as server,
        connection(server) as (reader, writer),
    ):
        writer.write(expecting(path, *key))
        got, headers, body = await answer(reader)
        assert (got, headers["connection"]) == (status, "close")
        assert b"key" in body or b"Authorization" in body
        assert headers["x-request-id"]


@pytest.mark.parametrize("fast", [True, False])
async def test_nobody_is_asked_for_a_body_that_no_route_reads(data_dir, fast):
    """``Expect`` where there is no such path or method is answered 404 or 405 at once."""
    cases = {"/v1/nowhere": 404, "/v1/models": 405, "/v1/nowhere/": 404}
    async with testing.serving(data_dir, engine="thread", short_way=fast) as server:
        for path, status in cases.items():
            for length in (5, 99_999_999):
                head = expecting(path, "Authorization: Bearer test-key", length=length)
                await hung_up(server, head, status)


async def test_a_service_that_claims_a_path_asks_for_the_body(plugin, folder):
    """Requests that a service claims before routing need no route: 100, then its answer."""
    points = [*POINTS, plugin(CLAIMING)]
    async with (
        testing.serving(folder, entry_points=points, engine="thread") as server,
        connection(server) as (reader, writer),
    ):
        writer.write(expecting("/claimed/this"))
        assert await reader.readexactly(len(CONTINUE)) == CONTINUE
        writer.write(b"hello")
        status, _, said = await answer(reader)
        assert (status, said) == (200, b"hello")


async def test_who_shows_a_key_is_asked_for_the_body(plugin, folder):
    """With the key ``Expect`` is answered 100, then the request: on a plugin's route too."""
    key = "Authorization: Bearer test-key"
    async with (
        testing.serving(folder, entry_points=[plugin(ECHO)], engine="thread") as server,
        connection(server) as (reader, writer),
    ):
        for body in (b"hello", b"again"):
            writer.write(expecting("/v1/echo", key))
            assert await reader.readexactly(len(CONTINUE)) == CONTINUE
            writer.write(body)
            status, _, said = await answer(reader)
            assert (status, said) == (200, body)


async def test_refusals_of_expectations_are_counted(server, http):
    """A stranger's ``Expect`` is a request like any other: the metrics hold it."""
    async with connection(server) as (reader, writer):
        writer.write(expecting("/v1/infer"))
        assert (await answer(reader))[0] == 401
    async with http.get("/metrics") as response:
        told = await response.text()
    counted = 'mataserver_requests_total{method="POST",route="/v1/infer",status="401"} 1.0'
    assert counted in told


async def test_who_is_hung_up_on_does_not_keep_the_connection(data_dir, caplog):
    """After 408, and after 401 to ``Expect``, the connection ends soon though the body is owed."""
    slow = [JPEG, "Content-Length: 100"], [JPEG, "Transfer-Encoding: chunked"]
    async with testing.serving(data_dir, engine="thread", body_timeout=0.2) as server:
        sent = [(head_of(server, "/v1/infer?model=fake-detect", *head), 408) for head in slow]
        sent.append((expecting("/v1/infer"), 401))
        await asyncio.gather(*(hung_up(server, head, status) for head, status in sent))
    assert not [record for record in caplog.records if record.exc_info]


async def hung_up(server, head, status):
    """Send a head and no body: the answer must have that status, and end the connection."""
    async with connection(server) as (reader, writer):
        writer.write(head)
        got, headers, body = await answer(reader)
        assert (got, headers["connection"]) == (status, "close")
        assert detail_of(body)
        assert await ended(reader) == b""


async def test_a_client_that_sends_on_reads_why_it_was_refused(server):
    """Who sends the body unasked is read for a while, so that the answer reaches it."""
    body = bytes(3_000_000)
    async with connection(server) as (reader, writer):
        writer.write(expecting("/v1/infer", length=len(body)) + body)
        assert (await answer(reader))[0] == 401
