"""The parts of the server that the gateway uses."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Literal, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractAsyncContextManager

    from aiohttp import web

    from mataserver import Policy, RepeatedClaim, Share
    from mataserver_fleet.gateway.matching import Scope

P = TypeVar("P", bound=asyncio.Protocol)


class Http(Protocol):
    """The part of ``Context.http`` that the gateway uses."""

    def budget(self, owner: str | None = None) -> Share:
        """Return a share of the bytes in flight, within that of an owner."""

    def address(self, request: web.Request) -> str:
        """Return the client's address."""

    def url(self, request: web.Request, scheme: Literal["http", "ws"] = "http") -> str:
        """Return the base URL by which the client knows the server."""

    def raw_socket(
        self, request: web.Request
    ) -> AbstractAsyncContextManager[web.WebSocketResponse]:
        """Accept a WebSocket as a relay does."""

    def learn(self, request: web.Request, repeat: RepeatedClaim) -> None:
        """Have requests with the head of one be answered by ``repeat``."""

    def connect(self, factory: Callable[[], P]) -> P:
        """Connect a protocol to this server itself."""

    async def check_outbound(self, url: str, policy: Policy) -> tuple[str, ...]:
        """Return the addresses of a URL. Raises ``BadRequest`` for one that is not permitted."""


class SessionHandler(Protocol):
    """Answers requests for video sessions."""

    async def answer(self, scope: Scope, request: web.Request) -> web.StreamResponse:
        """Answer a request for a session. Raises ``NotFound`` for any other."""
