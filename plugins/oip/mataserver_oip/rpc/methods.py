"""The methods of ``GRPCInferenceService``: one function each, from message to message."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mataserver import BadRequest
from mataserver_oip.rpc import convert
from mataserver_oip.rpc.messages import TYPES
from mataserver_oip.server import EXTENSIONS, NAME

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from mataserver import Context
    from mataserver_oip.server import InferenceServer


@dataclass(frozen=True, slots=True)
class Method:
    """One method: its request, what answers it, and the scope that it needs, None for none."""

    request: type[Any]
    answer: Callable[[Any], Awaitable[Any]]
    needs: str | None = None

    @property
    def public(self) -> bool:
        """Whether it needs no credentials."""
        return self.needs is None


_NEEDS = {
    "ServerMetadata": "models:read",
    "ModelReady": "models:read",
    "ModelMetadata": "models:read",
    "ModelInfer": "infer",
    "RepositoryIndex": "models:read",
    "RepositoryModelLoad": "models:write",
    "RepositoryModelUnload": "models:write",
}


def methods(ctx: Context, server: InferenceServer) -> dict[str, Method]:
    """Return the methods by their names."""
    api = _Methods(ctx, server)
    answers = {
        "ServerLive": api.live,
        "ServerReady": api.server_ready,
        "ServerMetadata": api.server,
        "ModelReady": api.ready,
        "ModelMetadata": api.model,
        "ModelInfer": api.infer,
        "RepositoryIndex": api.index,
        "RepositoryModelLoad": api.load,
        "RepositoryModelUnload": api.unload,
    }
    return {
        name: Method(TYPES[f"{name}Request"], answer, _NEEDS.get(name))
        for name, answer in answers.items()
    }


class _Methods:
    def __init__(self, ctx: Context, server: InferenceServer) -> None:
        self._ctx = ctx
        self._server = server

    async def live(self, _message: Any) -> Any:
        return TYPES["ServerLiveResponse"](live=True)

    async def server_ready(self, _message: Any) -> Any:
        return TYPES["ServerReadyResponse"](ready=not self._ctx.ready())

    async def server(self, _message: Any) -> Any:
        return TYPES["ServerMetadataResponse"](
            name=NAME, version=self._ctx.version, extensions=EXTENSIONS
        )

    async def ready(self, message: Any) -> Any:
        ready = self._server.ready(message.name, message.version)
        return TYPES["ModelReadyResponse"](ready=ready)

    async def model(self, message: Any) -> Any:
        return convert.metadata(self._server.metadata(message.name, message.version))

    async def infer(self, message: Any) -> Any:
        self._ctx.check_running()
        raw = bool(message.raw_input_contents)
        asked = convert.request(message, self._ctx.server.queue_limit)
        answer = await self._server.infer(asked)
        return convert.response(answer, raw=raw)

    async def index(self, message: Any) -> Any:
        return convert.index(await asyncio.to_thread(self._server.index, ready=message.ready))

    async def load(self, message: Any) -> Any:
        if message.parameters:
            raise BadRequest("parameters: a model's configuration is not set over this protocol")
        await self._server.load(message.model_name)
        return TYPES["RepositoryModelLoadResponse"]()

    async def unload(self, message: Any) -> Any:
        await self._server.unload(message.model_name)
        return TYPES["RepositoryModelUnloadResponse"]()
