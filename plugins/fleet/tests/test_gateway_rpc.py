"""gRPC through the gateway: bytes as they are, for those who may, and nothing but inference."""

from __future__ import annotations

import asyncio
import contextlib

import grpc
import pytest
from gateway_stand import (  # noqa: F401
    KEY,
    application,
    consumer,
    stand,
    upstreams,
)

from mataserver import BadRequest
from mataserver_fleet.gateway import protobuf
from mataserver_fleet.gateway.rpc import SERVICE, RpcGateway
from mataserver_fleet.gateway.snapshot import Release, Target

TENSOR = b"\x3a\x85\x80\x08" + bytes(131_077)  # field 7, 131,077 bytes
CATS = protobuf.text(1, "cats")
INFER = CATS + protobuf.text(3, "an id") + TENSOR
GRPC = {"protocols": frozenset({"grpc"})}
MOST = 8_000_000
"""Bytes of a message here."""


class Peer(grpc.GenericRpcHandler):
    """A server that answers what it was sent, or fails as it is told."""

    def __init__(self, name):
        self.name = name.encode()
        self.seen, self.metadata = [], []
        self.code, self.trailers = None, ()
        self.pause = asyncio.Event()
        self.pause.set()
        self.cancelled = 0

    async def __aenter__(self, port=0):
        options = [("grpc.max_receive_message_length", -1), ("grpc.so_reuseport", 0)]
        self._server = grpc.aio.server(options=options)
        self._server.add_generic_rpc_handlers((self,))
        self.port = self._server.add_insecure_port(f"127.0.0.1:{port}")
        await self._server.start()
        return self

    async def __aexit__(self, *exc):
        await self._server.stop(None)

    def service(self, details):
        if details.method.endswith("ModelStreamInfer"):
            return grpc.stream_stream_rpc_method_handler(self.stream)

        async def call(message, context):
            self.seen.append((details.method, message))
            self.metadata.append(dict(context.invocation_metadata()))
            try:
                await self.pause.wait()
            except asyncio.CancelledError:
                self.cancelled += 1
                raise
            if self.code is not None:
                await context.abort(self.code, "as it was told", self.trailers)
            return self.name + b":" + message

        return grpc.unary_unary_rpc_method_handler(call)

    async def stream(self, messages, context):
        self.metadata.append(dict(context.invocation_metadata()))
        async for message in messages:
            self.seen.append(("stream", message))
            for number in (b"1", b"2"):
                yield self.name + number


class Door:
    """A client of the gateway."""

    def __init__(self, stand, channel, peers, targets, rpc=None):  # noqa: F811
        self.stand, self.channel, self.peers, self.targets = stand, channel, peers, targets
        self.rpc = rpc

    async def ask(self, method="ModelInfer", message=INFER, metadata=(("apikey", KEY),), **more):
        """Call; return the answer, or the name of the code."""
        call = self.channel.unary_unary(f"/{SERVICE}/{method}")
        try:
            return await call(message, metadata=metadata, timeout=more.get("timeout", 10))
        except grpc.aio.AioRpcError as error:
            return error.code().name

    async def later(self):
        """Call; return the seconds after which to try again, of a call that fails."""
        call = self.channel.unary_unary(f"/{SERVICE}/ModelInfer")
        with pytest.raises(grpc.aio.AioRpcError) as told:
            await call(INFER, metadata=(("apikey", KEY),), timeout=10)
        return told.value.trailing_metadata().get("retry-after")


@pytest.fixture
async def door(stand, upstreams):  # noqa: F811
    """The gateway's gRPC before two servers."""
    options = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
    async with contextlib.AsyncExitStack() as stack:
        peers = [await stack.enter_async_context(Peer(name)) for name in ("one", "two")]
        targets = [
            Target("127.0.0.1", each.port, rpc=peer.port)
            for each, peer in zip(upstreams, peers, strict=True)
        ]
        made = RpcGateway(stand.gateway, stand.rpc_port(max_body=MOST))
        rpc = await stack.enter_async_context(made)
        channel = grpc.aio.insecure_channel(f"127.0.0.1:{rpc.port}", options)
        await stack.enter_async_context(channel)
        stand.follow(application(*targets[:1], route=GRPC))
        yield Door(stand, channel, peers, targets, rpc)


