"""What goes on for long through the gateway ends once its consumer may not have it any more."""

from __future__ import annotations

import asyncio

import aiohttp
import grpc
import pytest
from gateway_stand import (  # noqa: F401
    INFER,
    KEY,
    application,
    consumer,
    eventually,
    stand,
    upstreams,
)
from test_gateway_heads import Line, request
from test_gateway_rpc import GRPC, door  # noqa: F401
from test_gateway_rpc import INFER as MESSAGE
from test_gateway_streams import picture, shop  # noqa: F401
from upstreams import RawServer

from mataserver_fleet.gateway.rpc import SERVICE
from mataserver_fleet.gateway.snapshot import Target

LINK = "/api/apps/shop/consumers/{}"
WAYS = {
    "unlinked": ("DELETE", LINK),
    "revoked": ("DELETE", "/api/consumers/{}/key"),
    "replaced": ("POST", "/api/consumers/{}/key"),
    "removed": ("DELETE", "/api/consumers/{}"),
    "its route": ("DELETE", "/api/apps/shop/routes/fake-track"),
}


async def ended(socket):
    """Return the code by which a WebSocket ends, and the answers before that."""
    message = await socket.receive(timeout=30)
    return message.data if message.type is aiohttp.WSMsgType.CLOSE else message


@pytest.mark.parametrize("url", ["sqlite"], indirect=True)
async def test_a_socket(shop):  # noqa: F811
    """It is closed with 4001 at once; those of others go on, also when their limits change."""
    sockets = {}
    for way in WAYS:
        name = way.replace(" ", "-")
        made = await shop.client.made(LINK.format(name))
        shop.keys.insert(0, made["key"])
        identity, url = await shop.session()
        sockets[way] = await shop.http.ws_connect(url, headers={"apikey": shop.keys[0]})
        assert identity in url
    await shop.client.ask("PATCH", "/api/consumers/its-route", json={"rate": 1_000})
    for way, (method, path) in WAYS.items():
        for other in sockets.values():
            await other.send_bytes(picture(5))
            assert "detections" in await other.receive_json(timeout=30)
        socket = sockets.pop(way)
        status, answer = await shop.client.ask(method, path.format(way.replace(" ", "-")))
        assert status in {200, 201}, answer
        assert await ended(socket) == 4001, way
        await socket.close()


async def test_a_stream_of_grpc(door):  # noqa: F811
    """It ends though its consumer sends nothing more, and the server hears of that."""
    call = door.channel.stream_stream(f"/{SERVICE}/ModelStreamInfer")(metadata=(("apikey", KEY),))
    await call.write(MESSAGE)
    assert [await call.read(), await call.read()] == [b"one1", b"one2"]
    door.stand.follow(
        application(door.targets[0], route=GRPC), consumers=[consumer(1, "another key")]
    )
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await asyncio.wait_for(call.read(), 30)
    assert error.value.code() is grpc.StatusCode.UNAUTHENTICATED
    async with asyncio.timeout(30):
        while door.stand.gateway.servers.get(door.targets[0]).outstanding:
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("name", ["ModelInfer", "ModelStreamInfer"])
async def test_a_message_still_to_come(door, name):  # noqa: F811
    """A call that a key has opened sends a server nothing once the key is replaced."""
    streams = (
        door.channel.stream_stream if name == "ModelStreamInfer" else door.channel.stream_unary
    )
    call = streams(f"/{SERVICE}/{name}")(metadata=(("apikey", KEY),))
    await eventually(lambda: "1" in door.rpc._rpc_port._limiter._own)  # it is being read
    route = application(door.targets[0], route=GRPC)
    door.stand.follow(route, consumers=[consumer(1, "another key")])
    await call.write(MESSAGE)
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await asyncio.wait_for(call.read() if name == "ModelStreamInfer" else call, 30)
    assert error.value.code() is grpc.StatusCode.UNAUTHENTICATED
    assert not door.peers[0].seen


async def test_an_answer_without_an_end(stand):  # noqa: F811
    """Events that a server goes on sending are cut off; an answer with a length comes whole."""
    go_on = asyncio.Event()

    async def act(writer):
        await writer.drain()
        if server.asked == 1:  # the first to be asked
            writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n")
        else:
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\nhi")
        await go_on.wait()
        writer.write(bytes(99_998))

    async with RawServer(act) as server:
        target = Target("127.0.0.1", server.port)
        stand.follow(application(target))
        asking = [stand.http.post(stand.server.url + INFER, headers={"apikey": KEY}) for _ in "ab"]
        answers = [await each for each in asking]
        assert [await each.content.read(2) for each in answers] == [b"hi", b"hi"]
        stand.follow(application(target), consumers=[consumer(1, "another key")])
        with pytest.raises(aiohttp.ClientPayloadError):
            await asyncio.wait_for(answers[0].content.read(1), 30)
        go_on.set()
        assert len(await asyncio.wait_for(answers[1].read(), 30)) == 99_998
        for each in answers:
            each.close()


