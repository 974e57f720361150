"""Outbound requests: what is fetched, and every way into the server's own network, refused."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import socket
import threading

import pytest
from aiohttp import web
from aiohttp.abc import AbstractResolver
from aiohttp.test_utils import TestServer

from mataserver.errors import BadRequest, Unavailable
from mataserver.outbound import ANY, Hosts, Outbound, Policy, is_public
from mataserver.resolving import MAX_CONCURRENT, SystemResolver

MEGABYTE = 1_000_000
REDIRECTS = 5
DATA = bytes(range(256)) * 1_000


class Names(AbstractResolver):
    """A resolver that knows a few names; each question is answered with the next address."""

    def __init__(self, **names):
        self.names = {name.replace("_", "."): list(given) for name, given in names.items()}
        self.asked = []

    async def resolve(self, host, port=0, family=0):
        self.asked.append(host)
        address = self.names[host].pop(0)
        return [
            {"hostname": host, "host": address, "port": port, "family": 2, "proto": 0, "flags": 4}
        ]

    async def close(self):
        pass


class Origin:
    """A server on the loopback that has a video, and ways that lead elsewhere or nowhere."""

    def __init__(self):
        self.seen = []
        self._stop = asyncio.Event()
        app = web.Application()
        for handler in (
            self.video,
            self.endless,
            self.silent,
            self.leads,
            self.loop,
            self.squeezed,
        ):
            app.router.add_get(f"/{handler.__name__}", handler)
        self._server = TestServer(app)

    async def __aenter__(self):
        await self._server.start_server()
        return self

    async def __aexit__(self, *exc):
        self._stop.set()
        await self._server.close()

    @property
    def port(self):
        return self._server.port

    def url(self, path):
        return str(self._server.make_url(path))

    async def video(self, request):
        self.seen.append("/video")
        return web.Response(body=DATA)

    async def endless(self, request):
        response = web.StreamResponse()
        await response.prepare(request)
        with contextlib.suppress(ConnectionError):
            while not self._stop.is_set():
                await response.write(DATA)
        return response

    async def silent(self, request):
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b"begin")
        await self._stop.wait()
        return response

    async def leads(self, request):
        self.seen.append("/leads")
        raise web.HTTPFound(request.query["to"])

    async def loop(self, request):
        self.seen.append("/loop")
        raise web.HTTPFound("/loop")

    async def squeezed(self, request):
        return web.Response(body=DATA, headers={"Content-Encoding": "gzip"})


EVERY = Hosts.of([ANY])
PUBLIC = Hosts()


async def fetch(url, target, hosts=EVERY, resolver=None, **limits):
    """Write what a URL names into a file; everywhere unless told otherwise."""
    policy = Policy("url", **{"max_bytes": MEGABYTE, "redirects": REDIRECTS, **limits})
    outbound = Outbound(hosts, resolver or SystemResolver())
    async with outbound.request("GET", url, policy) as response:
        assert response.status == 200, response.status
        await response.save(target)


async def fetched(server, path, target, **chosen):
    """Download a path of the test's own server."""
    await fetch(server.url(path), target, **chosen)
    return target.read_bytes()


async def test_a_video_is_written(tmp_path):
    """What the URL names ends up in the file, also behind a relative and an absolute redirect."""
    async with Origin() as server:
        assert await fetched(server, "/video", tmp_path / "a") == DATA
        assert await fetched(server, "/leads?to=/video", tmp_path / "b") == DATA
        there = server.url("/video")
        assert await fetched(server, f"/leads?to={there}", tmp_path / "c") == DATA


async def test_a_name_is_resolved(tmp_path):
    """A name is looked up once for each connection, and the connection goes where it was told."""
    names = Names(videos_example=["127.0.0.1", "127.0.0.1"])
    async with Origin() as server:
        url = f"http://videos.example:{server.port}/leads?to=/video"
        await fetch(url, tmp_path / "a", resolver=names)
    assert (tmp_path / "a").read_bytes() == DATA
    assert names.asked == ["videos.example", "videos.example"]


@pytest.mark.parametrize("path", ["/video", "/endless"])
async def test_large_videos_are_refused(tmp_path, path):
    """Whether the server says so before or never, no more is written than the limit."""
    async with Origin() as server:
        with pytest.raises(BadRequest, match=r"larger than 0\.1 MB"):
            await fetched(server, path, tmp_path / "a", max_bytes=100_000)
    assert not (tmp_path / "a").exists() or (tmp_path / "a").stat().st_size <= 100_000


