"""The engines of a server: its own and those of plugins, each made once it is needed."""

from __future__ import annotations

import contextlib
import inspect
import logging
from typing import TYPE_CHECKING, Any, cast

import msgspec

from mataserver.config import ConfigError
from mataserver.contract.engine import EngineContext, EngineSpec
from mataserver.engines.process import ProcessEngine
from mataserver.engines.thread import ThreadEngine
from mataserver.errors import MataError
from mataserver.plugin_ends import ends_logged
from mataserver.plugins.records import importable
from mataserver.suggestion import similar

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from mataserver.config import Settings
    from mataserver.contract.service import ClusterProcesses
    from mataserver.engines.work import Engine
    from mataserver.plugins import Plugin, Plugins

_PACKAGES = {"ray": "mataserver-ray (./plugins/ray in a checkout)"}
"""Engines of this project's plugins, with the package to install."""
CLUSTER = "ray"
"""The engine that runs the processes of services on other machines."""

log = logging.getLogger("mataserver.pool")


def check(settings: Settings, plugins: Plugins) -> None:
    """Raise ``ConfigError`` if the configuration names an engine that cannot be used."""
    for place, name in _named(settings):
        _find(name, plugins, place)


class EngineSet:
    """The engines by name; ``given`` replaces some.

    Raises a ``MataError`` if the configuration names an engine that does not exist or fails.
    """

    def __init__(
        self, settings: Settings, plugins: Plugins, given: Mapping[str, Engine] | None = None
    ) -> None:
        self._settings = settings
        self._plugins = plugins
        self._made: dict[str, Engine] = dict(given or {})
        self._failed: dict[str, MataError] = {}
        self._is_open = False
        for place, name in _named(settings):
            self.get(name, place)

    def get(self, name: str, place: str = "engine") -> Engine:
        """Return an engine, made at the first call. Raises a ``MataError`` if there is none."""
        if name in self._failed:  # it is made once
            raise self._failed[name]
        if name not in self._made:
            spec, plugin = _find(name, self._plugins, place)
            try:
                self._made[name] = self._make(spec, plugin)
                if self._is_open:
                    _open(name, self._made[name])
            except MataError as error:
                self._failed[name] = error
                raise
        return self._made[name]

    def running(self, name: str) -> Engine | None:
        """Return an engine that is in use, else None."""
        return self._made.get(name)

    def is_remote(self, name: str) -> bool:
        """Whether the workers of an engine are on other machines."""
        with contextlib.suppress(MataError):  # a load reports it
            return bool(getattr(self.get(name), "is_remote", False))
        return False

    def cluster(self) -> ClusterProcesses:
        """Return the cluster's engine, even if no model uses it.

        Raises ``MataError`` if its package is missing.
        """
        return cast("ClusterProcesses", self.get(CLUSTER))

    def open(self) -> None:
        """Let the engines start what takes long, such as to connect to a cluster."""
        self._is_open = True
        for name, engine in list(self._made.items()):  # one may build on ``process``
            _open(name, engine)

    def waiting(self) -> dict[str, str]:
        """Return what the engines are waiting for, with the reasons."""
        found: dict[str, str] = {}
        for name, engine in list(self._made.items()):
            try:
                found |= getattr(engine, "waiting", {})
            except (Exception, SystemExit):
                log.exception("the engine %s does not say what it waits for", name)
                found[f"engine {name}"] = "it does not say what it waits for"
        return found

    async def close(self) -> None:
        """Stop the engines and all their workers, those last on which others may build."""
        try:
            await self._close(name for name in list(self._made) if name not in _OWN)
        finally:  # also if the others took too long, and the caller gave up
            await self._close(name for name in list(self._made) if name in _OWN)

    async def _close(self, names: Iterable[str]) -> None:
        for name in names:
            with ends_logged(log, "the engine %s did not stop", name):
                await self._made[name].close()

    def _make(self, spec: EngineSpec, plugin: Plugin | None) -> Engine:
        options = msgspec.structs.asdict(self._settings)
        start = f"{spec.name}_"
        context = EngineContext(
            settings=self._settings if plugin is None else plugin.settings,
            options={
                key.removeprefix(start): value
                for key, value in options.items()
                if key.startswith(start)
            },
            data_dir=self._settings.data_path,
            log=logging.getLogger(f"mataserver.engine.{spec.name}"),
            process=lambda: self.get("process"),
        )
        with _start_failures(spec.name):
            made = spec.make(context)
        for method in ("start", "close"):
            if not inspect.iscoroutinefunction(getattr(made, method, None)):
                raise MataError(
                    f"the engine {spec.name} cannot start: it has no coroutine function {method}"
                )
        return cast("Engine", made)


def _process(context: EngineContext) -> ProcessEngine:
    settings: Settings = context.settings
    return ProcessEngine(
        log_level=settings.log_level,
        log_format=settings.log_format,
        inherit=settings.inherit_variables,
    )


_OWN = {
    each.name: each
    for each in (
        EngineSpec(name="process", make=_process),
        EngineSpec(name="thread", make=lambda _: ThreadEngine()),
    )
}


def _named(settings: Settings) -> Iterator[tuple[str, str]]:
    """Yield each engine that the configuration names, after its place there."""
    named = [("engine", settings.engine)]
    named += [(f"models[{i}].engine", each.engine) for i, each in enumerate(settings.models)]
    yield from ((place, name) for place, name in named if name != "auto")


def _find(name: str, plugins: Plugins, place: str) -> tuple[EngineSpec, Plugin | None]:
    """Return an engine's declaration and plugin. Raises a ``MataError`` if it cannot be used."""
    found = (_OWN[name], None) if name in _OWN else plugins.engine(name)
    if found is None:
        raise _unknown(name, plugins, place)
    spec, _ = found
    if not all(importable(each) for each in spec.requires):
        packages = " ".join(f"'{each}'" for each in spec.packages or spec.requires)
        raise MataError(f"engine: {name} needs a package: pip install {packages}")
    return found


def _unknown(name: str, plugins: Plugins, place: str) -> MataError:
    for plugin in plugins.found:
        if plugin.error is not None and name in plugin.names:
            return ConfigError(f"engine: {name} is not in use: {plugin.error}")
    if name in _PACKAGES:
        return ConfigError(f"engine: {name} needs a package: pip install {_PACKAGES[name]}")
    known = ["auto", *_OWN, *(each.name for plugin in plugins.usable for each in plugin.engines)]
    return ConfigError(
        f"configuration: {place}: unknown engine {name!r}: one of {', '.join(known)}"
        f"{similar(name, known)}"
    )


def _open(name: str, engine: Any) -> None:
    with _start_failures(name):
        if hasattr(engine, "open"):
            engine.open()


@contextlib.contextmanager
def _start_failures(name: str) -> Iterator[None]:
    try:
        yield
    except MataError:
        raise
    except (Exception, SystemExit) as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise MataError(f"the engine {name} cannot start: {reason}") from error
