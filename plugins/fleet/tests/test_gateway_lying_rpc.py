"""Servers that lie or die by gRPC: what is asked twice, what is ended, and what is counted."""

from __future__ import annotations

import asyncio
import contextlib

import gateway_plugin
import grpc
import pytest
from gateway_stand import KEY, application, stand, stand_on, upstreams  # noqa: F401
from rebinding import NAME, RebindingResolver
from test_gateway_rpc import CATS, GRPC, INFER, Door, Peer, door, rest, until  # noqa: F401
from upstreams import Upstream

from mataserver_fleet.gateway import channels, protobuf
from mataserver_fleet.gateway.rpc import SERVICE, RpcGateway
from mataserver_fleet.gateway.snapshot import Target

UNREACHABLE = "failed to connect to all addresses; last error: UNKNOWN: connection refused"


class Liar(Peer):
    """A server whose calls fail with ``code`` and the words ``told``, and whose streams end so."""

    told = ""

    def service(self, details):
        """Return what answers a method."""
        if details.method.endswith("ModelStreamInfer"):
            return super().service(details)

        async def call(message, context):
            self.seen.append((details.method, message))
            if self.code is not None:
                await context.abort(self.code, self.told)
            return self.name + b":" + message

        return grpc.unary_unary_rpc_method_handler(call)

    async def stream(self, messages, context):
        """Answer each message twice; fail if so told."""
        async for message in messages:
            self.seen.append(("stream", message))
            for number in (b"1", b"2"):
                yield self.name + number
            if self.code is not None:
                await context.abort(self.code, self.told)


@pytest.fixture
async def liar(door):  # noqa: F811
    """A liar that is preferred to the second server."""
    async with Liar("liar") as peer:
        target = Target("127.0.0.1", door.targets[0].port, 1e6, peer.port)
        door.stand.follow(application(target, door.targets[1], route=GRPC))
        await until(lambda: not door.stand.gateway.servers.get(target).is_suspect)
        yield peer


def counted(stand):  # noqa: F811
    """Return requests, failed ones, and bytes in and out."""
    (found,) = stand.gateway.usage.total.values()
    return found.requests, found.failed, found.bytes_in, found.bytes_out


async def test_a_server_that_says_it_was_not_reached(door, liar):  # noqa: F811
    """What it answers, it has received: another is not asked, whatever its words."""
    liar.code, liar.told = grpc.StatusCode.UNAVAILABLE, UNREACHABLE
    assert await door.ask() == "UNAVAILABLE"
    assert (len(liar.seen), door.peers[1].seen) == (1, [])


async def test_a_server_that_lost_its_models(door, liar, upstreams):  # noqa: F811
    """One that restarted does not have the model: another is asked, as by HTTP."""
    liar.code, liar.told = (
        grpc.StatusCode.NOT_FOUND,
        "unknown model: 'cats'",
    )
    await door.stand.gateway.prober.close()  # what a call finds is looked at alone
    assert await door.ask() == "NOT_FOUND", "that is about the request, where the model is"
    (route,) = door.stand.gateway.snapshot.routes()
    for server in map(door.stand.gateway.servers.get, route.targets):
        server.mark_alive(-100.0)
        server.recovered_at = -100.0
    upstreams[0].ready.clear()
    assert await door.ask() == b"two:" + INFER
    assert len(liar.seen) == 2
    upstreams[1].ready.clear()
    door.peers[1].code = grpc.StatusCode.NOT_FOUND
    assert await door.ask() == "UNAVAILABLE"


def http2(kind, payload=b"", flags=0, stream=0):
    """Return a frame of HTTP/2."""
    return (
        len(payload).to_bytes(3, "big") + bytes((kind, flags, *stream.to_bytes(4, "big"))) + payload
    )


def literal(name, value):
    """Return a header field, uncompressed."""
    return b"".join((b"\0", bytes((len(name),)), name, bytes((len(value),)), value))


