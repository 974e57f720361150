"""Sends requests to user-supplied addresses, each validated after name resolution.

Redirects are validated, too, and connections use exactly the validated addresses, which defeats a
name that resolves differently the next time (DNS rebinding).
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import aiohttp
from aiohttp.abc import AbstractResolver
from yarl import URL

from mataserver.errors import BadRequest, Unavailable
from mataserver.finishing import open_file
from mataserver.outbound.hosts import ANY, Hosts, check_address
from mataserver.resolving import SystemResolver

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, AsyncIterator, Mapping
    from pathlib import Path

    from aiohttp.abc import ResolveResult

    Content = bytes | AsyncIterable[bytes] | None
    """A request's body; an iterable is streamed, with a ``Content-Length`` if one is given."""

_CHUNK = 1 << 20
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_REASONS: tuple[tuple[type[Exception], str], ...] = (
    (aiohttp.ClientConnectorDNSError, "the host was not found"),
    (aiohttp.ClientConnectorCertificateError, "the certificate of the address is not trusted"),
    (aiohttp.ClientSSLError, "the address does not speak TLS as it should"),
    (aiohttp.ClientResponseError, "its answer is not valid HTTP"),
)
"""What failed, the special before the general; anything else is no answer."""


@dataclass(frozen=True, slots=True)
class Policy:
    """The limits of one kind of request.

    name:      the name of the address in errors: its field or setting.
    max_bytes: maximum size of an answer's body.
    timeout:   seconds for the complete request, including the answer's body.
    redirects: maximum redirects, each validated like the first address.
    private:   whether every address is permitted, because a setting of its own allows it.
    """

    name: str = "url"
    max_bytes: float = 1e6
    timeout: float = 10.0
    redirects: int = 0
    private: bool = False


_EVERY_HOST = Hosts(frozenset({ANY}))


@dataclass(frozen=True, slots=True)
class Outbound:
    """Sends requests that comply with the policy.

    ``resolver`` resolves host names.
    """

    hosts: Hosts = field(default_factory=Hosts)
    resolver: AbstractResolver = field(default_factory=SystemResolver)

    @contextlib.asynccontextmanager
    async def request(
        self,
        method: str,
        url: str,
        policy: Policy,
        *,
        headers: Mapping[str, str] | None = None,
        body: Content = None,
    ) -> AsyncIterator[Response]:
        """Send a request and yield the answer, whose body must be read within the context.

        Raises ``AddressRefused`` for an address that is not permitted, ``BadRequest`` for an answer
        that is missing, late or too large.
        """
        resolver = _CheckedResolver(self.resolver, self._hosts(policy), policy.name)
        connector = aiohttp.TCPConnector(resolver=resolver, use_dns_cache=False, force_close=True)
        sent_headers = {"Accept-Encoding": "identity", **(headers or {})}
        try:
            async with (
                asyncio.timeout(policy.timeout),
                aiohttp.ClientSession(
                    connector=connector,
                    headers=sent_headers,
                    auto_decompress=False,  # a small answer could expand without bound
                    cookie_jar=aiohttp.DummyCookieJar(),
                    timeout=aiohttp.ClientTimeout(total=None),
                ) as session,
                self._answer(session, method, _url(url, policy), policy, body) as response,
            ):
                yield response
        except TimeoutError:
            late = f"{policy.name}: no complete answer within {policy.timeout:g} s"
            raise BadRequest(late) from None
        except (aiohttp.ClientError, ValueError) as error:
            reasons = (reason for kind, reason in _REASONS if isinstance(error, kind))
            reason = next(reasons, "the address does not answer")
            raise BadRequest(f"{policy.name}: {reason}") from error

    async def check(self, url: str, policy: Policy) -> tuple[str, ...]:
        """Return the addresses that ``request`` would connect to now, all of them permitted.

        For a URL that is stored and validated again when used; or for a caller that connects by
        other means than HTTP, to one of these addresses instead of the name, which may resolve
        differently by then. Raises ``AddressRefused``, and ``BadRequest`` for an unknown name.
        """
        parsed = _url(url, policy)
        literal = self._check(parsed, policy)
        if literal is not None:
            return (literal,)
        resolver = _CheckedResolver(self.resolver, self._hosts(policy), policy.name)
        try:
            async with asyncio.timeout(policy.timeout):
                found = await resolver.resolve(
                    parsed.host or "", parsed.port or 0, socket.AF_UNSPEC
                )
        except (OSError, ValueError) as error:
            raise BadRequest(f"{policy.name}: the host was not found") from error
        return tuple(each["host"] for each in found)

    @contextlib.asynccontextmanager
    async def _answer(
        self,
        session: aiohttp.ClientSession,
        method: str,
        url: URL,
        policy: Policy,
        body: Content,
    ) -> AsyncIterator[Response]:
        for _ in range(policy.redirects + 1):
            self._check(url, policy)
            async with session.request(method, url, data=body, allow_redirects=False) as answer:
                if answer.status not in _REDIRECTS or not policy.redirects:
                    yield Response(answer, policy)
                    return
                url = url.join(_url(answer.headers.get("Location", ""), policy))
        raise BadRequest(f"{policy.name}: more than {policy.redirects} redirects")

    def _check(self, url: URL, policy: Policy) -> str | None:
        """Validate a URL; validate and return its host if that is an address instead of a name."""
        if url.scheme not in {"http", "https"} or not url.host:
            raise BadRequest(f"{policy.name}: only http and https addresses are allowed")
        if url.user is not None or url.password is not None:
            raise BadRequest(f"{policy.name}: the address must not hold a user or a password")
        host = url.host
        if ":" in host or host.replace(".", "").isdigit():
            # aiohttp does not resolve addresses, so they are validated here, in any notation.
            check_address(host, host, self._hosts(policy), policy.name)
            return host
        return None

    def _hosts(self, policy: Policy) -> Hosts:
        return _EVERY_HOST if policy.private else self.hosts


