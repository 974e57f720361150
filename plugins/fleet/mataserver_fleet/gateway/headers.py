"""Which header fields pass the gateway, in either direction (RFC 9110, section 7.6.1)."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    Fields = list[tuple[str, str]]

JSON, BINARY = "application/json", "application/octet-stream"
HEADER_LENGTH = "Inference-Header-Content-Length"
_HOP = {
    "connection",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
}
_OURS = {
    "apikey",
    "authorization",
    "x-api-key",
    "cookie",
    "x-csrf-token",
    "content-length",
    "content-type",
    "expect",
    "forwarded",
    "host",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-proto",
}
"""What says who asks, or is said anew."""
_NOT_BACK = _HOP | {"content-length", "set-cookie", "server", "date"}
_CONSUMER = "x-consumer-"
DROPPED = frozenset(_HOP | _OURS)


def forward(given: Mapping[str, str], consumer: str, address: str) -> Fields:
    """Return the header fields of the request to a server.

    The type of the body is JSON or bytes, whatever the client calls it: a Triton of 2025 dies of a
    long form.
    """
    named = _named(given)
    made: Fields = []
    for name, value in given.items():
        lower = name.lower()
        if lower in DROPPED or lower in named or lower.startswith(_CONSUMER):
            continue
        made.append((name, value))
    made += (("X-Consumer-Username", consumer), ("X-Forwarded-For", address))
    return made


def body_type(given: Mapping[str, str]) -> str:
    """Return the content type of a body: bytes where tensors follow the JSON, else JSON."""
    said = given.get("Content-Type", "").partition(";")[0].strip().lower()
    return BINARY if HEADER_LENGTH in given or said == BINARY else JSON


def back(given: Mapping[str, str]) -> Fields:
    """Return the header fields of the answer to a client."""
    named = _named(given)
    made: Fields = []
    for name, value in given.items():
        lower = name.lower()
        if lower not in _NOT_BACK and lower not in named:
            made.append((name, value))
    return made


def _named(given: Mapping[str, str]) -> frozenset[str]:
    """Return the fields that ``Connection`` names: they are for the next hop alone."""
    said = given.get("Connection")
    if said is None:
        return frozenset()
    return frozenset(each.strip().lower() for each in said.split(","))
