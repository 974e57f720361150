"""Ways that an attacker tries to the servers behind the gateway: models, floods, smuggling."""

from __future__ import annotations

import asyncio
import contextlib
import os

import grpc
import psutil
import pytest
from gateway_stand import (  # noqa: F401
    INFER,
    KEY,
    application,
    consumer,
    stand,
    targets,
    upstreams,
)
from test_gateway_rpc import CATS, GRPC, Door, door, parameter, rest, until  # noqa: F401
from test_gateway_rpc import INFER as MESSAGE

from mataserver_fleet.gateway import protobuf
from mataserver_fleet.gateway.rpc import SERVICE, RpcGateway

BEN = "key-of-ben"
DOGS = protobuf.text(1, "dogs")
METADATA = (("apikey", KEY),)


@pytest.fixture
def two_applications(door):  # noqa: F811
    """Two applications on the same server: cats are the first consumer's, dogs the second's."""
    first = application(door.targets[0], route=GRPC)
    theirs = {"name": "pets", "model": "dogs", "consumers": frozenset({2})}
    second = application(door.targets[0], route=GRPC, **theirs)
    both = [consumer(1, KEY), consumer(2, BEN)]
    door.stand.follow(first, second, consumers=both)
    return door


async def test_another_applications_model_by_grpc(two_applications):
    """The server has it, and yet it is not asked for whom it is not: however it is named."""
    ask = two_applications.ask
    assert await ask(message=DOGS, metadata=(("apikey", BEN),)) == b"one:" + DOGS
    two_applications.peers[0].seen.clear()
    for method in ("ModelInfer", "ModelReady", "ModelMetadata", "ModelConfig", "ModelStatistics"):
        assert await ask(method, DOGS) == "PERMISSION_DENIED"
    named = (*METADATA, ("application", "pets"))
    assert await ask(message=DOGS, metadata=named) == "PERMISSION_DENIED"
    assert await ask(message=CATS, metadata=named) == "NOT_FOUND"
    for message in (
        CATS + DOGS,
        DOGS + CATS,
        b"\x8a\x80\x00\x04dogs" + CATS,  # the first field's key, longer than it need be
        CATS + b"\x8a\x80\x80\x80\x10\x04dogs",  # the same to whoever keeps 32 bits of a key
        CATS + b"\x8a\x80\x80\x80\x90\x80\x80\x80\x80\x00\x04dogs",
        protobuf.text(1, "cats\0dogs"),
        protobuf.text(1, "../dogs"),
        protobuf.text(1, "\uff43ats"),
        protobuf.text(1, "dogs "),
    ):
        assert await ask(message=message) in {"INVALID_ARGUMENT", "NOT_FOUND", "PERMISSION_DENIED"}
    assert two_applications.peers[0].seen == []


async def test_a_model_that_is_named_by_no_text(two_applications):
    """The server would find none there, and tell of all its models: their statistics, say."""
    for method in ("ModelInfer", "ModelReady", "ModelMetadata", "ModelConfig", "ModelStatistics"):
        for message in (b"\x0dcats", b"\x0dcats" + protobuf.text(2, "1"), b""):
            assert await two_applications.ask(method, message) == "NOT_FOUND"
    assert two_applications.peers[0].seen == []