async def test_messages_pass_as_they_are(door):
    """Request and answer are the same bytes on both sides, whatever is in them."""
    assert await door.ask() == b"one:" + INFER
    large = CATS + b"\x3a\x80\x9b\xee\x02" + bytes(6_000_000)
    assert await door.ask(message=large) == b"one:" + large
    for method in ("ModelReady", "ModelMetadata", "ModelConfig", "ModelStatistics"):
        assert await door.ask(method, CATS) == b"one:" + CATS
    assert [each[0] for each in door.peers[0].seen[2:]] == [
        f"/{SERVICE}/{name}"
        for name in ("ModelReady", "ModelMetadata", "ModelConfig", "ModelStatistics")
    ]


async def test_a_message_is_as_large_as_a_body(door):
    """``max_body_mb`` is the limit of messages here too, and no server is sent a larger one."""
    assert await door.ask(message=CATS + b"\x3a\x80\x92\xf4\x01" + bytes(4_000_000)) != "UNKNOWN"
    over = CATS + b"\x3a\x80\xa4\xe8\x03" + bytes(8_000_000)
    assert await door.ask(message=over) == "RESOURCE_EXHAUSTED"
    assert len(door.peers[0].seen) == 1


async def test_a_server_is_told_who_calls(door):
    """Of calls and of streams, as by REST; not the key, nor what a client says of itself."""
    forged = (("apikey", KEY), ("x-consumer-username", "root"), ("x-forwarded-for", "10.9.9.9"))
    assert await door.ask(metadata=forged) == b"one:" + INFER
    call = door.channel.stream_stream(f"/{SERVICE}/ModelStreamInfer")(metadata=forged)
    await call.write(INFER)
    assert await call.read() == b"one1"
    call.cancel()
    assert len(door.peers[0].metadata) == 2
    for told in door.peers[0].metadata:
        assert told["x-consumer-username"] == "consumer-1"
        assert told["x-forwarded-for"] == "127.0.0.1"
        assert KEY not in told.values()


async def test_messages_count_as_bytes_in_flight(door):
    """While they are under way, those of a stream one by one, and no more when they are sent."""
    budget, peer = door.stand.server.composed.budget, door.peers[0]
    peer.pause.clear()
    asking = asyncio.create_task(door.ask())
    await until(lambda: peer.seen)
    assert budget.taken == len(INFER)
    peer.pause.set()
    assert await asking == b"one:" + INFER
    await until(lambda: budget.taken == 0)  # the client may have its answer first
    call = door.channel.stream_stream(f"/{SERVICE}/ModelStreamInfer")(metadata=(("apikey", KEY),))
    for _ in range(3):
        await call.write(INFER)
        assert await call.read() == b"one1"
        assert await call.read() == b"one2"
        assert budget.taken <= len(INFER), "what was sent is given back before the next is read"
    await call.done_writing()
    assert await call.read() is grpc.aio.EOF
    await until(lambda: budget.taken == 0)


async def until(true):
    """Wait until something is so."""
    async with asyncio.timeout(10):
        while not true():
            await asyncio.sleep(0.01)


async def test_what_the_gateway_answers_itself(door):
    """Whether it lives and is ready, and what it is: no server is asked."""
    assert await door.ask("ServerLive", b"") == b"\x08\x01"
    assert await door.ask("ServerReady", b"") == b"\x08\x01"
    assert b"mataserver" in await door.ask("ServerMetadata", b"")
    assert await door.ask("ServerLive", b"", metadata=()) == "UNAUTHENTICATED"
    assert door.peers[0].seen == []


@pytest.mark.parametrize(
    "method",
    [
        "RepositoryIndex", "RepositoryModelLoad", "RepositoryModelUnload", "TraceSetting",
        "LogSettings", "SystemSharedMemoryStatus", "CudaSharedMemoryRegister", "ModelInfer/",
        "modelinfer",
    ],
)  # fmt: skip
async def test_the_admin_plane_is_not_there(door, method):
    """No method but those of inference is answered."""
    assert await door.ask(method, CATS) == "UNIMPLEMENTED"
    assert door.peers[0].seen == []


