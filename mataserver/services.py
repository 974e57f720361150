"""The models as a plugin's service sees them: acquired by reference, wherever the worker lives."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import msgspec

from mataserver import results
from mataserver.engines.work import Job
from mataserver.errors import MataError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from mataserver.catalog import Catalog
    from mataserver.pool import ModelPool, Recipe

_RESULT_OF = {task: kind for kind in results.RESULT_TYPES for task in kind.tasks}  # type: ignore[attr-defined]


class ServiceModels:
    """``Context.models``."""

    def __init__(self, catalog: Catalog, pool: ModelPool) -> None:
        self._catalog = catalog
        self._pool = pool

    @contextlib.asynccontextmanager
    async def acquire(self, model: str, task: str | None = None) -> AsyncIterator[Handle]:
        """Load ``model`` if need be and hold it until the context ends."""
        recipe = self._catalog.recipe(model, task)
        async with self._pool.hold(recipe):
            yield Handle(self._pool, recipe)


class Handle:
    """A model that a service holds. Raises ``MataError`` children."""

    def __init__(self, pool: ModelPool, recipe: Recipe) -> None:
        self._pool = pool
        self._recipe = recipe

    async def predict(self, image: bytes, params: Any = None) -> Any:
        """Run the model on an encoded image; return the decoded result struct."""
        fields = await self._encoded(image, params, "msgpack")
        values = {name: msgspec.msgpack.decode(data) for name, data in fields.items()}
        values.pop("depth_shape", None)
        return msgspec.convert(values, _RESULT_OF[self._recipe.spec.task])

    async def predict_encoded(self, image: bytes, params: Any = None) -> dict[str, bytes]:
        """Run the model on an encoded image; return JSON bytes per field."""
        return await self._encoded(image, params, "json")

    async def call(self, method: str, *args: Any, **kwargs: Any) -> Any:
        """Call a public method of the model."""
        return await self._pool.worker(self._recipe).call(method, args, kwargs)

    async def stream(self, method: str, *args: Any, **kwargs: Any) -> AsyncIterator[Any]:
        """Iterate over a public generator method; closing the iterator stops the work."""
        items = self._pool.worker(self._recipe).stream(method, args, kwargs)
        async with contextlib.aclosing(items):  # type: ignore[type-var]
            async for item in items:
                yield item

    async def _encoded(self, image: bytes, params: Any, form: Any) -> dict[str, bytes]:
        chosen = self._recipe.backend.params() if params is None else params
        job = Job(image, msgspec.msgpack.encode(chosen), form)
        outcome, _ = await self._pool.infer(self._recipe, job)
        failure = outcome.failure
        if failure is not None:
            raise MataError(failure.detail, status=failure.status, retry_after=failure.retry_after)
        return outcome.fields
