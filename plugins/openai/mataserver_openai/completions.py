"""OpenAI's chat completions for the models of the task ``vlm``."""

from __future__ import annotations

import contextlib
import re
from typing import TYPE_CHECKING, Any

from mataserver import (
    EXAMPLE_IMAGE,
    BadRequest,
    Body,
    InvalidParams,
    LastEvent,
    MataError,
    Route,
    StopSequences,
    VlmResult,
)
from mataserver_openai import answer, completion_request, conversation
from mataserver_openai.answer import CompletionEnd, CompletionWriter
from mataserver_openai.problem import ChatProblem, chat_problem

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterator

    from aiohttp import web

    from mataserver import Context, ModelHandle, Params, Result
    from mataserver_openai.completion_request import CompletionRequest

EXAMPLE: dict[str, Any] = {
    "model": "HuggingFaceTB/SmolVLM-256M-Instruct",
    "messages": [
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "What is in the picture?"},
                {
                    "type": "image_url",
                    "image_url": {"url": f"data:image/png;base64,{EXAMPLE_IMAGE}"},
                },
            ],
        }
    ],
    "max_tokens": 64,
}
"""What the OpenAPI document shows as a question."""
JSON = "application/json"
PREFIXES = ("/v1", "/openai/v1")
"""Where OpenAI's routes are: beside our own, and where everything is in OpenAI's form."""

_PARAMETER = re.compile(r"^params\.(history\[\d+\]\.\w+|\w+)")


class Completions:
    """Chat completions."""

    def __init__(self, ctx: Context) -> None:
        self._ctx = ctx

    def routes(self) -> list[Route]:
        """Return the routes."""
        request = (Body(JSON, completion_request.ChatRequest, EXAMPLE),)
        response = (Body(JSON, answer.Completion), Body("text/event-stream"))
        return [
            Route("POST", f"{prefix}/chat/completions", self._complete,
                  "Ask a model about images", "OpenAI", request=request, response=response,
                  problem=ChatProblem,
                  errors=(400, 404, 408, 413, 415, 500, 503, 507), needs="infer", denied=401)
            for prefix in PREFIXES
        ]  # fmt: skip

    async def _complete(self, request: web.Request) -> web.StreamResponse:
        self._ctx.check_running()
        http = self._ctx.http
        http.require_json(request)
        async with http.read_body(request) as data:
            asked = await http.decode(data, completion_request.read)
            del data
            chat = _Chat(self._model(asked.model), asked)
            if asked.stream:
                return await http.events(request, chat.chunks(), _failed)
            return http.respond(await chat.whole())

    def _model(self, name: str) -> ModelHandle:
        model = self._ctx.models.get(name)
        if model.task != "vlm":
            raise BadRequest(
                f"model: {name} serves {model.task}; a chat needs a model of the task vlm"
            )
        return model


class _Chat:
    """One question to a model."""

    def __init__(self, model: ModelHandle, asked: CompletionRequest) -> None:
        self._model = model
        self._request = asked
        self._params = _params(asked, model)
        self._writer = CompletionWriter(model.name, counts=asked.usage)

    async def whole(self) -> answer.Completion:
        """Return the answer in one piece."""
        writer = self._writer
        if not self._request.stop or _takes(self._model, "stop"):
            with _as_bad_request(self._request):
                result = await self._model.predict(self._request.image, self._params)
            return writer.whole(_text(result), _ending(result))
        pieces, ending = [], CompletionEnd()
        async with contextlib.aclosing(self._pieces()) as items:
            async for item in items:
                if isinstance(item, str):
                    pieces.append(item)
                else:
                    ending = item
        return writer.whole("".join(pieces), ending)

    async def chunks(self) -> AsyncGenerator[bytes]:
        """Yield the events of a stream; nothing before the model has begun to write."""
        writer, begun = self._writer, False
        async with contextlib.aclosing(self._pieces()) as items:
            async for item in items:
                if not begun:
                    yield writer.first()
                    begun = True
                if isinstance(item, str):
                    yield writer.piece(item)
                else:
                    yield LastEvent(writer.last(item))

    async def _pieces(self) -> AsyncGenerator[str | CompletionEnd]:
        """Yield the text up to the first stop sequence, which stops the model, then how it ended.

        A model that does not write piece by piece gives its text at once.
        """
        stops, written = StopSequences(self._request.stop), False
        async with contextlib.aclosing(self._made()) as items:
            async for item in items:
                if isinstance(item, str):
                    text, written = stops.add(item), True
                else:
                    text = "" if written else stops.add(_text(item))
                    text += stops.rest()
                if text:
                    yield text
                if stops.reached:
                    yield CompletionEnd()
                    return
                if not isinstance(item, str):
                    yield _ending(item)

    async def _made(self) -> AsyncGenerator[str | Result]:
        pieces = self._model.generate(self._request.image, self._params)
        with _as_bad_request(self._request):
            async with contextlib.aclosing(pieces) as items:
                async for item in items:
                    yield item


def _params(asked: CompletionRequest, model: ModelHandle) -> Params:
    """Return the parameters of an inference; seed and stop sequences where the model takes them."""
    given = dict(asked.params)
    if not _takes(model, "image_places"):
        given = conversation.without_places(given)
    if len(asked.fields) > 1 and not _takes(model, "images"):
        raise BadRequest(f"messages: {model.name} reads one image, got {len(asked.fields)}")
    if not all(_takes(model, name) for name in ("history", "image_turn") if name in given):
        raise BadRequest(
            f"messages: {model.name} answers single questions: it is told of no earlier ones"
        )
    if asked.seed is not None and _takes(model, "seed"):
        given["seed"] = asked.seed % 2**63
    if asked.stop and _takes(model, "stop"):
        given["stop"] = list(asked.stop)
    with _as_bad_request(asked):
        return model.params(given)


def _takes(model: ModelHandle, name: str) -> bool:
    return name in model.params_type.__struct_fields__


@contextlib.contextmanager
def _as_bad_request(asked: CompletionRequest) -> Iterator[None]:
    """Have what is wrong with a parameter or an image be a bad request that names its field."""
    try:
        yield
    except MataError as error:
        given, _, why = error.detail.partition(": ")
        if given in asked.fields:
            raise BadRequest(f"{asked.fields[given]}: {why}") from None
        if error.status == BadRequest.status:  # of all that a model is given, only the image
            raise BadRequest(f"{asked.fields[conversation.FIRST_IMAGE]}: {error.detail}") from None
        if error.status != InvalidParams.status:
            raise
        raise BadRequest(_PARAMETER.sub(_field, error.detail, count=1)) from None


def _field(found: re.Match[str]) -> str:
    """Return the field that gave a parameter: a question is taken from the messages."""
    name = found[1].partition("[")[0]
    return "messages" if name in conversation.FROM_MESSAGES else found[1]


def _text(result: Result) -> str:
    """Return the text of a model of the task vlm, which has no other result."""
    return result.text if isinstance(result, VlmResult) else ""


def _ending(result: Result) -> CompletionEnd:
    usage = result.usage if isinstance(result, VlmResult) else None
    return CompletionEnd(usage or None)


def _failed(error: MataError) -> bytes:
    problem = chat_problem(error.status, error.detail)
    if error.retry_seconds is not None:
        problem.error.retry_after = error.retry_seconds
    return answer.event(problem)
