"""Where servers are reached: a name is resolved for each connection, and every address checked.

A user who registers a server names a host, and the owner of that name may point it elsewhere at any
time (DNS rebinding). So connections go to an address that the server's rule for outbound requests
has just permitted, never to a name.
"""

from __future__ import annotations

import ipaddress
import socket
from typing import TYPE_CHECKING, Protocol

from aiohttp.abc import AbstractResolver

from mataserver import MataError, Policy

if TYPE_CHECKING:
    from aiohttp.abc import ResolveResult

    from mataserver_fleet.gateway.snapshot import Target

RESOLVE_SECONDS = 2.0
"""Seconds that a name may take to be resolved."""


class OutboundCheck(Protocol):
    """What is needed of ``Context.http``."""

    async def check_outbound(self, url: str, policy: Policy) -> tuple[str, ...]:
        """Return the addresses of a URL. Raises ``BadRequest`` for one that may not be asked."""


class UnresolvedHostError(OSError):
    """A name that does not resolve, or an address that is not permitted."""


class AddressResolver(AbstractResolver):
    """Finds the addresses of servers; also for a session of aiohttp, as its resolver."""

    def __init__(self, http: OutboundCheck) -> None:
        self._http = http
        self._policy = Policy(name="server", timeout=RESOLVE_SECONDS)

    async def addresses(self, target: Target) -> tuple[str, ...]:
        """Return where a server is, in the order in which it is tried. Raises ``OSError``.

        The rule does not apply to this server itself.
        """
        return (
            (target.host,) if target.kind == "own" else await self.permitted_addresses(target.url)
        )

    async def permitted_addresses(self, url: str) -> tuple[str, ...]:
        """Return the addresses of a URL. Raises ``OSError``."""
        try:
            return await self._http.check_outbound(url, self._policy)
        except MataError as error:
            raise UnresolvedHostError(error.detail) from None

    async def check_literal(self, target: Target) -> None:
        """Check a server whose host is an address: aiohttp resolves names alone."""
        if target.kind != "own" and is_address(target.host):
            await self.permitted_addresses(target.url)

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """Return the addresses of a name. Raises ``OSError``."""
        del family  # both, in the order that the system gives
        return [
            {
                "hostname": host,
                "host": address,
                "port": port,
                "family": socket.AF_INET6 if ":" in address else socket.AF_INET,
                "proto": 0,
                "flags": socket.AI_NUMERICHOST,
            }
            for address in await self.permitted_addresses(f"http://{host}:{port}")
        ]

    async def close(self) -> None:
        """Nothing is held."""


def is_address(host: str) -> bool:
    """Whether a host is an address and no name."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
