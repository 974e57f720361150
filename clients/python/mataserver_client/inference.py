"""Inference on one image, in each of the ways that the API takes one."""

from __future__ import annotations

import base64
import contextlib
from typing import TYPE_CHECKING, Any

import aiohttp

from mataserver_client import images
from mataserver_client.failures import ConnectionFailed
from mataserver_client.replies import Failure, Token
from mataserver_client.requests import Requests
from mataserver_client.results import InferResponse
from mataserver_client.transport import Answer

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator


class InferenceRequests(Requests):
    """Runs models on single images."""

    async def infer(self, model: str, image: images.Image, **params: Any) -> InferResponse:
        """Run a model on one image, sent as base64 in JSON: takes every parameter.

        Raises ``BadRequest`` for what is no image and ``InvalidParams`` for a wrong parameter.
        """
        async with self._transport.turns:
            text = base64.b64encode(await images.read(image)).decode("ascii")
            body = images.encode({"model": model, "image": text, "params": params})
            return await self._infer("/v1/infer", data=body, content_type="application/json")

    async def upload(self, model: str, image: images.Image, **params: Any) -> InferResponse:
        """Run a model on one image, sent as a form: no base64, simple parameters only."""
        form = aiohttp.FormData()
        form.add_field("model", model)
        for name, text in images.fields(params).items():
            form.add_field(name, text)
        async with self._transport.turns:
            data = await images.read(image)
            form.add_field("file", data, filename="image", content_type=images.media_type(data))
            return await self._infer("/v1/infer/upload", data=form)

    async def infer_raw(self, model: str, image: images.Image, **params: Any) -> InferResponse:
        """Run a model on one image, sent as the request's body: the leanest way.

        Parameters travel in the query, so only simple ones are possible.
        """
        query = {"model": model, **images.fields(params)}
        async with self._transport.turns:
            data = await images.read(image)
            return await self._infer(
                "/v1/infer", query=query, data=data, content_type=images.media_type(data)
            )

    async def generate(
        self, model: str, image: images.Image, **params: Any
    ) -> AsyncGenerator[str | InferResponse, None]:
        """Run a generating model on one image; iterate over its pieces of text, then the answer.

        A model that does not generate gives its answer alone. Closing the iterator stops it.
        Raises as ``infer`` does.
        """
        text = base64.b64encode(await images.read(image)).decode("ascii")
        body, answered = images.encode({"model": model, "image": text, "params": params}), False
        async with contextlib.aclosing(self._transport.events("POST", "/v1/infer", body)) as events:
            async for kind, data in events:
                answer = Answer(data, msgpack=False)
                if kind == "token":
                    yield answer.decode(Token).text
                elif kind == "result":
                    answered = True
                    yield answer.decode(InferResponse)
                else:
                    raise answer.decode(Failure).error()
        if not answered:
            raise ConnectionFailed("The server's events ended before its answer")

    async def _infer(self, path: str, **request: Any) -> InferResponse:
        answer = await self._transport.request("POST", path, has_turn=True, **request)
        return answer.decode(InferResponse)
