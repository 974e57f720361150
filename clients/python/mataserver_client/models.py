"""What a client asks of the models that a server has: their life, not their answers."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from mataserver_client.failures import BadAnswer
from mataserver_client.images import encode
from mataserver_client.replies import ModelStatus
from mataserver_client.requests import Requests
from mataserver_client.results import ModelDetail, ModelInfo


class ModelRequests(Requests):
    """Lists, pulls, loads and removes models."""

    async def models(self) -> list[ModelInfo]:
        """Return the installed models."""
        return (await self._transport.request("GET", "/v1/models")).decode(list[ModelInfo])

    async def model(self, model: str) -> ModelInfo:
        """Return one installed model. Raises ``NotFound``."""
        answer = await self._transport.request("GET", f"/v1/models/{quote(model, safe='/')}")
        return answer.decode(ModelInfo)

    async def params(self, model: str) -> dict[str, Any]:
        """Return the JSON Schema of a model's parameters: types, ranges, defaults, a sentence each.

        Raises ``NotFound``, and ``Unavailable`` where nothing installed serves the model.
        """
        path = f"/v1/models/{quote(model, safe='/')}"
        answer = await self._transport.request("GET", path, query={"include": "params"})
        schema = answer.decode(ModelDetail).params
        if not isinstance(schema, dict):
            raise BadAnswer("The server is too old to list a model's parameters")
        return schema

    async def pull(self, model: str, task: str) -> ModelStatus:
        """Download or install a model for ``task``; returns when that is done.

        Raises ``BadRequest`` when it fails and ``Conflict`` while it is already going on.
        """
        return await self._change("pull", {"model": model, "task": task}, patient=True)

    async def warmup(self, model: str) -> ModelStatus:
        """Load a model into memory. Raises ``NotFound`` or ``OutOfMemory``."""
        return await self._change("warmup", {"model": model}, patient=True)

    async def unload(self, model: str, *, if_loading: bool = False) -> ModelStatus:
        """Take a model out of memory, or cancel its load.

        Its status is "unloaded" or "not_loaded". With ``if_loading`` only a load is cancelled: a
        model that is loaded by then, perhaps for others, stays.
        """
        body: dict[str, Any] = {"model": model}
        if if_loading:  # an older server does not know it
            body["if_loading"] = True
        return await self._change("unload", body, patient=False)

    async def pin(self, model: str) -> ModelStatus:
        """Keep a model from being pushed out of memory, until ``unpin`` or the server's end."""
        return await self._change("pin", {"model": model}, patient=False)

    async def unpin(self, model: str) -> ModelStatus:
        """Let a model be pushed out again; its status is "unpinned" or "not_pinned".

        Raises ``Conflict`` for a model that the server's configuration pins.
        """
        return await self._change("unpin", {"model": model}, patient=False)

    async def remove(self, model: str) -> ModelStatus:
        """Unload a model and forget it; what was pulled stays on the server's disk.

        Raises ``NotFound``, and ``Conflict`` while it is pulled, held by a session, or named by the
        server's configuration.
        """
        answer = await self._transport.request("DELETE", f"/v1/models/{quote(model, safe='/')}")
        return answer.decode(ModelStatus)

    async def _change(self, verb: str, body: dict[str, Any], *, patient: bool) -> ModelStatus:
        answer = await self._transport.request(
            "POST",
            f"/v1/models/{verb}",
            data=encode(body),
            content_type="application/json",
            patient=patient,
        )
        return answer.decode(ModelStatus)
