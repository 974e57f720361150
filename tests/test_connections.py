"""How many connections are open at a time, and what happens without file descriptors."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import resource

import aiohttp

from api_answers import answer, connection, detail_of, head_of, until
from mataserver import testing
from mataserver.http import connection_limit
from mataserver.http.connection_limit import DescriptorReserve
from mataserver.logs import RateLimitedLog
from mataserver.testing.fakes import FAKE
from open_files import few_descriptors
from service_plugins import folder, plugin

__all__ = ["folder", "plugin"]

HEALTH = "/v1/health"


async def asked(server, reader, writer) -> int:
    """Ask for the health on an open connection; return the status."""
    writer.write(head_of(server, HEALTH, method="GET"))
    return (await answer(reader))[0]


async def test_one_connection_too_many_is_told(data_dir, caplog):
    """Over the limit a connection is 503 and closed, others go on; one line of the log says so."""
    async with (
        testing.serving(data_dir, engine="thread", max_connections=2) as server,
        connection(server) as first,
        connection(server) as second,
    ):
        assert [await asked(server, *each) for each in (first, second)] == [200, 200]
        for _ in range(5):
            async with connection(server) as (reader, writer):
                writer.write(head_of(server, HEALTH, method="GET"))
                status, headers, body = await answer(reader)
                assert (status, detail_of(body)) == (503, "Too many connections are open")
                assert (headers["retry-after"], headers["connection"]) == ("1", "close")
                assert await reader.read() == b""
        assert await asked(server, *first) == 200
        second[1].close()

        async def served() -> bool:
            async with connection(server) as (reader, writer):
                return await asked(server, reader, writer) == 200

        await until(served)
    lines = [each.message for each in caplog.records if "refused" in each.message]
    assert lines == ["a connection was refused: 2 are open"]


async def test_refused_connections_do_not_pile_up(data_dir):
    """Of many that are refused at once some are told why, and the others cut off: none stays."""
    async with (
        testing.serving(data_dir, engine="thread", max_connections=1) as server,
        connection(server) as first,
    ):
        assert await asked(server, *first) == 200
        port = int(server.url.rpartition(":")[2])
        opened = [await asyncio.open_connection("127.0.0.1", port) for _ in range(60)]
        told = 0
        async with asyncio.timeout(connection_limit.LINGER_SECONDS + 5):
            for reader, writer in opened:
                with contextlib.suppress(ConnectionError):
                    told += b"503" in await reader.read()
                writer.close()
        assert connection_limit.MAX_LINGERING <= told < 60
        assert await asked(server, *first) == 200


def test_the_limit_leaves_files_to_others():
    """By default connections take what the process may open, less what everything else needs."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        for limit, expected in ((1_024, 768), (400, 300), (4_096, 3_840)):
            resource.setrlimit(resource.RLIMIT_NOFILE, (min(limit, hard), hard))
            assert connection_limit.default_limit() == expected
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@contextlib.contextmanager
def without_descriptors():
    """Take every file descriptor that the process may still open."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken = [os.open(os.devnull, os.O_RDONLY)]
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(taken) + 40, hard))
    try:
        with contextlib.suppress(OSError):
            while True:
                taken.append(os.dup(taken[0]))
        yield
    finally:
        for each in taken:
            os.close(each)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def test_a_worker_that_finds_no_descriptor_is_503(data_dir, caplog):
    """A load without descriptors is 503 without a traceback, and works once there are some."""
    async with (
        testing.serving(data_dir, engine="process") as server,
        aiohttp.ClientSession(server.url, headers=server.headers) as http,
    ):
        async with http.get(HEALTH) as response:  # the connection is kept
            assert response.status == 200
        body = {"model": "fake-detect"}
        with without_descriptors():
            async with http.post("/v1/models/warmup", json=body) as response:
                told = await response.json()
                assert (response.status, response.headers["Retry-After"]) == (503, "1")
        assert told == {"detail": "The server is out of file descriptors"}
        assert not [each for each in caplog.records if each.exc_info]

        async def ready() -> bool:
            async with http.post("/v1/models/warmup", json=body) as response:
                return response.status == 200

        await until(ready, 30.0)


async def test_connections_leave_descriptors_whatever_the_limit(data_dir, caplog):
    """Connections end where the files of a model begin, also if the setting permits more."""
    async with contextlib.AsyncExitStack() as stack:
        stack.enter_context(few_descriptors(120))
        server = await stack.enter_async_context(
            testing.serving(data_dir, engine="process", max_connections=1_000)
        )
        http = await stack.enter_async_context(
            aiohttp.ClientSession(server.url, headers=server.headers)
        )
        async with http.get(HEALTH) as response:  # the connection is kept
            assert response.status == 200
        statuses = []
        while 503 not in statuses:  # OSError (out of descriptors) fails the test
            each = await stack.enter_async_context(connection(server))
            statuses.append(await asked(server, *each))
        assert statuses == [200] * (len(statuses) - 1) + [503]
        async with http.post("/v1/models/warmup", json={"model": "fake-detect"}) as response:
            assert response.status == 200, await response.text()
    [line] = [each.message for each in caplog.records if "refused" in each.message]
    assert "ulimit -n" in line


async def test_repeated_refusals_are_one_line_with_a_count(caplog):
    """The first refusal is logged at once, those of the same kind together as one line a second."""
    limited = RateLimitedLog(logging.getLogger("mataserver.test"), 0.2)
    for number in range(1_000):
        limited.warn("full", f"POST /{number}: full")
    limited.warn("other", "GET /: other")
    await asyncio.sleep(0.7)
    limited.warn("full", "POST /later: full")
    assert [each.message for each in caplog.records] == [
        "POST /0: full",
        "GET /: other",
        "POST /999: full (999 of these in 0.2 s)",
        "POST /later: full",
    ]


PNG = {"Content-Type": "image/png"}


async def test_refusals_of_requests_are_counted_in_the_log(data_dir, caplog):
    """A server that refuses many requests in a second writes one line at once, not one for each."""
    async with (
        testing.serving(data_dir, engine="thread", max_sessions=1) as server,
        aiohttp.ClientSession(server.url, headers=server.headers) as http,
    ):
        statuses = []
        for _ in range(20):
            async with http.post("/v1/sessions", json={"model": "fake-detect"}) as response:
                statuses.append(response.status)
        assert statuses == [201] + [503] * 19
        lines = [each.message for each in caplog.records if "concurrent sessions" in each.message]
        assert len(lines) in {1, 2}


async def test_what_has_no_room_is_counted_in_the_log(data_dir, png, caplog):
    """A client that asks for it again and again does not fill the log."""
    async with (
        testing.serving(data_dir, engine="thread") as server,
        aiohttp.ClientSession(server.url, headers=server.headers) as http,
    ):
        query = {"model": "fake-detect", "behave": "memory"}
        for _ in range(20):
            async with http.post("/v1/infer", params=query, data=png, headers=PNG) as response:
                assert response.status == 507, await response.text()
    lines = [each for each in caplog.records if each.name == "mataserver.http"]
    assert len(lines) in {1, 2}


PORTS = """
from mataserver import RpcPort

