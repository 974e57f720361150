"""This server itself as aiohttp's client reaches it: without a socket."""

from __future__ import annotations

from typing import TYPE_CHECKING

import aiohttp

if TYPE_CHECKING:
    from collections.abc import Callable

    from aiohttp import ClientRequest, ClientTimeout
    from aiohttp.client_proto import ResponseHandler
    from aiohttp.tracing import Trace

    Connect = Callable[[Callable[[], ResponseHandler]], ResponseHandler]


class SelfConnector(aiohttp.BaseConnector):
    """Connects to this server by ``connect``, whatever a URL names."""

    def __init__(self, connect: Connect) -> None:
        super().__init__(limit=0)
        self._connect_self = connect

    async def _create_connection(
        self, _req: ClientRequest, _traces: list[Trace], _timeout: ClientTimeout
    ) -> ResponseHandler:
        return self._connect_self(self._factory)
