"""Converts a pulled model for the backend that wants it, in a child process."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import pickle
import signal
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from mataserver import sources
from mataserver.contract import ModelFiles, ModelSpec
from mataserver.conversions.child import DONE, REFUSED, Job
from mataserver.conversions.workshop import Workshop
from mataserver.errors import Conflict, MataError
from mataserver.processes import run_process

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from mataserver.config import Settings
    from mataserver.plugins import Offer, Plugins
    from mataserver.processes import Child
    from mataserver.registry import Registry

_CHILD = "mataserver.conversions.child"
_NICE = 10
_SENTENCE = 500

T = TypeVar("T")

log = logging.getLogger("mataserver.conversions")


@dataclass(frozen=True, slots=True)
class Converted:
    """What became of a model: its new directory and the backend's name, or why there is none."""

    path: Path | None = None
    backend: str = ""
    reason: str = ""


class Converter:
    """Converts models for one server or one command, one at a time."""

    def __init__(self, settings: Settings, registry: Registry, plugins: Plugins) -> None:
        self._settings = settings
        self._plugins = plugins
        self._workshop = Workshop(settings.data_path / "converted", registry)
        self._turn = asyncio.Lock()

    @contextlib.asynccontextmanager
    async def converted(self, files: ModelFiles, task: str) -> AsyncIterator[Converted]:
        """Convert a model that is here; register what it yields before the context ends.

        Where ``runtime`` is not "auto" nothing happens. A model that nothing converts, or whose
        conversion fails, yields the reason. Raises ``Conflict`` while another process converts it.
        """
        path = files.path
        if self._settings.runtime_of(files.name) != "auto" or path is None or not path.is_dir():
            yield Converted()
            return
        async with self._turn, contextlib.AsyncExitStack() as held:
            yield await self._convert(files, path, task, held)

    async def _convert(
        self, files: ModelFiles, path: Path, task: str, held: contextlib.AsyncExitStack
    ) -> Converted:
        try:
            offer = self._taker(files, task)
            if offer is None:
                return Converted()
            version = f"{offer.plugin.distribution} {offer.plugin.version}"
            place = await asyncio.to_thread(
                self._workshop.place, files.name, path, task, offer.backend.name, version
            )
            part = await held.enter_async_context(_beside(self._workshop.bench(place)))
            if part is not None:
                await self._make(offer, ModelSpec(files.name, task, files.source, path), part)
                self._check(offer, files, task, part)
                place = await asyncio.to_thread(self._workshop.finish, part)
        except Conflict:
            raise
        except MataError as error:
            return Converted(reason=f"{files.name} is not converted: {error.detail}")
        log.info("%s is converted for %s", files.name, offer.backend.name)
        return Converted(place, offer.backend.name)

    def _taker(self, files: ModelFiles, task: str) -> Offer | None:
        """Return the backend that wants to convert a model; None if it may stay as it is.

        Raises the ``MataError`` that says why a backend cannot, or that there is none.
        """
        offers = self._plugins.converting(task)
        if not offers:
            raise MataError(f"no installed plugin converts models for the task {task}")
        refusal: MataError | None = None
        for offer in offers:
            try:
                if offer.wants(files):
                    return offer
            except MataError as error:
                refusal = error
        if refusal is not None:
            raise refusal
        return None

    async def _make(self, offer: Offer, spec: ModelSpec, part: Path) -> None:
        """Fill a directory. Raises ``MataError`` when that fails or takes too long."""
        conversion = offer.backend.conversion
        assert conversion is not None  # noqa: S101 - for the type checker: `converting` saw to it
        log.info("converting %s for %s", spec.name, offer.backend.name)
        job = pickle.dumps(Job(conversion.make, spec, part, offer.plugin.settings))
        environment, seconds = dict(offer.backend.environment), self._settings.load_timeout
        try:
            async with (
                asyncio.timeout(seconds),
                run_process(_CHILD, environment=environment, nice=_NICE) as child,
            ):
                await child.give(job)
                answer = await child.output.read()
                await _check_ended(child, answer)
        except TimeoutError:
            raise MataError(f"it took longer than {seconds:g} s (load_timeout)") from None

    @staticmethod
    def _check(offer: Offer, files: ModelFiles, task: str, part: Path) -> None:
        """Raise ``MataError`` if a backend does not serve what it has made."""
        made = ModelFiles(files.name, files.source, part, sources.read_config(part))
        if not offer.backend.serves(offer.given(made), task):
            raise MataError(f"{offer.backend.name} does not serve what it has made")


@contextlib.asynccontextmanager
async def _beside(context: contextlib.AbstractContextManager[T]) -> AsyncIterator[T]:
    """Enter and leave a context in a thread: it waits for locks and deletes directories."""
    entering = asyncio.create_task(asyncio.to_thread(context.__enter__))
    try:
        yield await asyncio.shield(entering)
    finally:
        await asyncio.wait([entering])  # who was cancelled leaves what is entered meanwhile, too
        if entering.exception() is None:
            await asyncio.to_thread(context.__exit__, None, None, None)


async def _check_ended(child: Child, answer: bytes) -> None:
    """Raise the ``MataError`` of a child that has not done its job."""
    status = await child.wait()
    if status == DONE:
        return
    if status == REFUSED:
        raise MataError(answer.decode(errors="replace")[:_SENTENCE])
    log.error("the conversion child failed: %s", await child.last_words())
    raise MataError(
        "its conversion was killed, perhaps for want of memory"
        if status == -signal.SIGKILL
        else "its conversion has failed; the log says why"
    )
