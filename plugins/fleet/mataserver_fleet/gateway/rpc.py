"""The inference protocol over gRPC: messages pass as bytes, on a port of its own.

A consumer's key stands in the metadata, as ``apikey`` or ``authorization``. The application is told
by the metadata ``application``, or is the consumer's that has the model.
"""

from __future__ import annotations

import contextlib
import functools
import time
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import grpc

from mataserver import MataError, NotFound, Unavailable, sole_value
from mataserver_fleet.gateway import callers, protobuf
from mataserver_fleet.gateway.grants import InvalidKey, Unlinked
from mataserver_fleet.gateway.inspection import region_refusal
from mataserver_fleet.gateway.keys import keys_in_fields
from mataserver_fleet.gateway.outcomes import (
    CODES,
    FAILED_CODES,
    abort,
    outcome_of,
    own_words,
    retry_metadata,
    status_of,
)
from mataserver_fleet.gateway.rpc_forwarding import (
    SERVICE,
    RpcCall,
    RpcForwarder,
    adds_version,
    upstream_metadata,
)
from mataserver_fleet.gateway.rpc_streams import STREAM_METHOD, ServerStream
from mataserver_fleet.gateway.usage import Subject, UsageCount

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from mataserver import RpcPort, Share
    from mataserver_fleet.gateway.gateway import Gateway
    from mataserver_fleet.gateway.sequences import Destination
    from mataserver_fleet.gateway.snapshot import Consumer, Place, Snapshot

_FORWARDED_METHODS = frozenset(
    {"ModelInfer", "ModelReady", "ModelMetadata", "ModelConfig", "ModelStatistics"}
)
_LOCAL_ANSWERS = {
    "ServerLive": protobuf.TRUE,
    "ServerReady": protobuf.TRUE,
    "ServerMetadata": protobuf.text(1, "mataserver") + protobuf.text(2, "2"),
}
"""What the gateway answers itself."""


class Caller(NamedTuple):
    """Who calls, and the application that they name, if any."""

    consumer: Consumer
    application: str