@pytest.mark.parametrize("path", [INFER, "/gateway/shop/v1/infer", "/gateway/shop/v1/sessions"])
@pytest.mark.parametrize(("status", "known"), [(401, "another key"), (403, KEY)])
async def test_a_body_still_to_come(stand, upstreams, path, status, known):  # noqa: F811
    """Who was revoked or unlinked after the head came is refused when the body comes."""
    kind = "mataserver" if "/v1/" in path else "triton"
    target = Target("127.0.0.1", upstreams[0].port, kind=kind)
    route = {"protocols": frozenset({"http", "ws"})}
    stand.follow(application(target, route=route))
    body = b'{"model": "cats", "image": "aGk="}'
    reader, writer = await asyncio.open_connection("127.0.0.1", stand.port)
    read = asyncio.Event()
    judged = stand.gateway.bodies.read
    stand.gateway.bodies.read = lambda *given: read.set() or judged(*given)
    head = f"POST {path} HTTP/1.1\r\nHost: a\r\napikey: {KEY}\r\nContent-Length: {len(body)}\r\n"
    fields = b"Content-Type: application/json\r\nConnection: close\r\n\r\n"
    writer.write(head.encode() + fields + body[:3])
    await asyncio.wait_for(read.wait(), 30)
    consumers = frozenset({1} if status == 401 else {2})
    stand.follow(
        application(target, route=route, consumers=consumers),
        consumers=[consumer(1, known), consumer(2, "b")],
    )
    writer.write(body[3:])
    answer = await asyncio.wait_for(reader.read(), 30)
    writer.close()
    assert answer.startswith(b"HTTP/1.1 %d " % status), answer
    asked = [one.path for each in upstreams for one in each.seen]
    assert not [each for each in asked if each.endswith(("infer", "sessions"))]


CHANGES = {
    "revoked": (401, {}, "another key"),
    "unlinked": (403, {"consumers": frozenset({2})}, KEY),
    "no such application": (404, {"name": "other"}, KEY),
    "something else": (200, {"timeout": 50.0}, KEY),
}
HELD_BACK = {"gathered": (13, 3), "sent on": (400_000, 1), "with the next": (13, 3)}
"""Bytes of a body, and how many of them come before the change."""


@pytest.mark.parametrize("how", HELD_BACK)
@pytest.mark.parametrize("change", CHANGES)
async def test_a_body_still_to_come_after_a_known_head(stand, upstreams, change, how):  # noqa: F811
    """It is judged as that of a first request: only who may still ask reaches a server."""
    target = Target("127.0.0.1", upstreams[0].port)
    (status, changed, key), (size, early) = CHANGES[change], HELD_BACK[how]
    stand.follow(application(target))
    tensors = "Inference-Header-Content-Length: 2"  # so that a large body is sent as it arrives
    async with Line(stand) as line:
        await line.ask(request(b"{}", tensors))
        sent, before = request(b"{}" + bytes(size - 2), tensors), line.hits
        line.writer.write(sent[: early - size])
        await eventually(lambda: line.hits > before)
        stand.follow(application(target, **changed), consumers=[consumer(1, key), consumer(2, "b")])
        following = request(b"{}" + bytes(100_000), tensors) if how == "with the next" else b""
        answers = [await line.ask(sent[early - size :] + following)]
        answers += [await line.ask()] if following else []
        for head, _ in answers:
            assert head.startswith(b"HTTP/1.1 %d " % status), head
    sizes = [size, 100_002][: len(answers)] if status == 200 else []
    assert [each.size for each in upstreams[0].seen] == [2, *sizes]


async def test_a_body_that_is_sent_on_comes_whole(stand, upstreams):  # noqa: F811
    """What a server has of a body before the change is no half of a request."""
    target = Target("127.0.0.1", upstreams[0].port)
    stand.follow(application(target))
    tensors = "Inference-Header-Content-Length: 2"
    async with Line(stand) as line:
        await line.ask(request(b"{}", tensors))
        sent, before = request(b"{}" + bytes(400_000), tensors), line.hits
        line.writer.write(sent[:-200_000])
        await eventually(lambda: line.hits > before)
        await eventually(lambda: stand.gateway.servers.get(target).outstanding)
        stand.follow(application(target), consumers=[consumer(1, "another key")])
        assert (await line.ask(sent[-200_000:]))[0].startswith(b"HTTP/1.1 200 ")
        assert (await line.ask(request(b"{}", tensors)))[0].startswith(b"HTTP/1.1 401 ")
    assert [each.size for each in upstreams[0].seen] == [2, 400_002]
