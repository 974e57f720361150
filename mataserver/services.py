"""The models as a plugin's service sees them: acquired by reference, wherever the worker lives."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

import msgspec

from mataserver import params
from mataserver.engines.work import Job

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from mataserver.catalog import Catalog
    from mataserver.engines.work import Format
    from mataserver.pool import ModelPool
    from mataserver.results import ModelInfo
    from mataserver.slots import Recipe


class ServiceModels:
    """``Context.models``."""

    def __init__(self, catalog: Catalog, pool: ModelPool, max_tokens: int) -> None:
        self._catalog = catalog
        self._pool = pool
        self._max_tokens = max_tokens

    @contextlib.asynccontextmanager
    async def acquire(self, model: str, task: str | None = None) -> AsyncIterator[Handle]:
        """Load ``model`` if need be and hold it until the context ends."""
        recipe = self._catalog.recipe(model, task)
        async with self._pool.hold(recipe):
            yield Handle(self._pool, lambda: self._catalog.recipe(model, task), self._max_tokens)

    def add(self, path: Path, task: str) -> str:
        """Register a local directory or file; return its name."""
        return self._catalog.add_local(path, task)

    def info(self, model: str) -> ModelInfo:
        """Return what ``GET /v1/models`` tells of a model."""
        return self._catalog.info(model, self._pool)


class Handle:
    """A model that a service holds. Raises ``MataError`` children.

    ``max_tokens`` is the server's ceiling, for services as for requests.
    """

    def __init__(self, pool: ModelPool, recipe: Callable[[], Recipe], max_tokens: int) -> None:
        self._pool = pool
        self._max_tokens = max_tokens
        self._recipe = recipe  # asked each time: the model may be registered anew meanwhile

    async def predict(self, image: bytes, params: Any = None) -> Any:
        """Run the model on an encoded image; return the result struct as the model made it.

        ``params`` is a mapping of names as a request carries them, or the backend's struct. What
        it leaves out comes from the model's entry in the configuration, then from the backend.
        """
        fields = await self._encoded(image, params, "msgpack")
        # Brings numpy and Pillow, which a server whose services do not predict never needs.
        from mataserver.engines.encoding import decode_fields

        return await asyncio.to_thread(decode_fields, fields, self._recipe().spec.task)

    async def predict_encoded(self, image: bytes, params: Any = None) -> dict[str, bytes]:
        """Run the model on an encoded image; return JSON bytes per field."""
        return await self._encoded(image, params, "json")

    async def call(self, method: str, *args: Any, **kwargs: Any) -> Any:
        """Call a public method of the model."""
        with self._pool.occupied(self._recipe()) as worker:
            return await worker.call(method, args, kwargs)

    async def stream(self, method: str, *args: Any, **kwargs: Any) -> AsyncIterator[Any]:
        """Iterate over a public generator method; closing the iterator stops the work."""
        with self._pool.occupied(self._recipe()) as worker:
            async with contextlib.aclosing(worker.stream(method, args, kwargs)) as items:
                async for item in items:
                    yield item

    async def _encoded(self, image: bytes, given: Any, form: Format) -> dict[str, bytes]:
        recipe = self._recipe()
        job = Job(image, msgspec.msgpack.encode(self._params(recipe, given)), form)
        outcome, _ = await self._pool.infer(recipe, job)
        failure = outcome.failure
        if failure is not None:
            raise failure.error()
        return outcome.whole()

    def _params(self, recipe: Recipe, given: Any) -> msgspec.Struct:
        """Check what a service gives. Of a struct the worker checks the types."""
        backend, most = recipe.backend, self._max_tokens
        if not isinstance(given, msgspec.Struct):
            defaults, named = recipe.settings.params, params.check_object(given)
            return params.parse(named, backend.params, defaults=defaults, max_tokens=most)
        for field in msgspec.structs.fields(given):
            if field.name == "max_tokens" and given.max_tokens != field.default:  # type: ignore[attr-defined]
                params.check_tokens(given.max_tokens, most)  # type: ignore[attr-defined]
        return given
