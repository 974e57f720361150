"""The request's origin and address as the client sees them, also behind trusted proxies.

``X-Forwarded-*`` counts only with ``trust_proxy``, or in requests that another front-end has
authenticated: any client could set it.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from aiohttp import hdrs, web

from mataserver.errors import BadRequest

RELAYED: web.RequestKey[bool] = web.RequestKey("relayed", bool)
"""Set for requests that another front-end relays."""
_HOST = re.compile(r"[\w.~\[\]:-]{1,255}", re.ASCII)
_NO_HOST = "The Host header is not a host name"
_PREFIX = re.compile(r"(/[\w.~%-]{1,64}){1,16}", re.ASCII)
_ADDRESS = re.compile(r"[0-9a-fA-F:.]{2,45}")


class PublicAddress(NamedTuple):
    """The client's view of the URL: TLS or not, host with port, path prefix."""

    secure: bool
    host: str
    prefix: str

    def url(self, scheme: str) -> str:
        """Return the base URL; ``scheme`` is ``http`` or ``ws``."""
        return f"{scheme}{'s' if self.secure else ''}://{self.host}{self.prefix}"


def public_address(request: web.Request, *, trusted: bool) -> PublicAddress:
    """Return the client's view of the URL. Raises ``BadRequest`` for an invalid host or prefix."""
    trusted = trusted or RELAYED in request
    prefix = _forwarded(request, "Prefix").rstrip("/") if trusted else ""
    if prefix and not _PREFIX.fullmatch(prefix):
        raise BadRequest("X-Forwarded-Prefix is not a path")
    secure = scheme(request, trusted=trusted) == "https"
    return PublicAddress(secure, host(request, trusted=trusted), prefix)


def forwarded_headers(request: web.Request, *, trusted: bool) -> dict[str, str]:
    """Return headers that tell another front-end how the client addressed this one.

    URLs in its answers are then valid for the client. None for an invalid ``Host``: an answer need
    not contain URLs.
    """
    try:
        asked = public_address(request, trusted=trusted)
    except BadRequest:
        return {}
    values = {"Host": asked.host, "Proto": "https" if asked.secure else "http"}
    if address := client(request, trusted=trusted):
        values["For"] = address
    if asked.prefix:
        values["Prefix"] = asked.prefix
    return {f"X-Forwarded-{name}": value for name, value in values.items()}


def scheme(request: web.Request, *, trusted: bool) -> str:
    """Return the client's scheme, ``http`` or ``https``; empty if unknown.

    The server itself has no TLS: only a proxy in front knows. Any other value of a proxy is
    returned unchanged; it matches no origin.
    """
    values = _forwarded(request, "Proto").lower() if trusted else ""
    if values:
        return {"wss": "https", "ws": "http"}.get(values, values)
    return "https" if request.secure else ""


def host(request: web.Request, *, trusted: bool) -> str:
    """Return the client's host, with port. Raises ``BadRequest`` without a valid one."""
    asked = request.host
    if trusted:
        asked = _forwarded(request, "Host") or asked
    if not _HOST.fullmatch(asked):
        raise BadRequest(_NO_HOST)
    return asked


def check_host(request: web.Request) -> None:
    """Raise ``BadRequest`` for a ``Host`` that is no host (RFC 9112, section 3.2)."""
    asked = request.headers.get(hdrs.HOST)
    if asked and not _HOST.fullmatch(asked):
        raise BadRequest(_NO_HOST)


def client(request: web.Request, *, trusted: bool) -> str:
    """Return the client's address: what the first proxy saw, or the peer's."""
    forwarded = _forwarded(request, "For") if trusted or RELAYED in request else ""
    return forwarded if _ADDRESS.fullmatch(forwarded) else request.remote or ""


def _forwarded(request: web.Request, what: str) -> str:
    """Return the first proxy's value, the one that the client connected to."""
    return request.headers.get(f"X-Forwarded-{what}", "").partition(",")[0].strip()