class Response:
    """The answer to an outbound request. The policy limits its body."""

    def __init__(self, answer: aiohttp.ClientResponse, policy: Policy) -> None:
        self._answer = answer
        self._policy = policy

    @property
    def status(self) -> int:
        """The status code."""
        return self._answer.status

    @property
    def headers(self) -> Mapping[str, str]:
        """The header fields; names are case-insensitive."""
        return self._answer.headers

    async def chunks(self) -> AsyncIterator[bytes]:
        """Yield the body. Raises ``BadRequest`` if it exceeds the limit, or is compressed."""
        if self.headers.get("Content-Encoding", "identity").lower() != "identity":
            raise BadRequest(f"{self._policy.name}: the server sent compressed data")
        size = self._answer.content_length or 0
        self._check_size(size)
        size = 0
        async for chunk in self._answer.content.iter_chunked(_CHUNK):
            size += len(chunk)
            self._check_size(size)
            yield chunk

    async def read(self) -> bytes:
        """Return the whole body."""
        return b"".join([chunk async for chunk in self.chunks()])

    async def save(self, target: Path) -> None:
        """Write the body to a file. Raises ``Unavailable`` if it cannot be stored."""
        try:
            file = await open_file(target, "wb")
            try:
                async for chunk in self.chunks():
                    await asyncio.to_thread(file.write, chunk)
            finally:
                await asyncio.to_thread(file.close)
        except OSError as error:
            if isinstance(error, (TimeoutError, aiohttp.ClientError)):
                raise
            raise Unavailable(f"{self._policy.name}: the file cannot be stored") from error

    def _check_size(self, size: int) -> None:
        if size > self._policy.max_bytes:
            limit = f"{self._policy.max_bytes / 1e6:g} MB"
            raise BadRequest(f"{self._policy.name}: the file is larger than {limit}")


class _CheckedResolver(AbstractResolver):
    def __init__(self, inner: AbstractResolver, hosts: Hosts, name: str) -> None:
        self._inner = inner
        self._hosts = hosts
        self._name = name

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """Return the addresses of a name. Raises ``BadRequest`` if one is not permitted."""
        found = await self._inner.resolve(host, port, family)
        for each in found:
            check_address(host, each["host"], self._hosts, self._name)
        return found

    async def close(self) -> None:
        """Close the underlying resolver."""
        await self._inner.close()


def _url(text: str, policy: Policy) -> URL:
    try:
        return URL(text)
    except ValueError:
        raise BadRequest(f"{policy.name}: not a URL") from None
