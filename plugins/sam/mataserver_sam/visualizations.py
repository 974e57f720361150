"""Pictures of answers: kept for a while, within a limit of bytes, behind the server's key."""

from __future__ import annotations

import secrets
import time
from typing import TYPE_CHECKING, NamedTuple

from aiohttp import web

from mataserver import Body, NotFound, Route
from mataserver_sam.description import TAG
from mataserver_sam.features import Cache

if TYPE_CHECKING:
    from collections.abc import Callable

PATH = "/api/v1/image/visualizations"


class _Picture(NamedTuple):
    png: bytes
    expires: float


class Visualizations:
    """The store, and the route that gives a picture out."""

    def __init__(
        self, limit_bytes: float, ttl: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._ttl = ttl
        self._clock = clock
        self._kept: Cache[_Picture] = Cache(limit_bytes, lambda each: len(each.png))

    def routes(self) -> list[Route]:
        """Return the route."""
        return [
            Route("GET", PATH + "/{name}", self.get, "A picture of an answer", TAG,
                  response=(Body("image/png"),), errors=(404,), needs="infer"),
        ]  # fmt: skip

    def reserve(self) -> tuple[str, str]:
        """Return the name of a picture that is to come, which nobody can guess, and its path."""
        name = f"{secrets.token_urlsafe(18)}.png"
        return name, f"{PATH}/{name}"

    def put(self, name: str, png: bytes) -> None:
        """Keep a picture. What has expired goes, and what was not looked at for longest if need be.

        One that is larger than the limit is not kept.
        """
        now = self._clock()
        self._kept.drop_if(lambda each: each.expires <= now)
        self._kept.put(name, _Picture(png, now + self._ttl))

    async def get(self, request: web.Request) -> web.Response:
        """Answer with a picture. Raises ``NotFound`` for one that has gone."""
        found = self._kept.get(request.match_info["name"])
        left = found.expires - self._clock() if found is not None else 0.0
        if found is None or left <= 0:
            raise NotFound("There is no such visualization, or it has expired")
        headers = {"Cache-Control": f"private, max-age={int(left)}"}
        return web.Response(body=found.png, content_type="image/png", headers=headers)

    @property
    def held_bytes(self) -> int:
        """Bytes of all pictures that are kept."""
        return self._kept.held_bytes

    def clear(self) -> None:
        """Forget every picture."""
        self._kept.clear()
