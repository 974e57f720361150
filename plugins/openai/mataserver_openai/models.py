"""``/v1/models`` in OpenAI's form on request, and below ``/openai/v1`` always."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, get_args

from mataserver import Body, InvalidParams, NotFound, Route
from mataserver_openai import listing
from mataserver_openai.listing import OpenAIDeleted, OpenAIModel, OpenAIModels
from mataserver_openai.problem import ChatProblem, chat_problem

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from aiohttp import web

    from mataserver import Context, ModelInfo

JSON = "application/json"
_FORMAT = {
    "format": (
        listing.Form,
        False,
        "Whose form: ours, or OpenAI's, which OpenAI's own clients get unasked.",
    )
}
_ONE = "/{model_id:.+}"


class ModelList:
    """The models in OpenAI's form, beside the fields of our own."""

    def __init__(self, ctx: Context) -> None:
        self._http = ctx.http
        self._models = ctx.models

    def routes(self) -> list[Route]:
        """Return the routes; those of the server are claimed for who asks for OpenAI's form."""
        every, one = (Body(JSON, OpenAIModels),), (Body(JSON, OpenAIModel),)
        gone: dict[str, Any] = {
            "response": (Body(JSON, OpenAIDeleted),),
            "problem": ChatProblem,
            "errors": (404, 409, 500),
            "needs": "models:write",
            "denied": 401,
        }
        return [
            Route("GET", "/v1/models", self._every, response=every, parameters=_FORMAT,
                  problem=ChatProblem, needs="models:read", denied=401, when=_wants_openai,
                  error_form=chat_problem),
            Route("GET", f"/v1/models{_ONE}", self._one, response=one, parameters=_FORMAT,
                  problem=ChatProblem, errors=(404,), needs="models:read", denied=401,
                  when=_wants_openai, error_form=chat_problem),
            Route("DELETE", f"/v1/models{_ONE}", self._remove, parameters=_FORMAT,
                  when=_wants_openai, error_form=chat_problem, **gone),
            Route("DELETE", f"/v1/models{_ONE}", _refuse, errors=(422,), needs="models:write",
                  when=_wants_another),
            Route("GET", "/v1/models", _refuse, errors=(422,), needs="models:read",
                  when=_wants_another),
            Route("GET", f"/v1/models{_ONE}", _refuse, errors=(422,), needs="models:read",
                  when=_wants_another),
            Route("GET", "/openai/v1/models", self._every, "List the models in OpenAI's form",
                  "OpenAI", response=every, problem=ChatProblem, needs="models:read", denied=401),
            Route("GET", f"/openai/v1/models{_ONE}", self._one, "One model in OpenAI's form",
                  "OpenAI", response=one, problem=ChatProblem, errors=(404,),
                  needs="models:read", denied=401),
            Route("DELETE", f"/openai/v1/models{_ONE}", self._remove,
                  "Remove a model, answered in OpenAI's form", "OpenAI", **gone),
        ]  # fmt: skip

    async def _every(self, _request: web.Request) -> web.Response:
        return self._http.respond(listing.to_models(self._pulled()))

    def _pulled(self) -> Iterator[tuple[ModelInfo, float]]:
        """Yield each model with the time it was pulled at."""
        for info in self._models.list():
            with contextlib.suppress(NotFound):  # a command has removed it just now
                yield info, self._models.pulled_at(info.model)

    async def _one(self, request: web.Request) -> web.Response:
        name = request.match_info["model_id"]
        info = self._models.info(name)
        return self._http.respond(listing.to_model(info, self._models.pulled_at(name)))

    async def _remove(self, request: web.Request) -> web.Response:
        name = request.match_info["model_id"]
        await self._models.remove(name)
        return self._http.respond(OpenAIDeleted(id=name))


def _wants_openai(request: web.Request) -> bool:
    """Whether the answer is wanted in OpenAI's form."""
    forms = request.query.getall("format", None)
    return _is_openai(request.headers) if forms is None else forms == ["openai"]


def _is_openai(headers: Mapping[str, str]) -> bool:
    """Whether one of OpenAI's own clients asks, which cannot read our form.

    They identify themselves: those that a generator wrote by one header, the others by their name.
    """
    return "X-Stainless-Lang" in headers or headers.get("User-Agent", "").startswith("OpenAI/")


def _wants_another(request: web.Request) -> bool:
    """Whether the answer is wanted in a form that is unsupported, or in two."""
    forms = request.query.getall("format", ())
    return len(forms) > 1 or not set(forms).issubset(get_args(listing.Form))


async def _refuse(_request: web.Request) -> web.StreamResponse:
    """Refuse an unsupported form, and two of them."""
    raise InvalidParams("format: must be mata or openai, and given once")
