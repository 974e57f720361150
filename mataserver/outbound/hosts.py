"""Permitted addresses: public ones, and those of a setting."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mataserver.errors import BadRequest

if TYPE_CHECKING:
    from collections.abc import Sequence

    Address = ipaddress.IPv4Address | ipaddress.IPv6Address
    Network = ipaddress.IPv4Network | ipaddress.IPv6Network

ANY = "*"
_NAT64 = ipaddress.ip_network("64:ff9b::/96")


@dataclass(frozen=True, slots=True)
class Hosts:
    """Permitted addresses: public ones, and those listed.

    A listed name permits every address that it resolves to; ``ANY`` permits everything.
    """

    names: frozenset[str] = frozenset()
    networks: tuple[Network, ...] = ()

    @classmethod
    def of(cls, listed: Sequence[str]) -> Hosts:
        """Parse a setting: names, addresses and networks."""
        networks = {each: _network(each) for each in listed}
        names = frozenset(each.lower() for each, network in networks.items() if network is None)
        return cls(names, tuple(each for each in networks.values() if each is not None))

    def permits(self, name: str, address: Address) -> bool:
        """Whether the host called ``name`` may be reached at ``address``."""
        if ANY in self.names or name.lower() in self.names:
            return True
        return is_public(address) or any(address in network for network in self.networks)


class AddressRefused(BadRequest):
    """400: an address that this server may not connect to."""


_SPECIAL = tuple(map(ipaddress.ip_network, ("192.0.0.0/24", "192.88.99.0/24", "3fff::/20")))
"""Special-purpose networks (RFC 6890, 7526 and 9637) that older Pythons consider global: a cloud's
secrets service is at 192.0.0.192."""


def is_public(address: Address) -> bool:
    """Whether an address is public.

    Loopback, private, shared, link-local, multicast and reserved addresses are not, nor are IPv6
    addresses that embed one of them.
    """
    embedded = _embedded_ipv4(address)
    if embedded:
        return all(is_public(each) for each in embedded)
    if any(address in network for network in _SPECIAL if network.version == address.version):
        return False
    local = isinstance(address, ipaddress.IPv6Address) and address.is_site_local
    return address.is_global and not (address.is_multicast or address.is_reserved or local)


def _embedded_ipv4(address: Address) -> list[ipaddress.IPv4Address]:
    if isinstance(address, ipaddress.IPv4Address):
        return []
    candidates = [address.ipv4_mapped, address.sixtofour, *(address.teredo or ())]
    if address in _NAT64:
        candidates.append(ipaddress.IPv4Address(int(address) & 0xFFFFFFFF))
    return [each for each in candidates if each is not None]


def check_address(name: str, text: str, hosts: Hosts, field: str) -> None:
    """Raise ``AddressRefused`` unless the host ``name`` may be reached at the address ``text``.

    ``field`` is its name in errors. Raises ``BadRequest`` for an invalid address.
    """
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        raise BadRequest(f"{field}: the address is not valid") from None
    if not hosts.permits(name, address):
        raise AddressRefused(
            f"{field}: only public addresses and those of outbound_hosts are allowed"
        )


def _network(text: str) -> Any:
    try:
        return ipaddress.ip_network(text, strict=False)
    except ValueError:
        return None
