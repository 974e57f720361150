"""What the model pool keeps: recipes of models, their places and states, and its settings."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from mataserver import params
from mataserver.engines.work import Failure

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mataserver.batching import Batcher
    from mataserver.config import ModelSettings
    from mataserver.contract import Backend, ModelSpec
    from mataserver.engines.memory import Gpu
    from mataserver.engines.work import Worker
    from mataserver.errors import MataError
    from mataserver.params import Params


@dataclass(frozen=True, slots=True)
class Recipe:
    """All that it takes to load a model.

    ``family`` is what the plugins of its distribution are called together. ``estimate`` is its
    memory in bytes before it is known.
    """

    spec: ModelSpec
    backend: Backend
    plugin: str
    plugin_settings: object
    settings: ModelSettings
    estimate: int
    parts: Mapping[str, Recipe] = field(default_factory=dict)
    family: str = ""

    def same_model(self, other: Recipe) -> bool:
        """Whether a worker of this recipe serves the other one too."""
        if self is other:
            return True
        mine, others = self.parts, other.parts
        return (
            (self.spec, self.backend) == (other.spec, other.backend)
            and mine.keys() == others.keys()
            and all(part.same_model(others[label]) for label, part in mine.items())
        )

    @property
    def whole(self) -> list[Recipe]:
        """It and its parts."""
        return [self, *(each for part in self.parts.values() for each in part.whole)]

    @property
    def owner(self) -> str:
        """Whose zygote forks its worker, and whose folder of the data directory is its own."""
        return self.family or self.plugin

    @property
    def uses_gpu(self) -> bool:
        """Whether it, or a part of it, uses a GPU where there is one."""
        return self.backend.gpu or any(part.uses_gpu for part in self.parts.values())

    def params(self, given: Any, max_tokens: int, *, text: bool = False) -> Params:
        """Return the parameters of an inference: the one place where they are parsed.

        ``given`` is a mapping of names as a request carries them, with ``text`` as a form or a
        query does, or a struct of the backend, of which the worker checks the types. What it leaves
        out comes from the model's entry in the configuration, then from the backend; ``max_tokens``
        is the server's ceiling. Raises ``InvalidParams`` naming the parameter.
        """
        defaults = self.settings.params
        if isinstance(given, params.Params):
            params.check_ceiling(given, defaults, max_tokens)
            return given
        parse = params.parse_text if text else params.parse
        named = params.check_object(given)
        return parse(named, self.backend.params, defaults=defaults, max_tokens=max_tokens)

    @property
    def names(self) -> set[str]:
        """The names of the model and of all of its parts."""
        return {self.spec.name}.union(*(part.names for part in self.parts.values()))

    @property
    def key(self) -> tuple[str, str]:
        """What the pool knows it by: a model may serve two tasks."""
        return (self.spec.name, self.spec.task)


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a model could not be loaded, for as long as nothing that it depends on has changed.

    ``until`` is on the pool's clock: what nobody here sees change, a driver or a program of the
    system, is tried again then.
    """

    recipe: Recipe
    footprint: tuple[tuple[str, int, int], ...]
    failure: Failure
    until: float

    @classmethod
    async def of(cls, recipe: Recipe, error: MataError, until: float) -> Refusal:
        """Return what is remembered of a load that failed."""
        mark = await asyncio.to_thread(footprint, recipe)
        return cls(recipe, mark, Failure.of(error), until)

    async def check(self, recipe: Recipe, now: float) -> None:
        """Raise why the load failed, if it would fail again."""
        if self.recipe != recipe or now >= self.until:
            return
        if await asyncio.to_thread(footprint, recipe) == self.footprint:
            raise self.failure.error()


def footprint(recipe: Recipe) -> tuple[tuple[str, int, int], ...]:
    """Return name, size and time of what a model is loaded from: its files, and the packages.

    A directory of packages changes when one is installed or removed. Blocking.
    """
    places = [each.spec.path for each in (recipe, *recipe.parts.values())]
    roots = [place for place in places if place is not None]
    files = [file for root in roots for file in (root, *root.rglob("*"))]
    found = []
    for path in sorted({*files, *map(Path, sys.path)}):
        with contextlib.suppress(OSError):
            status = path.stat()
            found.append((str(path), status.st_size, status.st_mtime_ns))
    return tuple(found)


class Status(msgspec.Struct, frozen=True):
    """A model's state. Memory in bytes, times in Unix seconds. ``pinned``: by request."""

    state: str = "unloaded"
    memory: int | None = None
    loaded_at: float | None = None
    last_used: float | None = None
    error: str | None = None
    pinned: bool = False


class Probe(Protocol):
    """Where the pool learns about memory."""

    def ram_total(self) -> int:
        """RAM that may be used, in bytes."""
        ...

    def own(self) -> int:
        """The server's own memory, in bytes."""
        ...

    def gpus(self) -> list[Gpu]:
        """The GPUs' memory."""
        ...

    def vram_of(self, pid: int) -> int:
        """GPU memory of a process, in bytes."""
        ...


@dataclass(frozen=True, slots=True)
class Policy:
    """The pool's settings. Seconds, and fractions of all memory."""

    keep_alive: float = 300.0
    min_residence: float = 10.0
    load_timeout: float = 600.0
    queue_limit: int = 64
    ram_fraction: float = 0.9
    vram_fraction: float = 0.9
    device: str = "auto"


class Slot:
    """One model's place in the pool, kept while the server runs."""

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self.worker: Worker | None = None
        self.batcher: Batcher | None = None
        self.loading: asyncio.Task[None] | None = None
        self.leaving: asyncio.Task[None] | None = None
        self.timer: asyncio.TimerHandle | None = None
        self.holders = 0
        self.held = 0
        self.deaths = 0
        self.not_before = 0.0
        self.evicted = False
        self.used = False
        self.error: str | None = None
        self.refusal: Refusal | None = None
        self.ram = 0
        self.vram = 0
        self.loaded_at: float | None = None
        self.last_used: float | None = None
        """Both in Unix seconds, to be shown; the same moments on the pool's clock:"""
        self.settled = 0.0
        self.touched = 0.0
        self.idle_since = 0.0

    @property
    def active(self) -> bool:
        """Whether an inference is queued or running."""
        return self.batcher is not None and self.batcher.active

    @property
    def state(self) -> str:
        """The state of the API."""
        if self.loading is not None:
            return "loading"
        if self.worker is None:
            return "evicted" if self.evicted else "unloaded"
        if self.active:
            return "active"
        return "idle" if self.used else "ready"