async def test_another_consumers_sequence(two_applications):
    """By gRPC and HTTP, of the same application and another: it is not gone on with, nor begun."""
    ways = {"protocols": frozenset({"http", "grpc"})}
    theirs = application(two_applications.targets[0], route=ways, consumers=frozenset({1, 2}))
    other = application(two_applications.targets[0], name="pets", route=GRPC)
    both = [consumer(1, KEY), consumer(2, BEN)]
    two_applications.stand.follow(theirs, other, consumers=both)
    ask, ben = two_applications.ask, (("apikey", BEN), ("application", "shop"))
    anna = (*METADATA, ("application", "shop"))

    def message(**told):
        return CATS + b"".join(parameter(name, value) for name, value in told.items())

    begun = message(sequence_id=7, sequence_start=True)
    goes_on, ended = message(sequence_id=7), message(sequence_id=7, sequence_end=True)
    assert await ask(message=begun, metadata=anna) == b"one:" + begun
    two_applications.peers[0].seen.clear()
    for given in (goes_on, begun, ended):
        assert await ask(message=given, metadata=ben) == "ALREADY_EXISTS"
    call = two_applications.channel.stream_stream(f"/{SERVICE}/ModelStreamInfer")(metadata=ben)
    with pytest.raises(grpc.aio.AioRpcError) as error:  # noqa: PT012 - either tells of the end
        await call.write(goes_on)
        await rest(call)
    assert error.value.code() is grpc.StatusCode.ALREADY_EXISTS
    body = b'{"parameters":{"sequence_id":7}}'
    assert (await two_applications.stand.ask(body=body, key=BEN))[0] == 409
    for hidden in HIDDEN_SEQUENCES:
        assert await ask(message=CATS + hidden, metadata=ben) == "INVALID_ARGUMENT"
    assert two_applications.peers[0].seen == []
    assert await ask(message=ended, metadata=anna) == b"one:" + ended
    assert await ask(message=begun, metadata=ben) == b"one:" + begun


def entry(*parts):
    """Return a parameter of an inference out of the fields of its entry."""
    whole = b"".join(parts)
    return b"\x22%c%b" % (len(whole), whole)


_SEVEN, _NAME = b"\x12\x02\x10\x07", protobuf.text(1, "sequence_id")
HIDDEN_SEQUENCES = [
    entry(_NAME, _SEVEN, b"\x12\x00"),  # protobuf merges the two
    entry(_NAME, b"\x12\x05\x10\x07\xa0\x06\x05"),  # and passes by a field that nobody knows
    entry(_NAME, protobuf.text(1, "other"), _SEVEN),
    entry(_NAME, b"\x12\x04\x10\x07\x10\x08"),
    entry(_NAME, b"\x12\x03\xa0\x06\x07"),
    entry(_NAME, b"\x12\x09\x11" + bytes(8)),  # a number of fixed size is none
    entry(_NAME, b"\x12\x02\x08\x07"),  # nor is a truth
]
"""A sequence's number that one reader finds and another does not."""


async def test_a_stream_that_turns_to_another_applications_model(two_applications):
    """It ends there, and the server sees none of what follows."""
    call = two_applications.channel.stream_stream(f"/{SERVICE}/ModelStreamInfer")(metadata=METADATA)
    await call.write(MESSAGE)
    assert [await call.read(), await call.read()] == [b"one1", b"one2"]
    with pytest.raises(grpc.aio.AioRpcError) as error:  # noqa: PT012 - either tells of the end
        await call.write(DOGS)
        await rest(call)
    assert error.value.code() is grpc.StatusCode.PERMISSION_DENIED
    assert [each[1] for each in two_applications.peers[0].seen] == [MESSAGE]


async def test_a_stream_after_its_consumer_was_unlinked(two_applications):
    """The next message is refused, though the stream was begun by who might."""
    call = two_applications.channel.stream_stream(f"/{SERVICE}/ModelStreamInfer")(metadata=METADATA)
    await call.write(MESSAGE)
    assert await call.read() == b"one1"
    assert await call.read() == b"one2"
    nobodys = application(two_applications.targets[0], route=GRPC, consumers=frozenset())
    two_applications.stand.follow(nobodys)
    with pytest.raises(grpc.aio.AioRpcError) as error:  # noqa: PT012 - either tells of the end
        await call.write(MESSAGE)
        await rest(call)
    assert error.value.code() is grpc.StatusCode.PERMISSION_DENIED
    assert len(two_applications.peers[0].seen) == 1