class Service(Base):
    async def __aenter__(self):
        self.ports = [RpcPort(self.ctx.server, self.ctx.stopping, 0) for _ in range(2)]
        for port in self.ports:
            await port.__aenter__()
        return self

    async def __aexit__(self, *exc):
        for port in self.ports:
            await port.__aexit__(*exc)
"""


async def accepted(folder, points):
    """Return how many connections a server accepts, and how many its gRPC ports may have."""
    async with contextlib.AsyncExitStack() as stack:
        stack.enter_context(few_descriptors(300))
        serving = testing.serving(folder, entry_points=points, max_connections=5_000)
        server = await stack.enter_async_context(serving)
        count = 0
        while await asked(server, *await stack.enter_async_context(connection(server))) == 200:
            count += 1
        return count, sum(server.composed.server_settings.rpc_connections)


async def test_http_leaves_the_descriptors_of_grpc(plugin, folder):
    """The library of gRPC asks nobody: what its ports may take is not given to others."""
    without, none = await accepted(folder, [FAKE])
    count, others = await accepted(folder, [FAKE, plugin(PORTS)])
    assert none == 0 < others < 300
    # Both ends of a connection are here, and at least half of what is left to them is not taken.
    assert count <= without - others // 4


def test_grpc_leaves_http_some_descriptors(monkeypatch):
    """Also where its ports may take more than are free when the server begins to listen."""
    monkeypatch.setattr(connection_limit, "_open_files_limit", lambda: 256)
    monkeypatch.setattr(DescriptorReserve, "_next", lambda _: 166)
    assert not DescriptorReserve(0, others=96).is_reached()