@pytest.mark.parametrize(
    ("metadata", "code"),
    [
        ((), "UNAUTHENTICATED"),
        ((("apikey", "nobody's"),), "UNAUTHENTICATED"),
        ((("apikey", "key-of-ben"),), "PERMISSION_DENIED"),
        ((("apikey", KEY), ("application", "other")), "NOT_FOUND"),
        ((("apikey", "nobody's"), ("apikey", KEY)), "INVALID_ARGUMENT"),
        ((("authorization", "Basic a"), ("authorization", f"Bearer {KEY}")), "INVALID_ARGUMENT"),
        ((("apikey", KEY), ("application", "other"), ("application", "shop")), "INVALID_ARGUMENT"),
        ((("apikey", KEY), ("authorization", "Bearer key-of-ben")), "INVALID_ARGUMENT"),
    ],
)
async def test_who_may_call(door, metadata, code):
    """As over HTTP; the application may be named. Nothing of it may be there twice."""
    assert await door.ask(metadata=metadata) == code
    assert door.peers[0].seen == []


async def test_who_may_call_by_a_bearer(door):
    """The key may be a bearer's, and the application be named."""
    metadata = (("authorization", f"Bearer {KEY}"), ("application", "shop"))
    assert await door.ask(metadata=metadata) == b"one:" + INFER


