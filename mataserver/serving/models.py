"""The data plane: the only way to a model.

Protocols translate between their clients and this module. Everything that runs a model
(``/v1/infer``, streams, cameras, chats, the inference protocol, plugins' services) uses it.
Parameters are parsed only here, and frames reach a session's model only here.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
from typing import TYPE_CHECKING, Any

from mataserver.errors import Conflict, InvalidParams
from mataserver.library import weights
from mataserver.library.catalog import DETECT_TO_TRACK
from mataserver.serving import description
from mataserver.serving.handle import Handle
from mataserver.suggestion import describe_unknown_task

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

    from mataserver.library.catalog import Catalog
    from mataserver.library.plans import ModelPlan
    from mataserver.library.registry import Entry
    from mataserver.metrics import Metrics
    from mataserver.params.table import Params
    from mataserver.results import ModelDetail, ModelInfo
    from mataserver.serving.pool import ModelPool
    from mataserver.sources.messages import Step

log = logging.getLogger("mataserver.models")


class ServedModels:
    """The server's models: ``Context.models``, and the interface of the server's own handlers."""

    def __init__(
        self, catalog: Catalog, pool: ModelPool, metrics: Metrics, max_tokens: int
    ) -> None:
        self.catalog = catalog
        self._pool = pool
        self._metrics = metrics
        self._max_tokens = max_tokens

    def list(self) -> Sequence[ModelInfo]:
        """Return every model that is present, as ``GET /v1/models`` does."""
        entries = self.catalog.entries().items()
        return [self._info(name, e) for name, e in entries if weights.are_present(name, e)]

    def info(self, model: str) -> ModelInfo:
        """Return a model's entry of ``GET /v1/models``. Raises ``NotFound``."""
        return self._info(model, self.catalog.entry(model))

    def pulled_at(self, model: str) -> float:
        """Return when a model was pulled, in Unix seconds. Raises ``NotFound``."""
        return self.catalog.entry(model).pulled_at

    def detail(self, model: str) -> ModelDetail:
        """Return the entry with its parameters. Raises ``NotFound`` and ``Unavailable``."""
        info = self.info(model)
        return description.detail(info, self.catalog.plan(model), self._max_tokens)

    def _info(self, name: str, entry: Entry) -> ModelInfo:
        status, settings = self._pool.status(name, entry.task), self.catalog.settings.model(name)
        return description.info(name, entry, status, settings)

    def get(self, model: str, task: str | None = None) -> Handle:
        """Return a handle that does not hold the model: each use loads it on demand.

        Raises ``NotFound``, or ``Unavailable`` if no backend serves the task.
        """
        plan = functools.partial(self.catalog.plan, model, task)
        handle = Handle(self._pool, self._metrics, self._max_tokens, plan)
        handle.plan()
        return handle

    def resolve(
        self, model: str, given: Any = None, *, text: bool = False
    ) -> tuple[Handle, Params, ModelPlan]:
        """Resolve a request: return the handle, its parameters, and the model's current plan.

        Combines ``get`` and ``Handle.params`` with a single lookup; raises as they do.
        """
        plan = self.catalog.plan(model)
        find = functools.partial(self.catalog.plan, model, None)
        handle = Handle(self._pool, self._metrics, self._max_tokens, find)
        return handle, plan.params(given, self._max_tokens, text=text), plan

    def for_session(self, model: str, task: str | None) -> Handle:
        """Return a handle for a session. Raises as ``session_plan``."""
        return self.get(model, session_plan(self.catalog, model, task).spec.task)

    def check_session(self, model: str, task: str | None = None, params: Any = None) -> None:
        """Raise what creating a session would raise, as far as known without loading."""
        check_session(self.catalog, self._max_tokens, model, task, params)

    @contextlib.asynccontextmanager
    async def acquire(self, model: str, task: str | None = None) -> AsyncIterator[Handle]:
        """Load ``model`` if necessary, and hold it until the context ends."""
        handle = self.get(model, task)
        async with handle.hold():
            yield handle

    async def load(self, model: str, task: str | None = None) -> None:
        """Load a model and wait for it; it then stays for its keep-alive."""
        async with self.get(model, task).hold():
            pass

    async def unload(self, model: str, *, only_loading: bool = False) -> bool:
        """Unload a model after its pending requests; return False if it was not loaded.

        With ``only_loading`` only its load is cancelled; False then if it is not loading.
        """
        self.catalog.entry(model)
        return await self._pool.unload(model, only_loading=only_loading)

    def reserve(self, size: int) -> AbstractAsyncContextManager[None]:
        """Reserve memory, in bytes, for a process other than a model until the context ends."""
        return self._pool.reserve(size)

    def pin(self, model: str) -> None:
        """Exempt a model from eviction until it is unpinned. Raises ``NotFound``."""
        self.catalog.entry(model)
        self._pool.pin(model)

    def unpin(self, model: str) -> bool:
        """Make a model evictable again; return whether it was pinned.

        Raises ``NotFound``, and ``Conflict`` if the configuration pins it.
        """
        self.catalog.entry(model)
        if self.catalog.settings.model(model).pin:
            raise Conflict(f"{model} is pinned by the configuration")
        return self._pool.unpin(model)

    async def pull(
        self, model: str, task: str, on_step: Callable[[Step], None] | None = None
    ) -> Sequence[str]:
        """Download or install a model and register it; return warnings for the operator.

        Raises as ``Catalog.pull``.
        """
        allowed = self.catalog.settings.allow_pip_pull
        pulled = await self.catalog.pull(model, task, on_step, allow_pip=allowed)
        if pulled.replaced is not None and pulled.replaced.task != task:
            await self._pool.unload(model, pulled.replaced.task, "replaced")
        for warning in pulled.warnings:
            log.warning("pull: %s", warning)
        return pulled.warnings

    def add(self, path: Path, task: str) -> str:
        """Register a local directory or file; return its name."""
        return self.catalog.add_local(path, task).name

    async def remove(self, model: str) -> None:
        """Unregister a model and unload it. Raises as ``Catalog.removing``."""
        # Shielded: a client that disconnects must not leave a model half removed.
        await asyncio.shield(self._remove(model))

    async def _remove(self, model: str) -> None:
        async with self.catalog.removing(model, self._pool.count_holds(model)):
            self._pool.unpin(model)
            await self._pool.unload(model, None, "removed")


def session_plan(catalog: Catalog, model: str, task: str | None) -> ModelPlan:
    """Return a session's plan: for the model's own task, or for track on a detector.

    Raises ``NotFound``, ``Unavailable`` or ``InvalidParams``.
    """
    own = catalog.entry(model).task
    wanted = own if task is None else task
    if wanted != own and ((own, wanted) != DETECT_TO_TRACK or not catalog.serves(model, wanted)):
        hint = catalog.plugins.tracker_hint(wanted)
        raise InvalidParams(f"task: {model} serves {own}, not {wanted[:40]!r}{hint}")
    return catalog.plan(model, wanted)


def check_session(
    catalog: Catalog, max_tokens: int, model: str, task: str | None = None, params: Any = None
) -> None:
    """Validate a session's model, task and parameters.

    Raises ``InvalidParams`` for permanent errors, ``NotFound`` or ``Unavailable`` for a missing
    model.
    """
    if task is not None and task not in catalog.plugins.tasks:
        raise InvalidParams(
            f"task: unknown task {describe_unknown_task(task, catalog.plugins.tasks)}"
        )
    session_plan(catalog, model, task).params(params, max_tokens)