async def test_slow_downloads_end(tmp_path):
    """A server that falls silent is given up after the time limit."""
    async with Origin() as server:
        with pytest.raises(BadRequest, match=r"no complete answer within 0\.2 s"):
            await fetched(server, "/silent", tmp_path / "a", timeout=0.2)


async def test_redirects_end(tmp_path):
    """A redirect to itself is followed a few times."""
    async with Origin() as server:
        with pytest.raises(BadRequest, match="more than 5 redirects"):
            await fetched(server, "/loop", tmp_path / "a")
        assert len(server.seen) == REDIRECTS + 1


async def test_errors_of_the_other_server(tmp_path):
    """What is compressed or cannot be connected to is a bad request."""
    async with Origin() as server:
        with pytest.raises(BadRequest, match="compressed"):
            await fetched(server, "/squeezed", tmp_path / "a")
        url = server.url("/video")
    with pytest.raises(BadRequest, match="does not answer"):
        await fetch(url, tmp_path / "a")


class Lost(Names):
    """A resolver that finds nothing."""

    async def resolve(self, host, port=0, family=0):
        raise OSError("no such name")


@pytest.mark.parametrize(
    ("scheme", "answer", "error"),
    [
        ("http", b"", "url: the address does not answer"),
        ("http", b"+PONG\r\n", "url: its answer is not valid HTTP"),
        ("http", b"HTTP/1.1 200 OK\r\nX: %s\r\n\r\n" % (b"x" * 100_000), "not valid HTTP"),
        ("https", b"HTTP/1.1 400 Bad Request\r\n\r\n", "the address does not speak TLS"),
    ],
)
async def test_why_there_is_no_answer(tmp_path, scheme, answer, error):
    """A server that speaks something else is not told to be away."""

    async def serve(reader, writer):
        await reader.read(1)
        writer.write(answer)
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(BadRequest, match=error):
            await fetch(f"{scheme}://127.0.0.1:{port}/", tmp_path / "a")


async def test_a_name_that_nobody_has(tmp_path):
    """It is told as such, also where it was known when the address was stored."""
    with pytest.raises(BadRequest, match="url: the host was not found"):
        await fetch("http://gone.example/", tmp_path / "a", resolver=Lost())


async def test_a_full_disk_is_not_the_clients_fault(tmp_path):
    """A file that cannot be written is the server's trouble."""
    async with Origin() as server:
        with pytest.raises(Unavailable, match="cannot be stored"):
            await fetched(server, "/video", tmp_path / "missing" / "a")


UNREADABLE = ["", "video.mp4", "ftp://example.com/a", "file:///etc/passwd", "http://", "http://[::"]


@pytest.mark.parametrize("url", UNREADABLE)
async def test_what_is_no_web_address(tmp_path, url):
    """Only http and https are spoken."""
    with pytest.raises(BadRequest, match="url"):
        await fetch(url, tmp_path / "a")


LITERALS = [
    "127.0.0.1",
    "127.1",
    "2130706433",
    "0x7f000001",
    "[::1]",
    "[::ffff:127.0.0.1]",
    "localhost",
    "localhost.",
    "0.0.0.0",
    "1.2.3.4.5",
    "user:password@127.0.0.1",
]


@pytest.mark.parametrize("host", LITERALS)
async def test_the_loopback_is_refused_however_it_is_written(tmp_path, host):
    """No spelling of the loopback reaches a server that listens there."""
    async with Origin() as server:
        with pytest.raises(BadRequest, match="url"):
            await fetch(f"http://{host}:{server.port}/video", tmp_path / "a", PUBLIC)
        assert server.seen == []


async def test_names_of_private_addresses_are_refused(tmp_path):
    """A public name that resolves to the loopback is refused, and nothing is sent there."""
    names = Names(videos_example=["127.0.0.1"])
    async with Origin() as server:
        url = f"http://videos.example:{server.port}/video"
        with pytest.raises(BadRequest, match="only public addresses"):
            await fetch(url, tmp_path / "a", PUBLIC, names)
        assert server.seen == []


FIRST = Hosts.of(["127.0.0.1/32"])
"""Lets 127.0.0.1 stand for a public address; the whole of 127.0.0.0/8 is the loopback."""


@pytest.mark.parametrize("host", ["127.0.0.2", "inside.example", "[::1]"])
async def test_redirects_are_checked(tmp_path, host):
    """A redirect from an allowed server to a forbidden address or name is not followed."""
    names = Names(inside_example=["127.0.0.2"])
    async with Origin() as server:
        with pytest.raises(BadRequest, match="only public addresses"):
            await fetched(
                server,
                f"/leads?to=http://{host}:{server.port}/video",
                tmp_path / "a",
                hosts=FIRST,
                resolver=names,
            )
        assert server.seen == ["/leads"]


