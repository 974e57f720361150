"""A call of the inference protocol over gRPC is passed on to a server, or to the next one."""

from __future__ import annotations

import asyncio
import functools
import logging
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import unquote

import grpc

from mataserver import Unavailable
from mataserver_fleet.gateway import protobuf
from mataserver_fleet.gateway.channels import ChannelPool
from mataserver_fleet.gateway.exchange import UpstreamFailure
from mataserver_fleet.gateway.sequences import Destination

if TYPE_CHECKING:
    from mataserver import MataError
    from mataserver_fleet.gateway.gateway import Gateway
    from mataserver_fleet.gateway.snapshot import Consumer, Place, Target

SERVICE = "inference.GRPCInferenceService"
_RETRYABLE = frozenset({grpc.StatusCode.UNAVAILABLE})
_MODEL_MISSING = grpc.StatusCode.NOT_FOUND
"""By which a server may say that it has no such model now. ``UNAVAILABLE`` may also be that of one
that broke off, and it may have run the request."""
_LATE = grpc.StatusCode.DEADLINE_EXCEEDED
_EARLY_SECONDS = 0.05
"""Seconds by which gRPC's own clock may be ahead of the loop's."""

log = logging.getLogger("mataserver.plugin.fleet")


class RpcCall(NamedTuple):
    """A call that may be answered. ``peer`` is the consumer's address as gRPC names it."""

    name: str
    message: bytes
    requested: protobuf.RequestedModel
    place: Place
    consumer: Consumer
    peer: str


class Attempts:
    """How often a call may still be sent, and to which servers it was.

    bound: where the call's sequence is, if it is of one.
    """

    def __init__(self, place: Place, bound: Destination | None) -> None:
        self.left = place.application.retries + 1
        self.bound = bound
        self.tried: set[str] = set()