UNREACHED = b"\x88" + b"".join(  # 200, and what gRPC says of a server that it could not reach
    literal(*each)
    for each in (
        (b"content-type", b"application/grpc"),
        (b"grpc-status", b"14"),
        (b"grpc-message", UNREACHABLE.encode()),
    )
)
LIE = http2(1, UNREACHED, flags=5, stream=1) + http2(7, bytes((0, 0, 0, 1, 0, 0, 0, 0)))


@pytest.mark.parametrize("last", [b"", LIE], ids=["nothing", "unreached"])
async def test_a_server_that_breaks_off_and_has_no_model(door, upstreams, last):  # noqa: F811
    """It may have run the request before it went: another is not asked, whatever its last words."""
    received = []

    async def die(reader, writer):
        writer.write(http2(4))  # its SETTINGS
        data = b""
        while INFER[:20] not in data:
            data += await reader.read(65_536)
        received.append(data)
        if last:
            writer.write(last)
            writer.close()
        else:
            writer.transport.abort()

    listening = await asyncio.start_server(die, "127.0.0.1", 0)
    port = listening.sockets[0].getsockname()[1]
    target = Target("127.0.0.1", door.targets[0].port, 1e6, port)
    door.stand.follow(application(target, door.targets[1], route=GRPC))
    server = door.stand.gateway.servers.get(target)
    await until(lambda: not server.is_suspect)
    await door.stand.gateway.prober.close()
    server.recovered_at = -100.0
    upstreams[0].ready.clear()
    assert await door.ask() == "UNAVAILABLE"
    assert (len(received), door.peers[1].seen) == (1, [])
    listening.close()
    await listening.wait_closed()


async def test_how_long_all_tries_may_take(door, liar):  # noqa: F811
    """One time for the call, however often it is tried."""
    slow = asyncio.Event()

    async def late(message, context):
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(slow.wait(), 0.4)
        await context.abort(grpc.StatusCode.UNAVAILABLE, "later")

    for peer in (liar, door.peers[1]):
        peer.service = lambda _details: grpc.unary_unary_rpc_method_handler(late)
    target = Target("127.0.0.1", door.targets[0].port, 1e6, liar.port)
    given = {"route": GRPC, "resend": True, "retries": 100, "timeout": 0.6}
    door.stand.follow(application(target, door.targets[1], **given))
    assert await door.ask() == "DEADLINE_EXCEEDED"


async def test_what_is_counted_of_a_stream(door, liar):  # noqa: F811
    """Messages and answers with their bytes; a stream that its server breaks off has one failed."""
    stream = door.channel.stream_stream(f"/{SERVICE}/ModelStreamInfer")
    call = stream(metadata=(("apikey", KEY),))
    for _ in range(2):
        await call.write(INFER)
        assert [await call.read(), await call.read()] == [b"liar1", b"liar2"]
    await call.done_writing()
    assert await call.read() is grpc.aio.EOF
    await until(lambda: counted(door.stand) == (2, 0, 2 * len(INFER), 20))
    liar.code, liar.told = grpc.StatusCode.INTERNAL, "it broke"
    call = stream(metadata=(("apikey", KEY),))
    await call.write(INFER)
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await rest(call)
    assert error.value.code() is grpc.StatusCode.INTERNAL
    await until(lambda: counted(door.stand) == (3, 1, 3 * len(INFER), 30))


async def test_an_answer_that_is_too_large(door, liar, monkeypatch):  # noqa: F811
    """An answer is in memory, so it has a limit, compressed or not."""
    limit = ("grpc.max_receive_message_length", 1_000_000)
    options = [each for each in channels._OPTIONS if each[0] != limit[0]]
    assert dict(channels._OPTIONS)[limit[0]] == channels.MAX_ANSWER_BYTES > 0
    monkeypatch.setattr(channels, "_OPTIONS", [*options, limit])

    async def large(_message, context):
        context.set_compression(grpc.Compression.Gzip)
        return bytes(2_000_000)

    liar.service = lambda _details: grpc.unary_unary_rpc_method_handler(large)
    assert await door.ask() == "RESOURCE_EXHAUSTED"


