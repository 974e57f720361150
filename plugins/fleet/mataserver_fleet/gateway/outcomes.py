"""How a call of gRPC ends: the code and the words that its consumer gets, and how it counts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import grpc

from mataserver_fleet.gateway import channels

if TYPE_CHECKING:
    from mataserver import MataError

_AWAY = "failed to connect to all addresses"
"""What gRPC says of a server whose connection was lost just before a call, and then its address."""
_TOO_LARGE = "Received message larger than max"
"""What gRPC says of a message over a limit; who says it, a client or a server, stands before it."""
CODES = {
    400: grpc.StatusCode.INVALID_ARGUMENT,
    401: grpc.StatusCode.UNAUTHENTICATED,
    403: grpc.StatusCode.PERMISSION_DENIED,
    404: grpc.StatusCode.NOT_FOUND,
    409: grpc.StatusCode.ALREADY_EXISTS,
    408: grpc.StatusCode.DEADLINE_EXCEEDED,
    429: grpc.StatusCode.RESOURCE_EXHAUSTED,
    503: grpc.StatusCode.UNAVAILABLE,
    504: grpc.StatusCode.DEADLINE_EXCEEDED,
}
FAILED_CODES = frozenset(
    {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.UNKNOWN,
        grpc.StatusCode.DEADLINE_EXCEEDED,
    }
)


def outcome_of(error: grpc.aio.AioRpcError) -> tuple[grpc.StatusCode, str]:
    """Return the code and the words with which a consumer's call ends for a server's failure.

    gRPC calls an answer over the limit ``RESOURCE_EXHAUSTED``, as if the consumer had asked too
    often.
    """
    told = error.details() or ""
    if error.code() is grpc.StatusCode.UNAVAILABLE and told.startswith(_AWAY):
        return error.code(), "The server cannot be reached"  # its address is nobody's to know
    if error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED and f"CLIENT: {_TOO_LARGE}" in told:
        limit = f"{channels.MAX_ANSWER_BYTES / 2**20:g} MiB"
        return grpc.StatusCode.INTERNAL, f"The server's answer is over the limit of {limit}"
    return error.code(), told


def own_words(error: grpc.aio.AioRpcError, told: str) -> str:
    """Return what a consumer was told by ``outcome_of``; empty where a server said it."""
    return "" if told == (error.details() or "") else told


def retry_metadata(error: grpc.aio.AioRpcError) -> tuple[tuple[str, str], ...]:
    """Return the metadata that says when a call that a server failed may succeed, if it did."""
    told = str((error.trailing_metadata() or {}).get("retry-after", ""))
    is_seconds = told.isascii() and told.isdecimal() and len(told) < 10
    return (("retry-after", told),) if is_seconds else ()


def status_of(code: Any) -> int:
    """Return the status as which an outcome counts."""
    return 500 if code in FAILED_CODES else 200


async def abort(context: Any, error: MataError) -> None:
    """End a call with the gateway's own error, and when to try again."""
    code, seconds = CODES.get(error.status, grpc.StatusCode.INTERNAL), error.retry_seconds
    later = () if seconds is None else (("retry-after", str(seconds)),)
    await context.abort(code, error.detail, later)