async def test_answers_that_nobody_reads(door):  # noqa: F811
    """They are in flight until their client reads them or is gone, and a part of all at most."""
    budget, peer = door.stand.server.composed.budget, door.peers[0]
    peer.name = bytes(3_000_000)
    call = b"\0" + len(CATS).to_bytes(4, "big") + CATS
    unread = frame(_HEADERS, 1, call_of(KEY), _END_HEADERS) + frame(_DATA, 1, call, _END_STREAM)
    options = [("grpc.max_receive_message_length", -1)]
    limits = door.stand.rpc_port(max_inflight=8_000_000)
    async with contextlib.AsyncExitStack() as stack:
        rpc = await stack.enter_async_context(RpcGateway(door.stand.gateway, limits))
        address = f"127.0.0.1:{rpc.port}"
        channel = await stack.enter_async_context(grpc.aio.insecure_channel(address, options))
        reading = Door(door.stand, channel, door.peers, door.targets)
        _, writer = await asyncio.open_connection("127.0.0.1", rpc.port)
        stack.callback(writer.transport.abort)
        writer.write(_PREFACE + frame(_SETTINGS, 0) + unread)
        await until(lambda: budget.taken > 3_000_000)
        assert await reading.ask(message=CATS) == "UNAVAILABLE"
        (counted,) = door.stand.gateway.usage.total.values()
        assert (counted.requests, counted.failed) == (2, 1)
        peer.name = b"one"
        assert await reading.ask(message=CATS) == b"one:" + CATS
        writer.transport.abort()
        await until(lambda: not budget.taken)
        peer.name = bytes(3_000_000)
        assert len(await reading.ask(message=CATS)) == 3_000_001 + len(CATS)
        await until(lambda: not budget.taken)


# floods of HTTP/2: see RFC 9113, section 10.5

_DATA, _HEADERS, _RESET, _SETTINGS, _PING, _CONTINUATION = 0, 1, 3, 4, 6, 9
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_END_STREAM, _END_HEADERS = 1, 4


def frame(kind, stream, payload=b"", flags=0):
    """Return a frame."""
    head = len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big")
    return head + payload


def literal(name, value):
    """Return a header field of HPACK, as it is."""
    return b"\x00%c%b%c%b" % (len(name), name, len(value), value)


def call_of(key):
    """Return the header of a call, whose message never comes."""
    path = f"/{SERVICE}/ModelInfer".encode()
    return b"".join(
        (
            b"\x83\x86\x04%c%b\x01\x01a" % (len(path), path),
            literal(b"content-type", b"application/grpc"),
            literal(b"te", b"trailers"),
            literal(b"apikey", key.encode()),
        )
    )


def resets():
    """Calls that are taken back at once."""
    for number in range(1, 20_001, 2):
        call = frame(_HEADERS, number, call_of(KEY), _END_HEADERS)
        yield call + frame(_RESET, number, b"\0\0\0\x08")


def openings():
    """Calls that never go on, more than a connection may have, of one who has a key or has none."""
    for number in range(1, 4_001, 2):
        key = KEY if number % 4 == 1 else "nobody's"
        yield frame(_HEADERS, number, call_of(key), _END_HEADERS)


def pings():
    """Pings, each to be answered."""
    for _ in range(20_000):
        yield frame(_PING, 0, bytes(8))


def settings():
    """Settings, each to be acknowledged."""
    for _ in range(20_000):
        yield frame(_SETTINGS, 0, b"\0\x04\0\x01\0\0")


def continuations():
    """A header without an end."""
    yield frame(_HEADERS, 1, call_of(KEY))
    for _ in range(1_500):
        yield frame(_CONTINUATION, 1, literal(b"x-a", bytes(100)) * 80)


def nothings():
    """Data frames without data, of a call that goes on for ever."""
    yield frame(_HEADERS, 1, call_of(KEY), _END_HEADERS)
    for _ in range(20_000):
        yield frame(_DATA, 1)