async def test_a_stream_beside_calls_that_are_refused(tmp_path, monkeypatch):
    """A server that is busy for one call is no other server for the streams that it has."""
    monkeypatch.setattr(channels, "GRACE_SECONDS", 0.05)
    gateway_plugin.NAMES.append(RebindingResolver())
    async with contextlib.AsyncExitStack() as stack:
        stand = await stack.enter_async_context(stand_on(tmp_path))
        peer = await stack.enter_async_context(Liar("one"))
        upstream = Upstream("one")
        await upstream.start()
        stack.push_async_callback(upstream.stop)
        rpc = await stack.enter_async_context(RpcGateway(stand.gateway, stand.rpc_port()))
        channel = grpc.aio.insecure_channel(f"127.0.0.1:{rpc.port}")
        await stack.enter_async_context(channel)
        target = Target(NAME, upstream.port, rpc=peer.port)
        stand.follow(application(target, route=GRPC))
        asked = Door(stand, channel, [peer], [target])
        call = channel.stream_stream(f"/{SERVICE}/ModelStreamInfer")(metadata=(("apikey", KEY),))
        await call.write(INFER)
        assert [await call.read(), await call.read()] == [b"one1", b"one2"]
        peer.code, peer.told = grpc.StatusCode.UNAVAILABLE, "Exceeds maximum queue size"
        for _ in range(3):
            assert await asked.ask() == "UNAVAILABLE"
        assert len(peer.seen) == 4
        peer.code = None
        await asyncio.sleep(0.5)  # ten times the grace of a channel that is given up
        await call.write(INFER)
        assert [await call.read(), await call.read()] == [b"one1", b"one2"]
        await call.done_writing()
        assert await call.read() is grpc.aio.EOF


@pytest.mark.parametrize("method", ["ModelInfer", "ModelStreamInfer"])
async def test_an_answer_that_is_too_large(door, liar, monkeypatch, method):  # noqa: F811
    """It is the server's failure, told in the gateway's words, and no limit of the consumer's.

    What a server itself says of exhausted resources is passed on.
    """
    monkeypatch.setattr(channels, "MAX_ANSWER_BYTES", 1 << 20)
    liar.name = bytes(1 << 20)
    ask = door.channel.stream_stream(f"/{SERVICE}/{method}")  # also for a single answer
    ends = []
    for name, code in ((liar.name, None), (b"liar", grpc.StatusCode.RESOURCE_EXHAUSTED)):
        liar.name, liar.code, liar.told = name, code, "No memory is left"
        call = ask(iter([INFER]), metadata=(("apikey", KEY),))
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await rest(call)
        ends.append((error.value.code().name, error.value.details()))
    assert ends == [
        ("INTERNAL", "The server's answer is over the limit of 1 MiB"),
        ("RESOURCE_EXHAUSTED", "No memory is left"),
    ]
    assert counted(door.stand)[:2] == (2, 1)


async def test_a_server_that_does_not_say_whether_it_has_the_model(door, liar, upstreams):  # noqa: F811
    """It has said nothing: what it answered is about the request, and another is not asked."""
    liar.code, liar.told = grpc.StatusCode.NOT_FOUND, "no such output"
    server = door.stand.gateway.servers.get(Target("127.0.0.1", door.targets[0].port))
    await door.stand.gateway.prober.close()  # what a call finds is looked at alone
    upstreams[0].hangs = True
    for version in (b"", protobuf.text(2, "7")):
        server.unready.clear()
        assert await door.ask(message=INFER + version) == "NOT_FOUND"
    assert (len(liar.seen), door.peers[1].seen) == (2, [])
