"""A call of the inference protocol over gRPC is passed on to a server, or to the next one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

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
_RESENT = frozenset({grpc.StatusCode.UNAVAILABLE})


class RpcCall(NamedTuple):
    """A call that may be answered."""

    name: str
    message: bytes
    asked: protobuf.RequestedModel
    place: Place
    consumer: Consumer


class RpcForwarder:
    """Asks the servers of a model. ``channels`` are the connections to them."""

    def __init__(self, gateway: Gateway) -> None:
        self.channels = ChannelPool(gateway.reaching)
        self._gateway = gateway

    async def answer(self, call: RpcCall, context: Any) -> bytes:
        """Ask servers until one answers; return what it does.

        Raises ``AioRpcError``, ``Unavailable`` and ``SequenceTaken``.
        """
        asked, place = call.asked, call.place
        application, choosing = place.application, self._gateway.choosing
        bound = choosing.bound(place, asked.version, asked.step, call.consumer.id)
        tried: set[str] = set()
        failure: grpc.aio.AioRpcError | MataError | None = None
        for _ in range(application.retries + 1):
            pin = choosing.choose(place, asked.version, bound, tried, rpc=True)
            if pin is None:
                break
            try:
                answer = await self._ask(call, pin, context)
            except OSError:  # it has no address that may be asked
                failure = nobody()
                self._gateway.servers.of(pin.target).doubt()
                tried.add(pin.target.url)
                continue
            except grpc.aio.AioRpcError as error:
                failure = error
                if error.code() not in _RESENT:
                    raise
                self._gateway.servers.of(pin.target).doubt()
                self.channels.renew(pin.target)
                unsent = "connect" in (error.details() or "")
                if bound is not None or not (unsent or application.resend):
                    raise
                tried.add(pin.target.url)
                continue
            if asked.step is not None:
                choosing.bind(place, asked.step, pin, call.consumer.id)
            return answer
        raise failure or nobody()

    async def _ask(self, call: RpcCall, pin: Destination, context: Any) -> bytes:
        server, sent = self._gateway.servers.of(pin.target), call.message
        if adds(call.asked, pin):
            sent = protobuf.with_version(sent, pin.version)
        left, seconds = context.time_remaining(), call.place.application.timeout
        if left is not None:
            seconds = min(left, seconds)
        channel = await self.channels.of(pin.target)
        method = channel.unary_unary(f"/{SERVICE}/{call.name}")
        metadata = shown(pin.target, call.consumer)
        server.begin()
        try:
            return bytes(await method(sent, timeout=seconds, metadata=metadata))
        finally:
            server.end()


def adds(asked: protobuf.RequestedModel, pin: Destination) -> bool:
    """Whether a version was chosen that the message does not name."""
    return bool(pin.version) and not asked.version


def shown(target: Target, consumer: Consumer) -> tuple[tuple[str, str], ...]:
    """Return the metadata that a server is sent: the gateway's key, where it wants one."""
    key = target.shown(consumer.id) if target.token else ""
    return (("authorization", f"Bearer {key}"),) if key else ()


def nobody() -> Unavailable:
    """Return the error of a model that no server has ready."""
    return Unavailable("No server has the model ready now")
