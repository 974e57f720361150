"""The client's exceptions, and the way from a status or a close code to one of them."""

from __future__ import annotations

import contextlib
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import msgspec

from mataserver_client.errors import (
    BadRequest,
    Conflict,
    InvalidParams,
    MataError,
    NotFound,
    OutOfMemory,
    Shortage,
    Unavailable,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

_MAX_DETAIL_LENGTH = 2_000
_LONGEST = 31_536_000.0
"""Seconds of the longest ``retry_after``, a year: a program may sleep so long, not for ever."""


class ConnectionFailed(MataError):
    """No answer: the server is not there, went away or took too long. Its ``status`` is 0."""

    status = 0


class ClosedMeanwhile(ConnectionFailed, RuntimeError):
    """The client was closed, before the call or meanwhile: another try is of no use.

    A ``RuntimeError``, too, which the plain client raised of a call after its end.
    """

    def __init__(self, detail: str = "The client is closed") -> None:
        super().__init__(detail)


KEY_HINT = (
    "a server keeps the key that it made in api_key in its data_dir, by default "
    "~/.mataserver/api_key; others are in its settings api_keys and api_key"
)
"""Where a key is; what the server itself never says."""


class AuthenticationFailed(MataError):
    """401 or 403: the API key is missing or wrong. As a text it says where the key is kept."""

    status = 401

    def __init__(
        self,
        detail: str,
        *,
        status: int | None = None,
        retry_after: float | None = None,
        hint: str = KEY_HINT,
    ) -> None:
        """Keep the server's sentence, and where the key is."""
        super().__init__(detail, status=status, retry_after=retry_after, hint=hint)

    def __str__(self) -> str:
        return self.told


class BadAnswer(MataError):
    """502: something answered, but not in the way of this API."""

    status = 502


_BY_STATUS: dict[int, type[MataError]] = {
    400: BadRequest,
    401: AuthenticationFailed,
    403: AuthenticationFailed,
    404: NotFound,
    409: Conflict,
    422: InvalidParams,
    503: Unavailable,
    507: OutOfMemory,
}


def from_answer(status: int, headers: Mapping[str, str], body: bytes) -> MataError:
    """Return the exception for an answer of that status, with the server's ``detail``.

    A body that is not the API's ``{"detail": ...}``, such as a proxy's page, is not repeated.
    """
    kind = BadAnswer if status < 400 else _BY_STATUS.get(status, MataError)
    detail = _detail(body) or f"The server answered {status}{_phrase(status)}"
    if 300 <= status < 400 and (elsewhere := _origin(headers.get("Location", ""))):
        detail += f" and points to {elsewhere}: is that its address?"
    error = kind(detail, status=status, retry_after=_retry_after(headers.get("Retry-After")))
    if isinstance(error, OutOfMemory):
        # One without figures, of a full disk or an older server, is not the struct's.
        with contextlib.suppress(msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            error.shortage = msgspec.json.decode(body, type=Shortage)
    return error


def from_close(code: int) -> MataError | None:
    """Return what a WebSocket's close code means; None for an orderly end (1000)."""
    if code == 1000:
        return None
    kind, detail, status = _BY_CODE.get(
        code, (BadAnswer, f"The server closed the stream with the code {code}", 502)
    )
    return kind(detail, status=status)


_BY_CODE: dict[int, tuple[type[MataError], str, int]] = {
    1001: (Unavailable, "The server is going away or this client read too slowly", 503),
    1006: (ConnectionFailed, "The connection to the server was lost", 0),
    1008: (Conflict, "Another connection uses this session", 409),
    1009: (MataError, "A message is larger than allowed", 413),
    1011: (MataError, "The model failed and could not be brought back", 500),
    1012: (Unavailable, "The server restarts", 503),
    1013: (Unavailable, "The server is busy", 503),
    4001: (AuthenticationFailed, "The API key is missing or wrong", 401),
    4004: (NotFound, "The session does not exist or has expired", 404),
}

PASSING_CODES = frozenset({1001, 1006, 1008, 1011, 1012, 1013})
"""Close codes after which the same session may be there again."""

PASSING_STATUSES = frozenset({502, 503, 504})
"""The same for the statuses that a proxy answers while a server restarts."""


def _detail(body: bytes) -> str:
    try:
        value: Any = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return ""
    detail = value.get("detail") if isinstance(value, dict) else None
    return detail[:_MAX_DETAIL_LENGTH] if isinstance(detail, str) else ""


def _origin(url: str) -> str:
    """Return a URL's scheme and host: its path may repeat what was sent. "" for a relative one."""
    try:
        parts = urlsplit(url)
        port = f":{parts.port}" if parts.port else ""
    except ValueError:
        return ""
    return f"{parts.scheme}://{parts.hostname}{port}" if parts.scheme and parts.hostname else ""


def _phrase(status: int) -> str:
    known = status in HTTPStatus._value2member_map_
    return f" ({HTTPStatus(status).phrase})" if known else ""


def _retry_after(value: str | None) -> float | None:
    """Seconds from a ``Retry-After`` header, which holds seconds or a date (RFC 9110, 10.2.3)."""
    if value is None:
        return None
    if value.strip().isdecimal():
        return min(float(value), _LONGEST)
    try:
        moment = parsedate_to_datetime(value)
    except (ValueError, OverflowError):
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return min(max(0.0, (moment - datetime.now(UTC)).total_seconds()), _LONGEST)
