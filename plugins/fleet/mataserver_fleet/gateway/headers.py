"""Which header fields pass the gateway, in either direction (RFC 9110, section 7.6.1)."""

from __future__ import annotations

import functools
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    Fields = Iterable[tuple[bytes, bytes]]

JSON, BINARY = "application/json", "application/octet-stream"
HEADER_LENGTH = "Inference-Header-Content-Length"
_HOP_BY_HOP = {
    b"connection",
    b"http2-settings",
    b"keep-alive",
    b"proxy-authenticate",
    b"proxy-authorization",
    b"proxy-connection",
    b"te",
    b"trailer",
    b"transfer-encoding",
    b"upgrade",
}
_REPLACED = {
    b"apikey",
    b"authorization",
    b"x-api-key",
    b"cookie",
    b"x-csrf-token",
    b"content-length",
    b"content-type",
    b"expect",
    b"forwarded",
    b"host",
    b"x-forwarded-for",
    b"x-forwarded-host",
    b"x-forwarded-proto",
}
"""Fields that carry credentials, or that the gateway sets itself."""
_NOT_FORWARDED = frozenset(_HOP_BY_HOP | _REPLACED)
_NOT_RETURNED = frozenset(_HOP_BY_HOP | {b"content-length", b"set-cookie", b"server", b"date"})
_CONSUMER_PREFIX = b"x-consumer-"
_FRAMING = frozenset({b"content-encoding", HEADER_LENGTH.lower().encode()})
"""Fields by which the gateway read a body. The server must read it by the same ones, whatever
``Connection`` names, and never by a similarly spelt one."""
_LINE_BREAKS = re.compile(rb"[\r\n\0]")


def request_headers(received: Fields, consumer: str, address: str) -> bytes:
    """Return the lines of the header of the request to a server, without those on its body."""
    return forwarded_headers(received, consumer) + forwarded_for(address)


def forwarded_for(address: str) -> bytes:
    """Return the line with a request's client address."""
    return f"X-Forwarded-For: {address}\r\n".encode("utf-8", "replace")


def forwarded_headers(received: Fields, consumer: str) -> bytes:
    """Return the lines of the forwarded fields of a request, and of its consumer."""
    received = list(received)
    named = _connection_options(received) - _FRAMING
    lines = []
    for name, value in received:
        if not _is_forwarded(name) or (named and _normalize(name) in named):
            continue
        if not _LINE_BREAKS.search(value):
            lines.append(b"%b: %b\r\n" % (name, value))
    username = f"X-Consumer-Username: {consumer}\r\n"
    return b"".join((*lines, username.encode("utf-8", "replace")))


@functools.lru_cache(1024)
def _is_forwarded(name: bytes) -> bool:
    """Whether a field of this name is for servers too. Clients send the same few all the time."""
    plain = _normalize(name)
    if plain in _FRAMING and name.lower() != plain:
        return False
    return plain not in _NOT_FORWARDED and not plain.startswith(_CONSUMER_PREFIX)


def _normalize(name: bytes) -> bytes:
    """Return a name as servers that make variables of names know it: they mix some up."""
    return name.lower().replace(b"_", b"-")


def body_type(received: Mapping[str, str]) -> bytes:
    """Return the line of a body's type: bytes where tensors follow the JSON, else JSON.

    Whatever the client calls it: a Triton of 2025 dies of a long form.
    """
    content_type = received.get("Content-Type", "").partition(";")[0].strip().lower()
    kind = BINARY if HEADER_LENGTH in received or content_type == BINARY else JSON
    return f"Content-Type: {kind}\r\n".encode()


def response_headers(received: Fields) -> list[tuple[str, str]]:
    """Return the header fields of the answer to a client."""
    received = list(received)
    named = _connection_options(received)
    return [
        (name.decode("ascii"), value.decode("utf-8", "replace"))
        for name, value in received
        if (lower := name.lower()) not in _NOT_RETURNED and lower not in named
    ]


def _connection_options(received: Fields) -> frozenset[bytes]:
    """Return the fields that ``Connection`` names: they are for the next hop alone."""
    content_type = [value for name, value in received if name.lower() == b"connection"]
    if not content_type:
        return frozenset()
    return frozenset(each.strip().lower() for each in b",".join(content_type).split(b","))
