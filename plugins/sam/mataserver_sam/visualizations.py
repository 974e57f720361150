"""Pictures of answers: kept for a while, within a limit of bytes, and served to clients."""

from __future__ import annotations

import secrets
import time
from typing import TYPE_CHECKING, NamedTuple

from aiohttp import web

from mataserver import Body, NotFound, Route
from mataserver_sam.byte_cache import ByteCache
from mataserver_sam.description import TAG

if TYPE_CHECKING:
    from collections.abc import Callable

PATH = "/api/v1/image/visualizations"


class _Picture(NamedTuple):
    png: bytes
    expires: float


class Visualizations:
    """The store, and the route that serves a picture."""

    def __init__(
        self, limit_bytes: float, ttl: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._ttl = ttl
        self._clock = clock
        self._cache: ByteCache[_Picture] = ByteCache(limit_bytes, lambda each: len(each.png))

    def routes(self) -> list[Route]:
        """Return the route."""
        return [
            Route("GET", PATH + "/{name}", self.get, "A picture of an answer", TAG,
                  response=(Body("image/png"),), errors=(404,), needs="infer"),
        ]  # fmt: skip

    def reserve(self) -> tuple[str, str]:
        """Return an unguessable name for a future picture, and its path."""
        name = f"{secrets.token_urlsafe(18)}.png"
        return name, f"{PATH}/{name}"

    def put(self, name: str, png: bytes) -> None:
        """Keep a picture. Expired ones are dropped, then the least recently used as needed.

        One that is larger than the limit is not kept.
        """
        now = self._clock()
        self._cache.drop_if(lambda each: each.expires <= now)
        self._cache.put(name, _Picture(png, now + self._ttl))

    async def get(self, request: web.Request) -> web.Response:
        """Answer with a picture. Raises ``NotFound`` for an expired or evicted one."""
        found = self._cache.get(request.match_info["name"])
        left = found.expires - self._clock() if found is not None else 0.0
        if found is None or left <= 0:
            raise NotFound("There is no such visualization, or it has expired")
        headers = {"Cache-Control": f"private, max-age={int(left)}"}
        return web.Response(body=found.png, content_type="image/png", headers=headers)

    @property
    def held_bytes(self) -> int:
        """Bytes of all kept pictures."""
        return self._cache.held_bytes

    def clear(self) -> None:
        """Drop every picture."""
        self._cache.clear()