@pytest.mark.parametrize(
    ("message", "code"),
    [
        (protobuf.text(1, "dogs"), "NOT_FOUND"),
        (b"", "NOT_FOUND"),
        (CATS + protobuf.text(1, "dogs"), "INVALID_ARGUMENT"),
        (CATS + protobuf.text(2, "1") + protobuf.text(2, "2"), "INVALID_ARGUMENT"),
        (CATS + TENSOR[:-1], "INVALID_ARGUMENT"),
        (b"\x0b" + CATS, "INVALID_ARGUMENT"),
        (b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", "INVALID_ARGUMENT"),
        (b"\x0a\x02\xff\xfe", "INVALID_ARGUMENT"),
        (CATS + b"\x18\x00" * 5_000, "INVALID_ARGUMENT"),  # looking at millions holds up everybody
        (CATS + b"\x22\x14" + b"\x18\x00" * 10, "INVALID_ARGUMENT"),  # in a parameter
    ],
)
async def test_messages_that_cannot_be(door, message, code):
    """Another model, a name that is there twice, or what is no message: no server is asked."""
    assert await door.ask(message=message) == code
    assert door.peers[0].seen == []


async def test_a_server_that_cannot_be_reached(door):
    """Another is asked; once a server may have the request, only where resending is allowed."""
    gone = Target("127.0.0.1", door.targets[0].port, rpc=9)
    door.stand.follow(application(gone, door.targets[1], route=GRPC))
    for _ in range(4):
        assert await door.ask() == b"two:" + INFER
    door.peers[0].code = grpc.StatusCode.UNAVAILABLE
    for resend in (False, True):
        heavy = Target("127.0.0.1", door.targets[0].port, 1e6, door.targets[0].rpc)
        door.stand.follow(application(heavy, door.targets[1], route=GRPC, resend=resend))
        server = door.stand.gateway.servers.get(heavy)
        server.mark_alive(-100.0)
        server.recovered_at = -100.0  # also where a probe was quicker: it is no newcomer
        expected = b"two:" + INFER if resend else "UNAVAILABLE"
        assert await door.ask() == expected
    [told] = door.stand.gateway.usage.failures.newest().errors
    assert (told.status, told.consumer, told.model) == (500, "consumer-1", "cats")


async def test_a_server_that_was_away_is_tried_at_least_every_second(door):
    """However long it was away: gRPC's own patience grows to two minutes."""
    tried = []

    async def refuse(_reader, writer):
        tried.append(asyncio.get_running_loop().time())
        writer.transport.abort()

    listening = await asyncio.start_server(refuse, "127.0.0.1", 0)
    port = listening.sockets[0].getsockname()[1]
    away = Target("127.0.0.1", door.targets[0].port, rpc=port)
    door.stand.follow(application(away, route=GRPC, retries=0))
    async with asyncio.timeout(20):  # with gRPC's own patience the tenth try comes after a minute
        while len(tried) < 8:
            assert await door.ask() == "UNAVAILABLE"
            await asyncio.sleep(0.02)
    listening.close()
    await listening.wait_closed()
    peer = Peer("again")
    await peer.__aenter__(port)
    async with asyncio.timeout(20):
        while await door.ask() != b"again:" + INFER:
            await asyncio.sleep(0.02)
    await peer.__aexit__()


async def test_what_a_server_says_is_passed_on(door):
    """Its own code, once, and a deadline is the client's."""
    door.peers[0].code = grpc.StatusCode.INVALID_ARGUMENT
    assert await door.ask() == "INVALID_ARGUMENT"
    assert len(door.peers[0].seen) == 1
    door.peers[0].code = grpc.StatusCode.UNAVAILABLE
    for told, passed in (("7", "7"), ("soon", None)):
        door.peers[0].trailers = (("retry-after", told), ("secret", "x"))
        assert await door.later() == passed
    door.peers[0].code = None
    door.peers[0].pause.clear()
    assert await door.ask(timeout=0.2) == "DEADLINE_EXCEEDED"
    async with asyncio.timeout(5):
        while not door.peers[0].cancelled:
            await asyncio.sleep(0.01)
    await until(lambda: not door.stand.gateway.servers.get(door.targets[0]).outstanding)


async def test_limits_and_usage(door):
    """Calls count as requests do."""
    door.stand.follow(
        application(door.targets[0], route=GRPC), consumers=[consumer(1, KEY, rate=2)]
    )
    found = [await door.ask() for _ in range(3)]
    assert found == [b"one:" + INFER, b"one:" + INFER, "RESOURCE_EXHAUSTED"]
    assert 0 < int(await door.later()) <= 30
    [told] = door.stand.gateway.usage.failures.newest().errors
    assert (told.status, told.consumer, told.model) == (429, "consumer-1", "cats")
    count = next(iter(door.stand.gateway.usage.total.values()))
    assert (count.requests, count.bytes_in, count.bytes_out) == (
        2,
        2 * len(INFER),
        2 * len(INFER) + 8,
    )
    (latencies,) = door.stand.gateway.usage.latencies.collect()
    assert [each.value for each in latencies.samples if each.name.endswith("_count")] == [2.0]


async def test_a_version_is_chosen(door):
    """The version that is drawn is written into the message; one that is named stays."""
    route = {**GRPC, "releases": (Release("2"),)}
    door.stand.follow(application(door.targets[0], route=route))
    assert await door.ask() == b"one:" + INFER + protobuf.text(2, "2")
    named = CATS + protobuf.text(2, "3")
    assert await door.ask(message=named) == b"one:" + named


async def test_a_sequence_stays_where_it_began(door):
    """By ``sequence_id`` among the parameters, a number or a text."""
    door.stand.follow(application(*door.targets, route=GRPC))

    def message(value, *, start):
        return CATS + parameter("sequence_id", value) + parameter("sequence_start", start)

    places = set()
    for number in range(7, 71):  # idle servers are drawn by chance: all 64 at one of two never are
        for value in (number, f"word {number}"):
            first = (await door.ask(message=message(value, start=True))).partition(b":")[0]
            for _ in range(2):
                answer = await door.ask(message=message(value, start=False))
                assert answer.partition(b":")[0] == first
            places.add(first)
        if len(places) == len(door.peers):
            break
    assert len(places) == len(door.peers)


def parameter(name, value):
    """Return a parameter of an inference."""
    if isinstance(value, str):
        inner = protobuf.text(3, value)
    else:
        inner = b"%c%c" % (8 if isinstance(value, bool) else 16, int(value))
    entry = protobuf.text(1, name) + b"\x12%c%b" % (len(inner), inner)
    return b"\x22%c%b" % (len(entry), entry)


async def test_a_stream(door):
    """Messages go to one server, several answers come back for each; the client ends it."""
    door.stand.follow(application(*door.targets, route=GRPC))
    call = door.channel.stream_stream(f"/{SERVICE}/ModelStreamInfer")(metadata=(("apikey", KEY),))
    answers = []
    for _ in range(3):
        await call.write(INFER)
        answers += [await call.read(), await call.read()]
    await call.done_writing()
    assert await call.read() is grpc.aio.EOF
    name = answers[0][:-1]
    assert answers == [name + b"1", name + b"2"] * 3
    assert sorted(len(peer.seen) for peer in door.peers) == [0, 3]
    async with asyncio.timeout(5):
        while any(door.stand.gateway.servers.get(each).outstanding for each in door.targets):
            await asyncio.sleep(0.01)


async def test_a_stream_is_looked_at_message_by_message(door):
    """One that asks for another model ends the stream; the server never sees it."""
    call = door.channel.stream_stream(f"/{SERVICE}/ModelStreamInfer")(metadata=(("apikey", KEY),))
    await call.write(INFER)
    assert await call.read() == b"one1"
    assert await call.read() == b"one2"
    await call.write(protobuf.text(1, "dogs"))
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await rest(call)
    assert error.value.code() is grpc.StatusCode.NOT_FOUND
    assert len(door.peers[0].seen) == 1


async def rest(call):
    """Read a stream to its end."""
    while await call.read() is not grpc.aio.EOF:
        pass


def test_fields_that_are_cut():
    """Whatever a message is cut to, it is read or refused, and nothing else."""
    whole = INFER[:60] + parameter("sequence_id", "a")
    odd = CATS + parameter("sequence_id", "a").replace(b"_id", b"_\xe9d")
    assert protobuf.requested_model(odd, infer=True).step is None
    for size in range(len(whole)):
        with contextlib.suppress(BadRequest):
            protobuf.requested_model(whole[:size], infer=True)


async def streamed(door, *messages):
    """Send messages as one stream; return its answers, or how it ended."""
    call = door.channel.stream_stream(f"/{SERVICE}/ModelStreamInfer")(metadata=(("apikey", KEY),))
    answers = []
    try:
        for message in messages:
            await call.write(message)
            answers += [await call.read(), await call.read()]
        await call.done_writing()
        await rest(call)
    except grpc.aio.AioRpcError as error:
        return error.code().name, error.details(), error.trailing_metadata().get("retry-after")
    return answers


async def test_a_stream_begins_at_a_server_that_can_be_reached(door):
    """As a call does: the one that is away is passed over, and its address is not told."""
    away = Target("127.0.0.1", door.targets[0].port, 1e6, rpc=9)
    door.stand.follow(application(away, door.targets[1], route=GRPC))
    assert await streamed(door, INFER) == [b"two1", b"two2"]
    assert not door.stand.gateway.usage.failures.newest().errors
    door.stand.follow(application(away, route=GRPC))
    told = ("UNAVAILABLE", "The model is not ready on any server", "1")
    assert await streamed(door, INFER) == told
    [error] = door.stand.gateway.usage.failures.newest().errors
    assert (error.status, error.consumer, error.model, error.reason) == (
        *(500, "consumer-1", "cats"),
        told[1],
    )
    (count,) = door.stand.gateway.usage.total.values()
    assert (count.requests, count.failed, count.bytes_in) == (2, 1, 2 * len(INFER))


async def test_a_stream_without_a_server_is_a_request(door):
    """It counts as failed, and against the limits, as a call does."""
    door.stand.follow(application(route=GRPC), consumers=[consumer(1, KEY, quota=2)])
    found = [(await streamed(door, INFER))[0] for _ in range(3)]
    assert found == ["UNAVAILABLE", "UNAVAILABLE", "RESOURCE_EXHAUSTED"]
    (count,) = door.stand.gateway.usage.total.values()
    assert (count.requests, count.failed) == (2, 2)


async def test_a_server_that_is_late(door):
    """The gateway says so, to an operator too; its consumer's own deadline is no error."""
    door.peers[0].pause.clear()
    assert await door.ask(timeout=0.1) == "DEADLINE_EXCEEDED"
    assert not door.stand.gateway.usage.failures.newest().errors
    door.stand.follow(application(door.targets[0], route=GRPC, timeout=0.2))
    assert await door.ask() == "DEADLINE_EXCEEDED"
    [error] = door.stand.gateway.usage.failures.newest().errors
    assert (error.status, error.reason) == (500, "The server did not answer within 0.2 s")


async def test_a_mirror(door, upstreams):  # noqa: F811
    """A copy goes to a server that has the version, whichever the request names."""
    upstreams[0].ready.discard("3")
    route = {**GRPC, "mirror": "3"}
    door.stand.follow(application(*door.targets, route=route))
    first = door.stand.gateway.servers.get(door.targets[0])
    await until(lambda: "/v2/models/cats/versions/3/ready" in first.unready)
    third, copies = protobuf.text(2, "3"), []
    for message in (INFER, INFER + protobuf.text(2, "1")) * 4:
        assert (await door.ask(message=message)).endswith(message)
        copies.append(message + third)
        await until(lambda: [each for _, each in door.peers[1].seen if third in each] == copies)
    assert not any(third in message for _, message in door.peers[0].seen)
    assert {each["x-consumer-username"] for each in door.peers[1].metadata} == {"consumer-1"}
    (count,) = door.stand.gateway.usage.total.values()
    assert count.requests == len(copies)
