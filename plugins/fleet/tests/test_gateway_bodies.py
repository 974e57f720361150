"""What a server is sent of a request, and a client of an answer."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import json
import os

import pytest
from aiohttp import web
from gateway_stand import (  # noqa: F401
    INFER,
    KEY,
    application,
    stand,
    stand_on,
    targets,
    upstreams,
)
from upstreams import RawServer, Upstream

from mataserver_fleet.gateway.snapshot import Target

BASE = [f"POST {INFER} HTTP/1.1", "Host: x", f"apikey: {KEY}"]


def head(*lines):
    """Return the head of a request."""
    return "\r\n".join([*BASE, *lines, "Connection: close", "", ""]).encode()


@pytest.mark.parametrize("size", [1, 60_000, 1_500_000, 12_000_000])
async def test_a_body_arrives_as_it_was_sent(stand, upstreams, targets, size):  # noqa: F811
    """Kept or passed through, it comes whole, with its length and in no chunks."""
    stand.follow(application(*targets[:1]))
    body = os.urandom(size)
    status, answer, _ = await stand.ask(body=body)
    assert (status, answer["sha"]) == (200, hashlib.sha256(body).hexdigest())
    sent = upstreams[0].seen[0].headers
    assert sent["Content-Length"] == str(size)
    assert "Transfer-Encoding" not in sent


async def test_a_body_where_none_is_expected(stand, upstreams, targets):  # noqa: F811
    """A GET with a body tells its length too: what is in it is never another request."""
    stand.follow(application(*targets[:1]))
    inner = b"POST /v2/repository/index HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n"
    lines = ["GET /gateway/shop/v2/models/cats HTTP/1.1", "Host: x", f"apikey: {KEY}"]
    lines += [f"Content-Length: {len(inner)}", "Connection: close", "", ""]
    answer = await stand.exchange("\r\n".join(lines).encode() + inner)
    assert answer.startswith(b"HTTP/1.1 200")
    assert (await stand.ask())[0] == 200
    seen = [(each.path, each.size) for each in upstreams[0].seen]
    assert seen == [("/v2/models/cats", len(inner)), ("/v2/models/cats/infer", 2)]


async def test_no_body_is_one_of_no_bytes(stand, upstreams, targets):  # noqa: F811
    """A server is told that there is none, so that it does not ask for a length."""
    stand.follow(application(*targets[:1]))
    assert (await stand.exchange(head("Content-Length: 0"))).startswith(b"HTTP/1.1 200")
    assert (await stand.exchange(head())).startswith(b"HTTP/1.1 200")
    assert [each.headers["Content-Length"] for each in upstreams[0].seen] == ["0", "0"]


@pytest.mark.parametrize("size", [2, 200_000])
async def test_chunks_are_joined(stand, upstreams, targets, size):  # noqa: F811
    """A body in chunks of two bytes is sent on with its length: a Triton dies of such chunks."""
    stand.follow(application(*targets[:1]))
    pieces = b"2\r\nab\r\n" * (size // 2) + b"0\r\n\r\n"
    answer = await stand.exchange(head("Transfer-Encoding: chunked") + pieces)
    assert answer.startswith(b"HTTP/1.1 200")
    seen = upstreams[0].seen[0]
    assert (seen.size, seen.headers["Content-Length"]) == (size, str(size))
    assert "Transfer-Encoding" not in seen.headers


async def test_a_long_body_in_drops(stand, targets, upstreams):  # noqa: F811
    """A body that passes through is gathered: a server gets large pieces, however it arrives."""
    sizes = []

    async def act(writer):
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        return True

    async with RawServer(act) as server:
        stand.follow(application(Target("127.0.0.1", server.port)))
        body = b"x" * 9_000_000
        drops = [body[i : i + 30_000] for i in range(0, len(body), 30_000)]
        answer = await stand.exchange(head(f"Content-Length: {len(body)}"), *drops)
    assert answer.startswith(b"HTTP/1.1 200"), sizes


async def test_a_long_body_must_tell_its_length(stand, upstreams, targets):  # noqa: F811
    """Chunks beyond what is kept are 411: the server would be sent chunks, or no length."""
    stand.follow(application(*targets[:1]))

    async def pieces():
        for _ in range(20):
            yield b"x" * 500_000

    status, answer, _ = await stand.ask(body=pieces())
    assert (status, "Content-Length" in answer["error"]) == (411, True)
    assert upstreams[0].seen == []


@pytest.mark.parametrize("form", ["application/x-www-form-urlencoded", "multipart/form-data", ""])
@pytest.mark.parametrize("size", [20, 10_500_000])
async def test_nothing_is_sent_as_a_form(stand, upstreams, targets, form, size):  # noqa: F811
    """What a client calls a form, or nothing, goes on as JSON: a Triton dies of long forms."""
    stand.follow(application(*targets[:1]))
    status, _, _ = await stand.ask(body=b"x" * size, headers={"Content-Type": form})
    assert status == 200
    assert upstreams[0].seen[0].headers.getall("Content-Type") == ["application/json"]


async def test_the_type_of_tensors(stand, upstreams, targets):  # noqa: F811
    """A body with tensors behind its JSON is bytes, whatever it is called."""
    stand.follow(application(*targets[:1]))
    await stand.ask(headers={"Inference-Header-Content-Length": "2", "Content-Type": "text/html"})
    sent = upstreams[0].seen[0].headers
    assert sent["Content-Type"] == "application/octet-stream"
    assert sent["Inference-Header-Content-Length"] == "2"


async def test_json_that_is_said_to_be_no_utf8(stand, upstreams, targets):  # noqa: F811
    """It is 415: the server would be told that it is JSON, which is UTF-8."""
    stand.follow(application(*targets[:1]))
    for said, status in (("utf-16", 415), ("UTF-8", 200), ("latin-1", 415), ("", 200)):
        kind = {"Content-Type": f'application/json; charset="{said}"'}
        assert (await stand.ask(headers=kind))[0] == status, said
    assert len(upstreams[0].seen) == 2


async def test_which_fields_pass(stand, upstreams, targets):  # noqa: F811
    """Neither the key, nor a cookie, nor what is for the next hop alone; who asks is told."""
    stand.follow(application(*targets[:1]))
    given = {
        "Authorization": "Bearer x",
        "Cookie": "session=1",
        "X-API-Key": "k",
        "X-CSRF-Token": "t",
        "Connection": "keep-alive, X-Hop",
        "X-Hop": "1",
        "TE": "trailers",
        "X-Consumer-Username": "root",
        "X-Consumer-Custom": "root",
        "X_Consumer_Username": "root",
        "X_Forwarded_For": "1.2.3.4",
        "HTTP2-Settings": "AAMA",
        "X-Forwarded-For": "1.2.3.4",
        "X-Kept": "ä",
    }
    _, _, answered = await stand.ask(headers=given)
    sent = {name.lower(): value for name, value in upstreams[0].seen[0].headers.items()}
    assert set(sent) == {
        "host", "accept", "accept-encoding", "user-agent", "content-type", "content-length",
        "x-consumer-username", "x-forwarded-for", "x-kept",
    }  # fmt: skip
    assert sent["host"] == upstreams[0].url.removeprefix("http://")
    assert (sent["x-consumer-username"], sent["x-forwarded-for"]) == ("consumer-1", "127.0.0.1")
    assert sent["x-kept"] == "ä"
    assert answered["X-Own"] == "1"
    assert "Set-Cookie" not in answered


async def test_compressed_bodies_are_left_alone(stand, upstreams, targets):  # noqa: F811
    """Neither a request's body nor an answer's is unpacked on the way."""

    class Packing(Upstream):
        async def inferred(self, request):
            body = gzip.compress(b'{"a":1}')
            fields = {"Content-Encoding": "gzip", "Content-Type": "application/json"}
            return web.Response(body=body, headers=fields)

    server = Packing("packing")
    await server.start()
    stand.follow(application(Target("127.0.0.1", server.port)))
    body = gzip.compress(b'{"b":2}')
    fields = {"apikey": KEY, "Content-Encoding": "gzip"}
    url = stand.server.url + INFER
    async with stand.http.post(url, data=body, headers=fields) as answer:
        assert gzip.decompress(await answer.read()) == b'{"a":1}'
        assert answer.headers["Content-Encoding"] == "gzip"
    assert server.seen[0].body == body
    assert server.seen[0].headers["Content-Encoding"] == "gzip"
    await server.stop()


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("size", [0, 100, 70_000, 5_000_000])
async def test_an_answer_comes_as_it_was_given(stand, chunked, size):  # noqa: F811
    """Short or long, with a length or in chunks, with its status."""
    body = os.urandom(size)

    class AnsweringUpstream(Upstream):
        async def inferred(self, request):
            if not chunked:
                return web.Response(status=201, body=body)
            response = web.StreamResponse(status=201)
            response.enable_chunked_encoding()
            await response.prepare(request)
            await response.write(body)
            return response

    server = AnsweringUpstream("answering")
    await server.start()
    stand.follow(application(Target("127.0.0.1", server.port)))
    status, answer, fields = await stand.ask()
    assert (status, answer) == (201, body)
    assert ("Content-Length" in fields) != chunked
    await server.stop()


async def test_a_limit_of_size(tmp_path, upstreams, targets):  # noqa: F811
    """A body over ``max_body_mb`` is 413 before it is sent, announced or not."""
    async with stand_on(tmp_path, max_body_mb=1.0, buffer_mb=0.5) as made:
        made.follow(application(*targets[:1]))
        assert (await made.ask(body=b"x" * 1_000_000))[0] == 200
        assert (await made.ask(body=b"x" * 1_000_001))[0] == 413
        long = b"f4240\r\n" + b"x" * 1_000_000 + b"\r\n0\r\n\r\n"
        answer = await made.exchange(head("Transfer-Encoding: chunked") + long)
        assert answer.startswith(b"HTTP/1.1 411")
    assert len(upstreams[0].seen) == 1


async def test_a_body_that_does_not_arrive(stand, upstreams, targets):  # noqa: F811
    """A client that stops amid its body is told 408, kept or passed through; no server waits."""
    stand.follow(application(*targets[:1]))
    heads = [head(f"Content-Length: {length}") + b"x" * 50 for length in (100, 9_000_000)]
    for answer in await asyncio.gather(*map(stand.exchange, heads)):
        assert answer.startswith(b"HTTP/1.1 408")
    assert upstreams[0].seen == []


async def test_who_waits_to_be_asked_for_a_body(stand, upstreams, targets):  # noqa: F811
    """With ``Expect`` a body is asked for by either way to an application."""
    stand.follow(application(*targets[:1], host="shop.example"))
    for path, host in ((INFER, "x"), ("/v2/models/cats/infer", "shop.example")):
        lines = [f"POST {path} HTTP/1.1", f"Host: {host}", f"apikey: {KEY}", "Content-Length: 2"]
        lines += ["Expect: 100-continue", "Connection: close", "", ""]
        reader, writer = await asyncio.open_connection("127.0.0.1", stand.port)
        writer.write("\r\n".join(lines).encode())
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(b"{}")
        answer = await reader.read()
        assert answer.startswith(b"HTTP/1.1 200")
        writer.close()
    assert [each.body for each in upstreams[0].seen] == [b"{}", b"{}"]
    assert "Expect" not in upstreams[0].seen[0].headers


async def test_a_length_that_lies(stand, upstreams, targets):  # noqa: F811
    """A request with two different lengths, or a length and chunks, is no request."""
    stand.follow(application(*targets[:1]))
    for lines in (
        ("Content-Length: 2", "Content-Length: 3"),
        ("Content-Length: 2", "Transfer-Encoding: chunked"),
        ("Transfer-Encoding: chunked, identity",),
        ("Content-Length: +2",),
    ):
        answer = await stand.exchange(head(*lines) + b"{}\r\n0\r\n\r\nGET / HTTP/1.1\r\n\r\n")
        assert answer.split(b" ", 2)[1] == b"400", lines
    assert upstreams[0].seen == []


async def test_usage_is_counted(stand, upstreams, targets):  # noqa: F811
    """Requests, failures and bytes of each consumer, application and model; deltas once."""
    stand.follow(application(*targets[:1]))
    _, answer, _ = await stand.ask(body=b"x" * 70_000)
    size = len(json.dumps(answer))
    await upstreams[0].stop()
    assert (await stand.ask(body=b"{}"))[0] in {502, 503}
    (_, subject), count = next(iter(stand.gateway.usage.take().items()))
    assert subject == ("consumer-1", "shop", "cats")
    assert (count.requests, count.failed, count.bytes_in, count.bytes_out) == (2, 1, 70_002, size)
    assert stand.gateway.usage.take() == {}
    assert stand.gateway.usage.total[subject].requests == 2
