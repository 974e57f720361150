"""OpenAI's chat completions for the models of the task ``vlm``."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import msgspec
from msgspec import Raw

from mataserver import params
from mataserver.chat import answer, question
from mataserver.chat.answer import Ending, Writer
from mataserver.chat.stopping import Stops
from mataserver.engines.work import Job, joined
from mataserver.errors import BadRequest, InvalidParams, MataError
from mataserver.http import codec, dialects, events, examples
from mataserver.http.routing import Body, Route
from mataserver.results import Usage

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from aiohttp import web

    from mataserver.chat.question import Question
    from mataserver.engines.work import Outcome
    from mataserver.http.routing import State
    from mataserver.slots import Recipe

PREFIXES = ("/v1", "/openai/v1")
"""Where OpenAI's routes are: beside our own, and where everything is in OpenAI's form."""


def routes(state: State) -> list[Route]:
    """Return this module's routes."""
    api = _Chat(state)
    request = (Body(codec.JSON, question.ChatRequest, examples.CHAT),)
    response = (Body(codec.JSON, answer.Completion), Body(events.CONTENT_TYPE))
    return [
        Route("POST", f"{prefix}/chat/completions", api.complete, "Ask a model about an image",
              "OpenAI", request=request, response=response, problem=dialects.ChatProblem,
              errors=(400, 404, 408, 413, 415, 500, 503, 507), needs="infer", denied=401)
        for prefix in PREFIXES
    ]  # fmt: skip


class _Chat:
    def __init__(self, state: State) -> None:
        self._state = state

    async def complete(self, request: web.Request) -> web.StreamResponse:
        self._state.check_running()
        codec.require_json(request)
        async with codec.body(request, self._state) as data:
            asked = await codec.decoded(self._state, data, question.read)
            del data
            recipe = self._recipe(asked.model)
            job = Job(asked.image, self._packed(asked, recipe))
            writer = Writer(recipe.spec.name)
            if asked.stream:
                chunks = self._chunks(recipe, job, asked, writer)
                patience = self._state.settings.unread_timeout
                return await events.send(request, chunks, _failed, patience)
            return codec.respond(await self._whole(recipe, job, asked, writer))

    def _recipe(self, model: str) -> Recipe:
        recipe = self._state.catalog.recipe(model)
        task = recipe.spec.task
        if task != "vlm":
            raise BadRequest(f"model: {model} serves {task}; a chat needs a model of the task vlm")
        return recipe

    def _packed(self, asked: Question, recipe: Recipe) -> bytes:
        """Return the parameters of an inference; the seed where the model takes one."""
        given, kind = dict(asked.params), recipe.backend.params
        if asked.seed is not None and "seed" in kind.__struct_fields__:
            given["seed"] = asked.seed % 2**63
        defaults, ceiling = recipe.settings.params, self._state.settings.max_tokens
        try:
            parsed = params.parse(given, kind, defaults=defaults, max_tokens=ceiling)
        except InvalidParams as error:
            raise BadRequest(error.detail.removeprefix("params.")) from None
        return msgspec.msgpack.encode(parsed)

    async def _whole(
        self, recipe: Recipe, job: Job, asked: Question, writer: Writer
    ) -> answer.Completion:
        if not asked.stop:
            outcome, _ = await self._state.pool.infer(recipe, job)
            _check(outcome)
            return writer.whole(Raw(joined(outcome.fields["text"])), _ending(outcome))
        pieces, ending = [], Ending()
        async with contextlib.aclosing(self._pieces(recipe, job, asked)) as items:
            async for item in items:
                if isinstance(item, str):
                    pieces.append(item)
                else:
                    ending = item
        return writer.whole("".join(pieces), ending)

    async def _chunks(
        self, recipe: Recipe, job: Job, asked: Question, writer: Writer
    ) -> AsyncGenerator[bytes]:
        """Yield the events of a stream; nothing before the model has begun to write."""
        begun = False
        async with contextlib.aclosing(self._pieces(recipe, job, asked)) as items:
            async for item in items:
                if not begun:
                    yield writer.first()
                    begun = True
                if isinstance(item, str):
                    yield writer.piece(item)
                else:
                    yield events.Last(writer.last(item, usage=asked.usage))

    async def _pieces(
        self, recipe: Recipe, job: Job, asked: Question
    ) -> AsyncGenerator[str | Ending]:
        """Yield the text up to the first stop sequence, which stops the model, then how it ended.

        A model that does not write piece by piece gives its text at once.
        """
        stops, written = Stops(asked.stop), False
        async with contextlib.aclosing(self._state.pool.generate(recipe, job)) as items:
            async for item in items:
                if isinstance(item, str):
                    text, written = stops.add(item), True
                else:
                    _check(item)
                    text = "" if written else stops.add(_text(item))
                    text += stops.rest()
                if text:
                    yield text
                if stops.reached:
                    yield Ending()
                    return
                if not isinstance(item, str):
                    yield _ending(item)


def _check(outcome: Outcome) -> None:
    """Raise an outcome's failure; what is wrong with a parameter is a bad request here."""
    try:
        codec.check_outcome(outcome)
    except MataError as error:
        if error.status != 422:
            raise
        raise BadRequest(error.detail.removeprefix("params.")) from None


def _text(outcome: Outcome) -> str:
    return msgspec.json.decode(joined(outcome.fields["text"]), type=str)


def _ending(outcome: Outcome) -> Ending:
    usage = outcome.fields.get("usage")
    return Ending(None if usage is None else msgspec.json.decode(joined(usage), type=Usage))


def _failed(error: MataError) -> bytes:
    return answer.event(dialects.ChatProblem(dialects.chat_error(error.status, error.detail)))
