"""The short way of requests and answers: a client cannot tell it from aiohttp's own."""

from __future__ import annotations

import asyncio
import re

import pytest

from conftest import FAKES, picture, register
from mataserver import testing
from mataserver.http import shortcut
from mataserver.testing.serving import KEY
from service_plugins import plugin

__all__ = ["plugin"]

VARYING = re.compile(
    rb"(?is)(?<=date: )[^\r]+|(?<=request-id: )\w{16}|(?<=content-length: )\d+|(?<=dur=)[\d.]+"
    rb'|(?<=timestamp":)[\d.]+|(?<=timestamp\xcb).{8}|(?<=[_a-z]_at":)[\d.]+|(?<=_used":)[\d.]+'
    rb'|(?<=_mb":)[\d.]+|(?<=_seconds":)[\d.]+|(?<=\r\n)[\da-f]+(?=\r\nevent)'
)
"""Times, what is by chance, and lengths, which the digits of a time may change."""
PICTURE = picture(form="JPEG")
INFER = "/v1/infer?model=fake-detect"
JPEG = ("Content-Type: image/jpeg",)
JSON = ("Content-Type: application/json",)


def request(
    method: str, target: str, *headers: str, body: bytes | None = None, version: str = "1.1"
) -> bytes:
    """Return the bytes of a request with the key."""
    lines = [f"{method} {target} HTTP/{version}", "Host: here", f"X-API-Key: {KEY}", *headers]
    lines += [] if body is None else [f"Content-Length: {len(body)}"]
    return "\r\n".join([*lines, "", ""]).encode() + (body or b"")


LAST = request("GET", "/v1/nothing", "Connection: close")
"""Behind every other request, so that the connection ends: they come in one piece."""
REQUESTS = {
    "raw": request("POST", INFER, *JPEG, body=PICTURE),
    "in MessagePack": request("POST", INFER, *JPEG, "Accept: application/msgpack", body=PICTURE),
    "with an id": request("POST", INFER, *JPEG, "X-Request-Id: mine", body=PICTURE),
    "with an id that is none": request("POST", INFER, *JPEG, "X-Request-Id: <b>", body=PICTURE),
    "as events": request("POST", INFER, *JPEG, "Accept: text/event-stream", body=PICTURE),
    "in chunks": request("POST", INFER, *JPEG, "Transfer-Encoding: chunked")
    + b"%x\r\n%b\r\n0\r\n\r\n" % (len(PICTURE), PICTURE),
    "expecting": request("POST", INFER, *JPEG, "Expect: 100-continue", body=PICTURE),
    "expecting too much": request("POST", INFER, "Expect: 102-whatever", body=b"{}"),
    "the last one": request("POST", INFER, *JPEG, "Connection: close", body=PICTURE),
    "HTTP/1.0": request("POST", INFER, *JPEG, body=PICTURE, version="1.0"),
    "HTTP/1.0 that goes on": request(
        "POST", INFER, *JPEG, "Connection: keep-alive", body=PICTURE, version="1.0"
    ),
    "twice": 2 * request("POST", INFER, *JPEG, body=PICTURE),
    "of a page": request("POST", INFER, *JPEG, "Origin: https://a.example", body=PICTURE),
    "no picture": request("POST", INFER, *JPEG, body=b"nothing"),
    "an empty one": request("POST", INFER, *JPEG, body=b""),
    "no model": request("POST", "/v1/infer?model=absent", *JPEG, body=PICTURE),
    "no parameter": request("POST", f"{INFER}&speed=9", *JPEG, body=PICTURE),
    "no JSON": request("POST", "/v1/infer", *JSON, body=b"{"),
    "of no type": request("POST", INFER, "Content-Type: text/plain", body=PICTURE),
    "of an absolute target": request("POST", f"http://here{INFER}", *JPEG, body=PICTURE),
    "percent-encoded": request("POST", INFER.replace("infer", "inf%65r"), *JPEG, body=PICTURE),
    "with a slash": request("POST", INFER.replace("?", "/?"), *JPEG, body=PICTURE),
    "two slashes": request("POST", f"/{INFER}", *JPEG, body=PICTURE),
    "another method": request("DELETE", INFER),
    "an invented one": request("BREW", INFER),
    "a path with a variable": request("GET", "/v1/models/fake-detect"),
    "models": request("GET", "/v1/models"),
    "health": request("GET", "/v1/health"),
    "its head": request("HEAD", "/v1/health"),
    "upgraded": request("GET", "/v1/health", "Connection: Upgrade", "Upgrade: websocket"),
    "of a plugin": request("GET", "/answers"),
    "as a plugin wants it": request("GET", "/answers?cookie=1"),
    "of a service": request("POST", "/claimed/this", *JSON, body=b"{}"),
    "of a service, expecting": request(
        "POST", "/claimed/this", "Expect: 100-continue", *JSON, body=b"{}"
    ),
    "of a service that fails": request("GET", "/claimed/fault"),
    "upgraded for a service": request(
        "GET", "/claimed/this", "Connection: Upgrade", "Upgrade: websocket"
    ),
    "a wrong key": request("POST", INFER, *JPEG, body=PICTURE).replace(KEY.encode(), b"wrong"),
}


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
    assert shortcut.known("3.11.0")
    assert shortcut.known("3.14.5")
    assert not shortcut.known("3.15.0b1")
    assert not shortcut.known("4.0")
    assert not shortcut.known("unknown")
