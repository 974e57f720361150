"""The protocol's server: what there is, what is ready, and inference on tensors."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mataserver import BadRequest, InvalidParams, JobFailed, MataError, NotFound
from mataserver_oip import request as requests
from mataserver_oip import signature
from mataserver_oip.outputs import ModelOutputs

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mataserver import ModelHandle, Models, Params
    from mataserver_oip.request import InferRequest
    from mataserver_oip.signature import Field
    from mataserver_oip.tensor import Tensor

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
class IndexedModel:
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
    """The models of this server as the protocol sees them. Raises ``MataError`` children.

    ``max_images`` is how many images a request may have.
    """

    def __init__(self, models: Models, max_images: int) -> None:
        self._models = models
        self._max_images = max_images

    def metadata(self, name: str, version: str = "") -> Metadata:
        """Describe a model. Raises ``NotFound``."""
        task = self._models.info(name).task
        _check_version(name, version)
        return Metadata(name, signature.outputs(task))

    def ready(self, name: str, version: str = "") -> bool:
        """Whether a model is in memory and can answer. Raises ``NotFound``."""
        state = self._models.info(name).state
        _check_version(name, version)
        return state in _LOADED

    def index(self, *, ready: bool = False) -> list[IndexedModel]:
        """Return every model, or those that are ready."""
        every = [_indexed(info.model, info.state, info.error or "") for info in self._models.list()]
        return [each for each in every if each.state == "READY" or not ready]

    async def load(self, name: str) -> None:
        """Load a model into memory and wait for it."""
        await self._models.load(name)

    async def unload(self, name: str) -> None:
        """Take a model out of memory, after the inferences that it is busy with."""
        await self._models.unload(name)

    async def infer(self, request: InferRequest) -> Answer:
        """Run a request: its images go to the model together.

        Raises ``BadRequest`` for whatever is wrong with the request.
        """
        model, request_id = self._models.get(request.model), request.id
        name, task = model.name, model.task
        _check_version(request.model, request.version)
        wanted = _outputs(request.outputs, task)
        asked = self._images(request, model)
        del request  # its bytes are in the images now
        answers = ModelOutputs(task, await _infer_all(model, asked))
        tensors = await asyncio.to_thread(lambda: [answers.tensor(each) for each in wanted])
        return Answer(name, request_id, tensors)

    def _images(self, request: InferRequest, model: ModelHandle) -> list[tuple[bytes, Params]]:
        """Return the images of a request, each with its parameters."""
        images, given = requests.read(request, self._max_images)
        if all(each == given[0] for each in given):
            params = [_params(given[0], model)] * len(images)
        else:
            params = [
                _params(each, model, requests.which(number, len(given)))
                for number, each in enumerate(given)
            ]
        return list(zip(images, params, strict=True))


def _indexed(name: str, state: str, error: str) -> IndexedModel:
    if state in _LOADED:
        return IndexedModel(name, VERSION, "READY", "")
    if state == "loading":
        return IndexedModel(name, VERSION, "LOADING", "")
    return IndexedModel(name, VERSION, "UNAVAILABLE", error or state)


def _check_version(name: str, version: str) -> None:
    if version not in {"", VERSION}:
        raise NotFound(f"Model not found: {name[:200]} version {version[:20]}")


def _outputs(names: Sequence[str] | None, task: str) -> tuple[str, ...]:
    known = tuple(each.name for each in signature.outputs(task))
    if names is None:
        return known
    for name in names:
        if name not in known:
            raise BadRequest(f"output '{name[:64]}' is not one of this model: {', '.join(known)}")
    if len(set(names)) < len(names):
        raise BadRequest("an output is asked for twice")
    return tuple(names)


def _params(given: dict[str, Any], model: ModelHandle, where: str = "") -> Params:
    try:
        return model.params(given)
    except InvalidParams as error:
        raise BadRequest(where + error.detail) from None


async def _infer_all(model: ModelHandle, asked: list[tuple[bytes, Params]]) -> list[bytes]:
    """Run the images side by side; return their bodies.

    A model that cannot be asked ends it at once. Of images that it failed on the first is told.
    """
    tasks = [asyncio.ensure_future(_infer_one(model, *each)) for each in asked]
    asked.clear()
    try:
        found = await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
    bodies = []
    for number, each in enumerate(found):
        if isinstance(each, JobFailed):
            raise _refusal(each, requests.which(number, len(found)))
        bodies.append(each)
    return bodies


async def _infer_one(model: ModelHandle, image: bytes, params: Params) -> bytes | JobFailed:
    try:
        return (await model.answer(image, params, "msgpack")).body
    except JobFailed as error:
        return error


def _refusal(error: JobFailed, where: str) -> MataError:
    """Return why an image failed; what is wrong with a parameter is a bad request here."""
    status = BadRequest.status if error.status == InvalidParams.status else error.status
    return MataError(where + error.detail, status=status, retry_after=error.retry_after)