class RpcForwarder:
    """Asks the servers of a model. ``channels`` are the connections to them."""

    def __init__(self, gateway: Gateway) -> None:
        self.channels = ChannelPool(gateway.resolver)
        self._gateway = gateway

    async def close(self) -> None:
        """End the connections, and the copies that use them."""
        await self._gateway.mirror.close()
        await self.channels.close()

    def attempts(
        self, place: Place, requested: protobuf.RequestedModel, consumer: Consumer
    ) -> Attempts:
        """Return those of a call. Raises ``SequenceTaken``."""
        version, step = requested.version, requested.step
        selector = self._gateway.selector
        return Attempts(place, selector.bound_destination(place, version, step, consumer.id))

    async def connect(
        self, place: Place, version: str, attempts: Attempts
    ) -> tuple[Destination, Any]:
        """Return a server that has the model, and its channel, which is connected.

        Raises ``Unavailable``.
        """
        choose, tried = self._gateway.selector.choose, attempts.tried
        while attempts.left:
            attempts.left -= 1
            destination = choose(place, version, attempts.bound, tried, rpc=True)
            if destination is None:
                break
            try:
                return destination, await self.channels.connected(destination.target)
            except OSError:  # it cannot be reached, or has no address that may be asked
                self.doubt(destination.target)
                tried.add(destination.target.url)
        raise no_server()

    def doubt(self, target: Target) -> None:
        """Note that a server has failed."""
        self._gateway.servers.get(target).mark_suspect()
        self.channels.renew(target)

    async def answer(self, call: RpcCall, context: Any) -> bytes:
        """Ask servers until one answers; return what it does.

        Raises ``AioRpcError``, ``Unavailable``, ``UpstreamFailure`` and ``SequenceTaken``.
        """
        requested, place = call.requested, call.place
        self._start_copy(call)
        attempts = self.attempts(place, requested, call.consumer)
        deadline = asyncio.get_running_loop().time() + place.application.timeout
        failure: grpc.aio.AioRpcError | MataError | None = None
        while True:
            try:
                asked = await self.connect(place, requested.version, attempts)
            except Unavailable as error:
                raise failure or error from None
            destination = asked[0]
            try:
                answer = await self._attempt(call, asked, context, deadline)
            except grpc.aio.AioRpcError as error:
                failure = await self._judge(error, call, destination, attempts)
                attempts.tried.add(destination.target.url)
                continue
            if requested.step is not None:
                selector = self._gateway.selector
                selector.bind(place, requested.step, destination, call.consumer.id)
            return answer

    async def _judge(
        self,
        error: grpc.aio.AioRpcError,
        call: RpcCall,
        destination: Destination,
        attempts: Attempts,
    ) -> grpc.aio.AioRpcError | MataError:
        """Return the failure of a call that may be sent to another server; else raise it."""
        is_free = attempts.bound is None
        asked_in_vain = is_free and error.code() is _MODEL_MISSING
        if asked_in_vain and await self._lacks_model(call, destination, attempts.tried):
            return no_server()
        if error.code() not in _RETRYABLE:
            raise error
        self.doubt(destination.target)
        if not is_free or not call.place.application.resend:  # it may have run the request
            raise error
        return error

    async def _lacks_model(self, call: RpcCall, destination: Destination, tried: set[str]) -> bool:
        """Whether a server answered that it has not the model: then it counts as not asked.

        What the last one says of a version that the client named is the client's.
        """
        target, place = destination.target, call.place
        if call.name != "ModelInfer" or target.kind == "own":
            return False
        path = place.route.path(destination.version, "ready")
        server = self._gateway.servers.get(target)
        if not await self._gateway.prober.says_not_ready(target, server, path):
            return False
        version, attempted = call.requested.version, {*tried, target.url}
        choose = self._gateway.selector.choose
        return not version or choose(place, version, None, attempted, rpc=True) is not None

    async def _attempt(
        self, call: RpcCall, asked: tuple[Destination, Any], context: Any, deadline: float
    ) -> bytes:
        destination, sent = asked[0], call.message
        if adds_version(call.requested, destination):
            sent = protobuf.with_version(sent, destination.version)
        clock, left = asyncio.get_running_loop().time, context.time_remaining()
        seconds = max(0.001, deadline - clock())
        try:
            return await self._send(
                call, asked, sent, seconds if left is None else min(left, seconds)
            )
        except grpc.aio.AioRpcError as error:
            if error.code() is not _LATE or deadline - clock() > _EARLY_SECONDS:
                raise
            self.doubt(destination.target)
            late = f"The server did not answer within {call.place.application.timeout:.3g} s"
            raise UpstreamFailure(late, sent=True, status=504) from None

    async def _send(
        self, call: RpcCall, asked: tuple[Destination, Any], message: bytes, seconds: float
    ) -> bytes:
        (target, _), channel = asked
        method = channel.unary_unary(f"/{SERVICE}/{call.name}")
        metadata = upstream_metadata(target, call.consumer, call.peer)
        server = self._gateway.servers.get(target)
        server.begin()
        try:
            return bytes(await method(message, timeout=seconds, metadata=metadata))
        finally:
            server.end()

    def _start_copy(self, call: RpcCall) -> None:
        """Send a copy to the mirrored version; its answer is not awaited."""
        is_one = call.name == "ModelInfer" and call.requested.step is None
        if call.place.route.mirror and is_one:
            self._gateway.mirror.start(functools.partial(self._copy, call))

    async def _copy(self, call: RpcCall) -> None:
        (application, route), servers = call.place, self._gateway.servers
        targets = [each for each in route.targets if each.rpc]
        target = servers.pick(targets, route.path(route.mirror, "ready"))
        if target is None:
            return
        message = protobuf.with_version(call.message, route.mirror)
        try:
            asked = Destination(target, route.mirror), await self.channels.connected(target)
            await self._send(call, asked, message, application.timeout)
        except (grpc.aio.AioRpcError, OSError) as error:
            log.info("a copy for version %s failed: %s", route.mirror, type(error).__name__)


def adds_version(requested: protobuf.RequestedModel, destination: Destination) -> bool:
    """Whether a version was chosen that the message does not name."""
    return bool(destination.version) and not requested.version


def upstream_metadata(target: Target, consumer: Consumer, peer: str) -> tuple[tuple[str, str], ...]:
    """Return the metadata that a server is sent: the gateway's key where it wants one, who calls.

    peer: the consumer's address as gRPC names it.
    """
    key = target.key_for(consumer.id) if target.token else ""
    address = unquote(peer.partition(":")[2].rpartition(":")[0]).strip("[]")
    return (
        ("x-consumer-username", consumer.name),
        *((("x-forwarded-for", address),) if address else ()),
        *((("authorization", f"Bearer {key}"),) if key else ()),
    )


def no_server() -> Unavailable:
    """Return the error of a model that no server has ready."""
    return Unavailable("The model is not ready on any server", retry_after=1)