class RpcGateway(grpc.GenericRpcHandler):  # type: ignore[misc]
    """Serves while it is entered, on a port that is its own."""

    def __init__(self, gateway: Gateway, rpc_port: RpcPort) -> None:
        self._gateway = gateway
        self._rpc_port = rpc_port.serve(self)
        self._forwarding = RpcForwarder(gateway)

    @property
    def port(self) -> int:
        """Where it listens."""
        return self._rpc_port.port

    async def __aenter__(self) -> Self:
        """Listen. Raises ``MataError`` when it cannot."""
        await self._rpc_port.__aenter__()
        return self

    async def __aexit__(self, *exc: object) -> None:
        """Accept no further calls; wait for those in flight where the server stops."""
        await self._rpc_port.__aexit__(*exc)
        await self._forwarding.close()

    def service(self, details: Any) -> Any:
        """Return what answers a method; None for one that is not passed on."""
        package, _, name = details.method.lstrip("/").partition("/")
        if package != SERVICE:
            return None
        if name in _FORWARDED_METHODS:
            return grpc.stream_unary_rpc_method_handler(self._call(name, self._answer_unary))
        if name in _LOCAL_ANSWERS:
            return grpc.stream_unary_rpc_method_handler(self._call(name, self._answer_local))
        if name == STREAM_METHOD:
            return grpc.stream_stream_rpc_method_handler(self._stream)
        return None

    def _call(self, name: str, answer: Any) -> Any:
        """Return how a method is called: as one of a stream, to see the key before a message."""

        async def call(_messages: object, context: Any) -> bytes:
            try:
                return bytes(await answer(name, context))
            except MataError as error:
                self._gateway.admissions.note_unlinked(error)
                await abort(context, error)
            raise AssertionError  # ``abort`` raises

        return call

    async def _answer_local(self, name: str, context: Any) -> bytes:
        self._caller(context)
        return _LOCAL_ANSWERS[name]

    async def _answer_unary(self, name: str, context: Any) -> bytes:
        caller = self._caller(context)
        share = self._gateway.share(caller.consumer)
        try:
            message = await self._read_first(context, caller, share)
            return await self._answer_counted(name, caller, message, share, context)
        finally:
            share.give_back()

    async def _answer_counted(
        self, name: str, caller: Caller, message: bytes, share: Share, context: Any
    ) -> bytes:
        """Return the answer to a message, in flight until it is read; count it as usage."""
        requested = protobuf.requested_model(message, infer=name == "ModelInfer")
        place = _place(self._gateway.snapshot, caller, requested.model)
        if name == "ModelInfer":
            self._check_regions(place, message)
        admission = self._gateway.admissions.admit(caller.consumer, place)
        code, answer, reason = grpc.StatusCode.CANCELLED, b"", ""
        try:
            call = RpcCall(name, message, requested, place, caller.consumer, context.peer())
            received = await self._forwarding.answer(call, context)
            share.give_back()
            self._rpc_port.answer(context, self._gateway.share(caller.consumer), len(received))
            answer = received
            code = grpc.StatusCode.OK
        except grpc.aio.AioRpcError as error:
            code, told = outcome_of(error)
            reason = own_words(error, told)
            await context.abort(code, told, retry_metadata(error))
        except MataError as error:
            code = CODES.get(error.status, grpc.StatusCode.INTERNAL)
            reason = error.detail
            raise
        finally:
            took = None
            if code != grpc.StatusCode.CANCELLED:
                took = time.monotonic() - admission.begun
            subject, sizes = _subject(caller, place), (len(message), len(answer))
            self._gateway.usage.note(
                admission.day, subject, status_of(code), *sizes, took, reason=reason
            )
        return answer

    async def _stream(self, _messages: object, context: Any) -> AsyncIterator[bytes]:
        share: Share | None = None
        try:
            caller = self._caller(context)
            share = self._gateway.share(caller.consumer)
            first = await self._read_first(context, caller, share)
            requested = protobuf.requested_model(first, infer=True)
            place = _place(self._gateway.snapshot, caller, requested.model)
            destination, channel = await self._connect(caller, place, first, requested)
            stream = ServerStream(
                functools.partial(self._admit_message, caller, destination),
                self._gateway.servers.get(destination.target),
                upstream_metadata(destination.target, caller.consumer, context.peer()),
                share,
            )
            with self._gateway.grants.hold(caller.consumer, place, "grpc", stream.end):
                async for answer in stream.answers(channel, first, context):
                    self._add_usage(caller, place, UsageCount(bytes_out=len(answer)))
                    yield answer
            if stream.refusal is not None:
                raise stream.refusal
        except grpc.aio.AioRpcError as error:
            code, told = outcome_of(error)
            if code is grpc.StatusCode.UNAVAILABLE:
                self._forwarding.doubt(destination.target)
            if code in FAILED_CODES:
                self._add_usage(caller, place, UsageCount(failed=1))
                reason = own_words(error, told)
                self._gateway.usage.failures.note(status_of(code), _subject(caller, place), reason)
            await context.abort(code, told, retry_metadata(error))
        except MataError as error:
            self._gateway.admissions.note_unlinked(error)
            await abort(context, error)
        finally:
            if share is not None:
                share.give_back()

    async def _connect(
        self, caller: Caller, place: Place, first: bytes, requested: protobuf.RequestedModel
    ) -> tuple[Destination, Any]:
        """Return the server of a stream and its channel; a stream without one counts as failed.

        Raises ``Unavailable``, ``SequenceTaken`` and ``TooManyRequests``.
        """
        attempts = self._forwarding.attempts(place, requested, caller.consumer)
        try:
            return await self._forwarding.connect(place, requested.version, attempts)
        except Unavailable as error:
            day = self._gateway.admissions.admit(caller.consumer, place).day
            subject, reason = _subject(caller, place), error.detail
            self._gateway.usage.note(day, subject, 500, len(first), 0, reason=reason)
            raise

    def _admit_message(self, caller: Caller, destination: Destination, message: bytes) -> bytes:
        """Return what is sent for a message of a stream, which stays with its server.

        Raises as a call does.
        """
        requested = protobuf.requested_model(message, infer=True)
        place = _place(self._gateway.snapshot, caller, requested.model)
        if destination.target not in place.route.targets:
            raise NotFound("The stream's server does not have this model")
        self._check_regions(place, message)
        day = self._gateway.admissions.admit(caller.consumer, place).day
        if requested.step is not None:
            self._gateway.selector.bind(place, requested.step, destination, caller.consumer.id)
        self._gateway.usage.note(day, _subject(caller, place), 200, len(message), 0)
        return (
            protobuf.with_version(message, destination.version)
            if adds_version(requested, destination)
            else message
        )

    def _check_regions(self, place: Place, message: bytes) -> None:
        """Raise ``BadRequest`` for shared memory that the application's consumers may not name."""
        may = place.application.name in self._gateway.shared_memory_apps
        if not may and protobuf.names_region(message):
            raise region_refusal()

    def _caller(self, context: Any) -> Caller:
        """Return who calls. Raises ``InvalidKey``, and ``BadRequest`` for what is there twice."""
        given: dict[str, list[str]] = {}
        for name, value in context.invocation_metadata() or ():
            given.setdefault(name, []).append(str(value))
        keys = keys_in_fields(given)
        if not keys:
            raise InvalidKey("No API key: send it as apikey or authorization in the metadata")
        application = sole_value("application", given.get("application", ()))
        return Caller(callers.consumer_of_keys(self._gateway.snapshot, keys), application)

    async def _read_first(self, context: Any, caller: Caller, share: Share) -> bytes:
        """Return the first message. Raises as ``RpcPort.read``, and ``InvalidKey``."""

        @contextlib.asynccontextmanager
        async def calling() -> AsyncIterator[str]:
            yield str(caller.consumer.id)
            self._caller(context)  # the key may have been revoked while the message arrived

        return await self._rpc_port.read(context, share, calling())

    def _add_usage(self, caller: Caller, place: Place, count: UsageCount) -> None:
        """Count what a stream has beside its messages, which were counted as they came."""
        self._gateway.usage.add(self._gateway.limits.today(), _subject(caller, place), count)


def _place(snapshot: Snapshot, caller: Caller, model: str) -> Place:
    """Return the route to a model. Raises ``NotFound`` and ``Unlinked``."""
    every = snapshot.models.get(model, ())
    named = [e for e in every if caller.application in {"", e.application.name}]
    for place in named:
        if caller.consumer.id in place.application.consumers:
            return place
    if named:
        raise Unlinked(caller.consumer.name, named[0].application.name)
    raise NotFound(f"No such model: {model[:64]}")


def _subject(caller: Caller, place: Place) -> Subject:
    return Subject(caller.consumer.name, place.application.name, place.route.model)
