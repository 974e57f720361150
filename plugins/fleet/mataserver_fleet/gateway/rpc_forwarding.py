"""A call of the inference protocol over gRPC is passed on to a server, or to the next one."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import unquote

import grpc

from mataserver import Unavailable
from mataserver_fleet.gateway import protobuf
from mataserver_fleet.gateway.channels import ChannelPool

if TYPE_CHECKING:
    from mataserver import MataError
    from mataserver_fleet.gateway.gateway import Gateway
    from mataserver_fleet.gateway.sequences import Destination
    from mataserver_fleet.gateway.snapshot import Consumer, Place, Target

SERVICE = "inference.GRPCInferenceService"
_RETRYABLE = frozenset({grpc.StatusCode.UNAVAILABLE})
_MODEL_MISSING = grpc.StatusCode.NOT_FOUND
"""By which a server may say that it has no such model now. ``UNAVAILABLE`` may also be that of one
that broke off, and it may have run the request."""


class RpcCall(NamedTuple):
    """A call that may be answered."""

    name: str
    message: bytes
    requested: protobuf.RequestedModel
    place: Place
    consumer: Consumer


class RpcForwarder:
    """Asks the servers of a model. ``channels`` are the connections to them."""

    def __init__(self, gateway: Gateway) -> None:
        self.channels = ChannelPool(gateway.resolver)
        self._gateway = gateway

    async def answer(self, call: RpcCall, context: Any) -> bytes:
        """Ask servers until one answers; return what it does.

        Raises ``AioRpcError``, ``Unavailable`` and ``SequenceTaken``.
        """
        requested, place = call.requested, call.place
        application, selector = place.application, self._gateway.selector
        bound = selector.bound_destination(
            place, requested.version, requested.step, call.consumer.id
        )
        tried: set[str] = set()
        deadline = asyncio.get_running_loop().time() + application.timeout
        failure: grpc.aio.AioRpcError | MataError | None = None
        for _ in range(application.retries + 1):
            destination = selector.choose(place, requested.version, bound, tried, rpc=True)
            if destination is None:
                break
            try:
                answer = await self._attempt(call, destination, context, deadline)
            except OSError:  # it cannot be reached, or has no address that may be asked
                failure = no_server()
                self._gateway.servers.get(destination.target).mark_suspect()
                self.channels.renew(destination.target)
                tried.add(destination.target.url)
                continue
            except grpc.aio.AioRpcError as error:
                failure = error
                asked_in_vain = bound is None and error.code() is _MODEL_MISSING
                if asked_in_vain and await self._lacks_model(call, destination, tried):
                    failure = no_server()
                    tried.add(destination.target.url)
                    continue
                if error.code() not in _RETRYABLE:
                    raise
                self._gateway.servers.get(destination.target).mark_suspect()
                self.channels.renew(destination.target)
                if bound is not None or not application.resend:  # it may have run the request
                    raise
                tried.add(destination.target.url)
                continue
            if requested.step is not None:
                selector.bind(place, requested.step, destination, call.consumer.id)
            return answer
        raise failure or no_server()

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
        self, call: RpcCall, destination: Destination, context: Any, deadline: float
    ) -> bytes:
        server, sent = self._gateway.servers.get(destination.target), call.message
        if adds_version(call.requested, destination):
            sent = protobuf.with_version(sent, destination.version)
        channel = await self.channels.connected(destination.target)
        left = context.time_remaining()
        seconds = max(0.001, deadline - asyncio.get_running_loop().time())
        if left is not None:
            seconds = min(left, seconds)
        method = channel.unary_unary(f"/{SERVICE}/{call.name}")
        metadata = upstream_metadata(destination.target, call.consumer, context.peer())
        server.begin()
        try:
            return bytes(await method(sent, timeout=seconds, metadata=metadata))
        finally:
            server.end()


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
    return Unavailable("The model is not ready on any server")
