"""What a client asks of the server itself, and of routes that have no method of their own."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

from mataserver_client.images import encode
from mataserver_client.replies import Health
from mataserver_client.transport import Transport

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mataserver_client.transport import Answer

_QUEUE = re.compile(r'^\w+_queue_length\{model=("(?:[^"\\]|\\.)*")\} (\S+)$', re.MULTILINE)


class Requests:
    """One server and its connections; see ``AsyncClient``."""

    def __init__(
        self,
        url: str = "http://127.0.0.1:8110",
        api_key: str | None = None,
        *,
        timeout: float | None = 300.0,
        msgpack: bool = False,
    ) -> None:
        self._transport = Transport(url, api_key, timeout=timeout, msgpack=msgpack)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self._transport.where}>"

    async def request(
        self,
        method: str,
        path: str,
        value: object = None,
        *,
        data: bytes | None = None,
        query: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """Ask a route that has no method of its own, such as a plugin's.

        ``value`` is sent as JSON, ``data`` as it is. Raises as every other method.
        """
        kind = None
        if value is not None:
            data, kind = encode(value), "application/json"
        return await self._transport.request(
            method, path, query=query, data=data, content_type=kind, headers=headers
        )

    async def health(self) -> Health:
        """Return the server's state; needs no key."""
        return (await self._transport.request("GET", "/v1/health")).decode(Health)

    async def queues(self) -> dict[str, int]:
        """Return how many images wait for each model that was asked for; from ``/metrics``."""
        answer = await self._transport.request("GET", "/metrics")
        found = _QUEUE.findall(answer.body.decode(errors="replace"))
        return {json.loads(name): round(float(length)) for name, length in found}

    async def plugins(self) -> list[dict[str, Any]]:
        """Return the server's plugins, each with its state."""
        return (await self._transport.request("GET", "/v1/plugins")).decode(list[dict[str, Any]])

    async def settings(self) -> list[dict[str, Any]]:
        """Return every setting with its origin, secrets redacted; needs the scope ``admin``."""
        return (await self._transport.request("GET", "/v1/settings")).decode(list[dict[str, Any]])
