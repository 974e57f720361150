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
_HOP = {
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
_OURS = {
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
"""What says who asks, or is said anew."""
_FORTH = frozenset(_HOP | _OURS)
_BACK = frozenset(_HOP | {b"content-length", b"set-cookie", b"server", b"date"})
_CONSUMER = b"x-consumer-"
_JUDGED = frozenset({b"content-encoding", HEADER_LENGTH.lower().encode()})
"""By what the gateway has read a body: the server reads it by the same, whatever ``Connection``
names, and never by the like of it."""
_UNFIT = re.compile(rb"[\r\n\0]")


def forth(given: Fields, consumer: str, address: str) -> bytes:
    """Return the lines of the header of the request to a server, without those on its body."""
    return passed(given, consumer) + origin(address)


def origin(address: str) -> bytes:
    """Return the line that tells where a request came from."""
    return f"X-Forwarded-For: {address}\r\n".encode("utf-8", "replace")


def passed(given: Fields, consumer: str) -> bytes:
    """Return the lines of what passes of a request, and of who asks."""
    given = list(given)
    named = _named(given) - _JUDGED
    lines = []
    for name, value in given:
        if not _passes(name) or (named and _plain(name) in named):
            continue
        if not _UNFIT.search(value):
            lines.append(b"%b: %b\r\n" % (name, value))
    told = f"X-Consumer-Username: {consumer}\r\n"
    return b"".join((*lines, told.encode("utf-8", "replace")))


@functools.lru_cache(1024)
def _passes(name: bytes) -> bool:
    """Whether a field of this name is for servers too. Clients send the same few all the time."""
    plain = _plain(name)
    if plain in _JUDGED and name.lower() != plain:
        return False
    return plain not in _FORTH and not plain.startswith(_CONSUMER)


def _plain(name: bytes) -> bytes:
    """Return a name as servers that make variables of names know it: they mix some up."""
    return name.lower().replace(b"_", b"-")


def body_type(given: Mapping[str, str]) -> bytes:
    """Return the line of a body's type: bytes where tensors follow the JSON, else JSON.

    Whatever the client calls it: a Triton of 2025 dies of a long form.
    """
    said = given.get("Content-Type", "").partition(";")[0].strip().lower()
    kind = BINARY if HEADER_LENGTH in given or said == BINARY else JSON
    return f"Content-Type: {kind}\r\n".encode()


def back(given: Fields) -> list[tuple[str, str]]:
    """Return the header fields of the answer to a client."""
    given = list(given)
    named = _named(given)
    return [
        (name.decode("ascii"), value.decode("utf-8", "replace"))
        for name, value in given
        if (lower := name.lower()) not in _BACK and lower not in named
    ]


def _named(given: Fields) -> frozenset[bytes]:
    """Return the fields that ``Connection`` names: they are for the next hop alone."""
    said = [value for name, value in given if name.lower() == b"connection"]
    if not said:
        return frozenset()
    return frozenset(each.strip().lower() for each in b",".join(said).split(b","))