async def test_a_name_that_changes_its_mind_gains_nothing(tmp_path):
    """The connection goes to the address that was checked: a name is not looked up again."""
    names = Names(videos_example=["127.0.0.1", "127.0.0.2"])
    async with Origin() as server:
        url = f"http://videos.example:{server.port}/video"
        await fetch(url, tmp_path / "a", FIRST, names)
        assert names.asked == ["videos.example"]
        with pytest.raises(BadRequest, match="only public addresses"):
            await fetch(url, tmp_path / "a", FIRST, names)
        assert server.seen == ["/video"]


async def test_names_that_nobody_answers_for_hold_up_nobody_else(monkeypatch):
    """The event loop's own threads stay free; so many are asked at a time, and the others late."""
    door, asked, real = threading.Event(), [], socket.getaddrinfo

    def waits(host, *rest, **options):
        asked.append(host)
        if host == "silent.example":
            door.wait(30)
            raise socket.gaierror("no answer")
        return real("127.0.0.1", *rest, **options)

    monkeypatch.setattr(socket, "getaddrinfo", waits)
    outbound, policy = Outbound(EVERY), Policy("url", timeout=0.5)

    async def check(name):
        return await outbound.check(f"http://{name}/", policy)

    try:
        silent = [asyncio.create_task(check("silent.example")) for _ in range(MAX_CONCURRENT + 5)]
        assert await asyncio.wait_for(asyncio.to_thread(lambda: 1), 20) == 1
        found = await asyncio.gather(*silent, return_exceptions=True)
        assert {type(each) for each in found} == {BadRequest}
        assert asked == ["silent.example"] * MAX_CONCURRENT
        with pytest.raises(
            BadRequest, match="host was not found"
        ):  # none is free before it is told
            await check("there.example")
    finally:
        door.set()
    async with asyncio.timeout(20):
        while True:
            with contextlib.suppress(BadRequest):
                assert await check("there.example") == ("127.0.0.1",)
                return


ADDRESSES = {
    "8.8.8.8": True,
    "127.0.0.1": False,
    "10.1.2.3": False,
    "172.16.0.1": False,
    "192.168.1.1": False,
    "169.254.169.254": False,
    "100.64.0.1": False,
    "192.0.0.192": False,
    "192.88.99.1": False,
    "3fff::1": False,
    "0.0.0.0": False,
    "224.0.0.1": False,
    "240.0.0.1": False,
    "255.255.255.255": False,
    "2606:4700::1111": True,
    "::1": False,
    "::": False,
    "fe80::1": False,
    "fc00::1": False,
    "fec0::1": False,
    "ff02::1": False,
    "::ffff:8.8.8.8": True,
    "::ffff:10.0.0.1": False,
    "64:ff9b::808:808": True,
    "64:ff9b::7f00:1": False,
    "2002:808:808::": True,
    "2002:7f00:1::": False,
    "::7f00:1": False,
}


@pytest.mark.parametrize(("address", "public"), ADDRESSES.items(), ids=ADDRESSES)
def test_which_addresses_are_public(address, public):
    """Private ones are not, nor IPv6 addresses that stand for private IPv4 ones."""
    assert is_public(ipaddress.ip_address(address)) is public


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("http://there.example/", "only public addresses"),
        ("http://nowhere.example/", "the host was not found"),
        ("http://127.0.0.1/", "only public addresses"),
        ("http://[::1]/", "only public addresses"),
        ("http://0x7f.1/", "host was not found|only public addresses"),
        ("ftp://there.example/", "only http and https"),
        ("http://a:b@there.example/", "a user or a password"),
        ("http://[/", "not a URL"),
    ],
)
async def test_an_address_is_looked_at_beforehand(url, told):
    """What a request would not ask is refused before there is one; nobody is connected to."""

    class Known(Names):
        async def resolve(self, host, port=0, family=0):
            if host not in self.names:
                raise OSError("no such name")
            return await super().resolve(host, port, family)

    outbound = Outbound(PUBLIC, Known(there_example=["10.0.0.1"]))
    with pytest.raises(BadRequest, match=told):
        await outbound.check(url, Policy("webhook"))
    public = Outbound(PUBLIC, Known(there_example=["93.184.216.34"]))
    found = await public.check("http://there.example:8080/x?y", Policy("webhook"))
    assert found == ("93.184.216.34",)
    assert await public.check("http://[2606:4700::1]:80/", Policy()) == ("2606:4700::1",)