@pytest.mark.parametrize(
    "flood", [resets, openings, pings, settings, continuations, nothings], ids=lambda f: f.__name__
)
async def test_a_flood_of_http2(door, flood):  # noqa: F811
    """Others are answered all the while, no memory grows, and no server is asked."""
    process = psutil.Process(os.getpid())
    assert await door.ask() == b"one:" + MESSAGE
    before, port = process.memory_info().rss, door.rpc.port
    flooding = [asyncio.create_task(flooded(port, flood)) for _ in range(2)]
    for _ in range(5):
        assert await door.ask(timeout=60) == b"one:" + MESSAGE
    await asyncio.gather(*flooding)
    assert await door.ask(timeout=60) == b"one:" + MESSAGE
    assert len(door.peers[0].seen) == 7
    assert process.memory_info().rss - before < 150_000_000


async def flooded(port, flood):
    """Send a flood until the server ends the connection, or all of it is sent."""
    _, writer = await asyncio.open_connection("127.0.0.1", port)
    with contextlib.suppress(OSError):
        writer.write(_PREFACE + frame(_SETTINGS, 0))
        for number, piece in enumerate(flood()):
            writer.write(piece)
            if number % 100 == 0:
                await writer.drain()
                await asyncio.sleep(0)
        await writer.drain()
    writer.transport.abort()


# two requests in one: see RFC 9112, section 11.2

HIDDEN = (
    "POST /v2/repository/models/cats/unload HTTP/1.1\r\n"
    "Host: a\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
)
ENDED = f"0\r\n\r\n{HIDDEN}"
FORGED = (
    "Content-Length: 2\r\nX-Consumer-Username: admin\r\nX_Consumer_Username: admin\r\n"
    "Connection: x-forwarded-for\r\n"
)
SMUGGLED = {
    "a length and chunks": (
        f"Content-Length: {len(ENDED)}\r\nTransfer-Encoding: chunked\r\n",
        ENDED,
    ),
    "two lengths": (f"Content-Length: 0\r\nContent-Length: {len(HIDDEN)}\r\n", HIDDEN),
    "a coding that is none": ("Transfer-Encoding: xchunked\r\n", ENDED),
    "a coding with a space": ("Transfer-Encoding : chunked\r\n", ENDED),
    "a coding with a tab": ("Transfer-Encoding:\tchunked\r\nContent-Length: 4\r\n", ENDED),
    "a coding that is listed twice": ("Transfer-Encoding: chunked, chunked\r\n", ENDED),
    "a length with a sign": ("Content-Length: +0\r\n", HIDDEN),
    "a length in a fold": ("X-A: b\r\n Content-Length: 0\r\n", HIDDEN),
    "a field with a line's end": ("X-A: b\nContent-Length: 0\r\n", HIDDEN),
    "a trailer": (
        "Transfer-Encoding: chunked\r\nTrailer: Content-Length\r\n",
        f"2\r\n{{}}\r\n0\r\nContent-Length: 5\r\n\r\n{HIDDEN}",
    ),
    "a chunk's extension": ("Transfer-Encoding: chunked\r\n", f"2;a=\n{ENDED}"),
    "its own fields": (FORGED, f"{{}}{HIDDEN}"),
}


@pytest.mark.parametrize("way", SMUGGLED)
async def test_a_request_within_a_request(stand, upstreams, targets, way):  # noqa: F811
    """The server sees one request or none, and never the one that was hidden."""
    stand.follow(application(*targets[:1]))
    fields, body = SMUGGLED[way]
    head = f"POST {INFER} HTTP/1.1\r\nHost: a\r\napikey: {KEY}\r\n{fields}\r\n"
    async with asyncio.timeout(20):
        await stand.exchange(f"{head}{body}".encode())
    assert {each.path for each in upstreams[0].seen} <= {"/v2/models/cats/infer"}
    assert len(upstreams[0].seen) <= 1
    for each in upstreams[0].seen:
        assert each.headers.getall("X-Consumer-Username") == ["consumer-1"]
        assert "X_Consumer_Username" not in each.headers
        assert b"repository" not in each.body
