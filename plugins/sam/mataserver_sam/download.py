"""Downloads what ``video_url`` names, within limits of size, time, redirects and addresses.

A client must not reach the server's own network through it. Every address is checked after the
name was resolved, for each redirect anew, and the connection goes to the very addresses that were
checked: a name that resolves differently the next time gains nothing.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING

import aiohttp
from aiohttp.abc import AbstractResolver
from yarl import URL

from mataserver import BadRequest, Unavailable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from aiohttp.abc import ResolveResult

    Address = ipaddress.IPv4Address | ipaddress.IPv6Address

MAX_REDIRECTS = 5
_CHUNK = 1 << 20
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_PLAIN = {"Accept-Encoding": "identity"}
_REDIRECTS = frozenset({301, 302, 303, 307, 308})


@dataclass(frozen=True, slots=True)
class Downloader:
    """Downloads of at most ``max_bytes`` in at most ``timeout`` seconds.

    ``permitted`` tells which addresses may be connected to. ``resolver`` resolves names: the
    system's way unless another is given.
    """

    max_bytes: float
    timeout: float
    permitted: Callable[[Address], bool]
    resolver: AbstractResolver | None = None

    async def fetch(self, url: str, target: Path) -> None:
        """Write what ``url`` names into ``target``.

        Raises ``BadRequest`` for what cannot be had or is over a limit, ``Unavailable`` when the
        file cannot be written.
        """
        resolver = _Checked(self.resolver or aiohttp.ThreadedResolver(), self.permitted)
        connector = aiohttp.TCPConnector(resolver=resolver, use_dns_cache=False, force_close=True)
        try:
            async with (
                asyncio.timeout(self.timeout),
                aiohttp.ClientSession(
                    connector=connector,
                    headers=_PLAIN,
                    auto_decompress=False,
                    cookie_jar=aiohttp.DummyCookieJar(),
                    timeout=aiohttp.ClientTimeout(total=None),
                ) as session,
            ):
                await self._follow(session, _url(url), target)
        except TimeoutError:
            limit = f"{self.timeout:g} s"
            raise BadRequest(f"video_url: the download took longer than {limit}") from None
        except (aiohttp.ClientError, ValueError) as error:
            raise BadRequest("video_url: the video cannot be downloaded") from error

    async def _follow(self, session: aiohttp.ClientSession, url: URL, target: Path) -> None:
        for _ in range(MAX_REDIRECTS + 1):
            self._check(url)
            async with session.get(url, allow_redirects=False) as response:
                if response.status not in _REDIRECTS:
                    await self._save(response, target)
                    return
                url = url.join(_url(response.headers.get("Location", "")))
        raise BadRequest(f"video_url: more than {MAX_REDIRECTS} redirects")

    def _check(self, url: URL) -> None:
        """Refuse what is no web address; check a host that is an address and not a name."""
        if url.scheme not in {"http", "https"} or not url.host:
            raise BadRequest("video_url: only http and https addresses are downloaded")
        host = url.host
        if ":" in host or host.replace(".", "").isdigit():
            # Never resolved by aiohttp, so checked here, in every way of writing it.
            _check_address(host, self.permitted)

    async def _save(self, response: aiohttp.ClientResponse, target: Path) -> None:
        if response.status != 200:
            raise BadRequest(f"video_url: the server answered {response.status}")
        if response.headers.get("Content-Encoding", "identity").lower() != "identity":
            raise BadRequest("video_url: the server sent compressed data")
        if (response.content_length or 0) > self.max_bytes:
            raise self._too_large()
        try:
            await self._write(response.content.iter_chunked(_CHUNK), target)
        except OSError as error:
            if isinstance(error, (TimeoutError, aiohttp.ClientError)):
                raise
            raise Unavailable("The video cannot be stored") from error

    async def _write(self, chunks: AsyncIterator[bytes], target: Path) -> None:
        size = 0
        file = await asyncio.to_thread(target.open, "wb")
        try:
            async for chunk in chunks:
                size += len(chunk)
                if size > self.max_bytes:
                    raise self._too_large()
                await asyncio.to_thread(file.write, chunk)
        finally:
            await asyncio.to_thread(file.close)

    def _too_large(self) -> BadRequest:
        return BadRequest(f"video_url: the video is larger than {self.max_bytes / 1e6:g} MB")


class _Checked(AbstractResolver):
    """A resolver that gives out addresses only after each was checked."""

    def __init__(self, inner: AbstractResolver, permitted: Callable[[Address], bool]) -> None:
        self._inner = inner
        self._permitted = permitted

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """Return the addresses of a name. Raises ``BadRequest`` when one is not permitted."""
        found = await self._inner.resolve(host, port, family)
        for each in found:
            _check_address(each["host"], self._permitted)
        return found

    async def close(self) -> None:
        """Close the resolver behind it."""
        await self._inner.close()


def is_public(address: Address) -> bool:
    """Whether an address leads out of every private network.

    Loopback, private, shared, link-local, multicast and reserved ones do not, nor do IPv6
    addresses that stand for one of them.
    """
    carried = _carried(address)
    if carried:
        return all(is_public(each) for each in carried)
    local = isinstance(address, ipaddress.IPv6Address) and address.is_site_local
    return address.is_global and not (address.is_multicast or address.is_reserved or local)


def is_any(_address: Address) -> bool:
    """Allow every address."""
    return True


def _carried(address: Address) -> list[ipaddress.IPv4Address]:
    """Return the IPv4 addresses that an IPv6 address stands for."""
    if isinstance(address, ipaddress.IPv4Address):
        return []
    inside = [address.ipv4_mapped, address.sixtofour, *(address.teredo or ())]
    if address in _NAT64:
        inside.append(ipaddress.IPv4Address(int(address) & 0xFFFFFFFF))
    return [each for each in inside if each is not None]


def _check_address(text: str, permitted: Callable[[Address], bool]) -> None:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        raise BadRequest("video_url: the address is not valid") from None
    if not permitted(address):
        raise BadRequest("video_url: only public addresses are downloaded from")


def _url(text: str) -> URL:
    try:
        return URL(text)
    except ValueError:
        raise BadRequest("video_url: not a URL") from None
