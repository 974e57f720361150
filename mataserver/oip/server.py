"""The protocol's server: what there is, what is ready, and inference on tensors."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from mataserver import params
from mataserver.engines.work import Job
from mataserver.errors import BadRequest, InvalidParams, MataError, NotFound
from mataserver.oip import request as requests
from mataserver.oip import signature
from mataserver.oip.outputs import Answers

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mataserver.catalog import Catalog
    from mataserver.config import Settings
    from mataserver.engines.work import Outcome
    from mataserver.oip.request import InferRequest
    from mataserver.oip.signature import Field
    from mataserver.oip.tensor import Tensor
    from mataserver.pool import ModelPool
    from mataserver.slots import Recipe

NAME = "mataserver"
VERSION = "1"
"""The version that every model has: the registry keeps one of each."""
EXTENSIONS = ("binary_tensor_data", "model_repository")

_LOADED = frozenset({"ready", "active", "idle"})


@dataclass(frozen=True, slots=True)
class Metadata:
    """What a model takes and gives."""

    name: str
    outputs: tuple[Field, ...]
    inputs: tuple[Field, ...] = signature.INPUTS
    versions: tuple[str, ...] = (VERSION,)
    platform: str = NAME


@dataclass(frozen=True, slots=True)
class Indexed:
    """One model of the repository's index; ``reason`` says why it is not ready."""

    name: str
    version: str
    state: str
    reason: str


@dataclass(frozen=True, slots=True)
class Answer:
    """The outputs of an inference, in the order in which they were asked for."""

    model: str
    id: str
    outputs: list[Tensor]
    version: str = VERSION


class InferenceServer:
    """The models of this server as the protocol sees them. Raises ``MataError`` children."""

    def __init__(self, catalog: Catalog, pool: ModelPool, settings: Settings) -> None:
        self._catalog = catalog
        self._pool = pool
        self._settings = settings

    def metadata(self, name: str, version: str = "") -> Metadata:
        """Describe a model. Raises ``NotFound``."""
        task = self._catalog.entry(name).task
        _check_version(name, version)
        return Metadata(name, signature.outputs(task))

    def ready(self, name: str, version: str = "") -> bool:
        """Whether a model is in memory and can answer. Raises ``NotFound``."""
        task = self._catalog.entry(name).task
        _check_version(name, version)
        return self._pool.status(name, task).state in _LOADED

    def index(self, *, ready: bool = False) -> list[Indexed]:
        """Return every model, or those that are ready."""
        every = [
            _indexed(info.model, info.state, info.error or "")
            for info in self._catalog.infos(self._pool)
        ]
        return [each for each in every if each.state == "READY" or not ready]

    async def load(self, name: str) -> None:
        """Load a model into memory and wait for it."""
        async with self._pool.hold(self._catalog.recipe(name)):
            pass

    async def unload(self, name: str) -> None:
        """Take a model out of memory, after the inferences that it is busy with."""
        self._catalog.entry(name)
        await self._pool.unload(name)

    async def infer(self, request: InferRequest) -> Answer:
        """Run a request: its images go to the model together.

        Raises ``BadRequest`` for whatever is wrong with the request.
        """
        recipe, request_id = self._catalog.recipe(request.model), request.id
        _check_version(request.model, request.version)
        wanted = _wanted(request.outputs, recipe.spec.task)
        jobs = self._jobs(request, recipe)
        del request  # its bytes are in the jobs now
        outcomes = await self._run(recipe, jobs)
        answers = Answers(recipe.spec.name, recipe.spec.task, [each.whole() for each in outcomes])
        tensors = await asyncio.to_thread(lambda: [answers.tensor(name) for name in wanted])
        return Answer(recipe.spec.name, request_id, tensors)

    def _jobs(self, request: InferRequest, recipe: Recipe) -> list[Job]:
        images, given = requests.read(request, self._settings.queue_limit)
        if all(each == given[0] for each in given):
            packed = [self._packed(given[0], recipe)] * len(images)
        else:
            packed = [self._packed(each, recipe) for each in given]
        return [Job(*pair, "msgpack") for pair in zip(images, packed, strict=True)]

    def _packed(self, given: dict[str, Any], recipe: Recipe) -> bytes:
        defaults, ceiling = recipe.settings.params, self._settings.max_tokens
        try:
            parsed = params.parse(
                given, recipe.backend.params, defaults=defaults, max_tokens=ceiling
            )
        except InvalidParams as error:
            raise BadRequest(error.detail) from None
        return msgspec.msgpack.encode(parsed)

    async def _run(self, recipe: Recipe, jobs: list[Job]) -> list[Outcome]:
        """Run the jobs side by side; what one of them fails with ends the others."""
        tasks = [asyncio.ensure_future(self._pool.infer(recipe, job)) for job in jobs]
        jobs.clear()
        try:
            outcomes = [outcome for outcome, _ in await asyncio.gather(*tasks)]
        finally:
            for task in tasks:
                task.cancel()
        for number, outcome in enumerate(outcomes):
            _check(outcome, f"image {number}: " if len(outcomes) > 1 else "")
        return outcomes


def _indexed(name: str, state: str, error: str) -> Indexed:
    if state in _LOADED:
        return Indexed(name, VERSION, "READY", "")
    if state == "loading":
        return Indexed(name, VERSION, "LOADING", "")
    return Indexed(name, VERSION, "UNAVAILABLE", error or state)


def _check_version(name: str, version: str) -> None:
    if version not in {"", VERSION}:
        raise NotFound(f"Model not found: {name[:200]} version {version[:20]}")


def _wanted(names: Sequence[str] | None, task: str) -> tuple[str, ...]:
    known = tuple(each.name for each in signature.outputs(task))
    if names is None:
        return known
    for name in names:
        if name not in known:
            raise BadRequest(f"output '{name[:64]}' is not one of this model: {', '.join(known)}")
    if len(set(names)) < len(names):
        raise BadRequest("an output is asked for twice")
    return tuple(names)


def _check(outcome: Outcome, where: str) -> None:
    """Raise an outcome's failure; what is wrong with a parameter is a bad request here."""
    failure = outcome.failure
    if failure is not None:
        status = 400 if failure.status == 422 else failure.status
        raise MataError(where + failure.detail, status=status, retry_after=failure.retry_after)
