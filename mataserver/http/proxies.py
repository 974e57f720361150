"""Where a request came from and what the client asked, also behind proxies that are trusted.

``X-Forwarded-*`` counts only where ``trust_proxy`` says so, or in a request that another front-end
vouches for: else any client could write it.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from aiohttp import web

from mataserver.errors import BadRequest

RELAYED: web.RequestKey[bool] = web.RequestKey("relayed", bool)
"""Noted of a request that another front-end vouches for."""
_HOST = re.compile(r"[\w.~\[\]:-]{1,255}", re.ASCII)
_PREFIX = re.compile(r"(/[\w.~%-]{1,64}){1,16}", re.ASCII)
_ADDRESS = re.compile(r"[0-9a-fA-F:.]{2,45}")


class Place(NamedTuple):
    """What the client asked: over TLS or not, the host with its port, the path's prefix."""

    secure: bool
    host: str
    prefix: str

    def url(self, scheme: str) -> str:
        """Return the base URL; ``scheme`` is ``http`` or ``ws``."""
        return f"{scheme}{'s' if self.secure else ''}://{self.host}{self.prefix}"


def place(request: web.Request, *, trusted: bool) -> Place:
    """Return what the client asked. Raises ``BadRequest`` for a host or prefix that is none."""
    trusted = trusted or RELAYED in request
    prefix = _forwarded(request, "Prefix").rstrip("/") if trusted else ""
    if prefix and not _PREFIX.fullmatch(prefix):
        raise BadRequest("X-Forwarded-Prefix is not a path")
    secure = scheme(request, trusted=trusted) == "https"
    return Place(secure, host(request, trusted=trusted), prefix)


def sent_on(request: web.Request, *, trusted: bool) -> dict[str, str]:
    """Return the headers that tell another front-end what the client asked here.

    URLs in its answers are then those by which the client knows us. None of a ``Host`` that is no
    name: an answer may have no URL.
    """
    try:
        asked = place(request, trusted=trusted)
    except BadRequest:
        return {}
    told = {"Host": asked.host, "Proto": "https" if asked.secure else "http"}
    if address := client(request, trusted=trusted):
        told["For"] = address
    if asked.prefix:
        told["Prefix"] = asked.prefix
    return {f"X-Forwarded-{name}": value for name, value in told.items()}


def scheme(request: web.Request, *, trusted: bool) -> str:
    """Return ``http`` or ``https`` as the client asked, empty where nobody tells.

    The server speaks no TLS: whether a proxy in front did, only the proxy knows. What it says and
    is neither is returned as it is, and no origin's.
    """
    told = _forwarded(request, "Proto").lower() if trusted else ""
    if told:
        return {"wss": "https", "ws": "http"}.get(told, told)
    return "https" if request.secure else ""


def host(request: web.Request, *, trusted: bool) -> str:
    """Return the host that the client asked, with its port. Raises ``BadRequest`` for none."""
    asked = request.host
    if trusted:
        asked = _forwarded(request, "Host") or asked
    if not _HOST.fullmatch(asked):
        raise BadRequest("The Host header is not a host name")
    return asked


def client(request: web.Request, *, trusted: bool) -> str:
    """Return the client's address: what the first proxy saw, or the peer's."""
    forwarded = _forwarded(request, "For") if trusted or RELAYED in request else ""
    return forwarded if _ADDRESS.fullmatch(forwarded) else request.remote or ""


def _forwarded(request: web.Request, what: str) -> str:
    """Return what the first of the proxies says: the one that the client asked."""
    return request.headers.get(f"X-Forwarded-{what}", "").partition(",")[0].strip()
