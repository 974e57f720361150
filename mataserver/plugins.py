"""Plugins: discover, isolate, attribute, refuse duplicates; the one typed face over pluggy.

A broken plugin is kept with its reason and never stops the server, unless ``plugins.strict``.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import inspect
import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import msgspec
import pluggy

from mataserver import config, hookspecs
from mataserver.contract import Backend, Service
from mataserver.errors import MataError, Unavailable
from mataserver.params import Params
from mataserver.results import TASKS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from mataserver.contract import Context, ModelFiles

GROUP = "mataserver"
COMMANDS_GROUP = "mataserver.commands"
HOOKS = ("settings", "backends", "service")

log = logging.getLogger("mataserver.plugins")


class PluginError(MataError):
    """A plugin that cannot be used; the detail names it."""


@dataclass(slots=True)
class Plugin:
    """One plugin as it was found. ``error`` says why it is not in use."""

    name: str
    distribution: str = ""
    version: str = ""
    module: Any = None
    settings: Any = None
    backends: tuple[Backend, ...] = ()
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Offer:
    """A backend and the plugin that gives it."""

    backend: Backend
    plugin: Plugin

    @property
    def missing(self) -> tuple[str, ...]:
        """The modules that it needs and that are not installed."""
        return tuple(name for name in self.backend.requires if not _importable(name))

    def check_installed(self) -> None:
        """Raise ``Unavailable`` with the pip command when a needed module is not installed."""
        missing = self.missing
        if missing:
            packages = " ".join(f"'{package}'" for package in self.backend.packages or missing)
            name = self.backend.name
            raise Unavailable(
                f"The backend {name} needs {', '.join(missing)}: pip install {packages}"
            )


@dataclass(slots=True)
class Plugins:
    """Every plugin found, and the backends of those in use."""

    found: list[Plugin] = field(default_factory=list)
    offers: list[Offer] = field(default_factory=list)

    def offer(self, files: ModelFiles, task: str) -> Offer | None:
        """Return the backend that serves a model for a task, or None."""
        return next((each for each in self.offers if each.backend.serves(files, task)), None)

    def pip(self, name: str) -> Offer | None:
        """Return the pip backend called ``name``, or None."""
        return next(
            (o for o in self.offers if o.backend.source == "pip" and o.backend.name == name), None
        )

    @property
    def usable(self) -> list[Plugin]:
        """The plugins in use."""
        return [plugin for plugin in self.found if plugin.error is None]

    def services(self, context: Callable[[Plugin], Context]) -> list[tuple[Plugin, Service]]:
        """Ask every plugin for its service; one that fails is put out of use."""
        services = []
        for plugin in self.usable:
            hook = _hook(plugin, "service")
            if hook is None:
                continue
            try:
                service = hook(context(plugin))
                if not isinstance(service, Service):
                    raise TypeError("service() must return an object with routes()")  # noqa: TRY301
            except Exception as error:
                _refuse(plugin, error)
                continue
            services.append((plugin, service))
        return services


def discover(
    settings: config.Settings, entry_points: Iterable[importlib.metadata.EntryPoint] | None = None
) -> Plugins:
    """Import every plugin of the entry-point group, one at a time.

    Raises ``ConfigError`` for settings of a plugin that are wrong, and ``PluginError`` for a broken
    plugin when ``plugins.strict`` is set.
    """
    given = dict(settings.plugins)
    strict = given.pop("strict", False)
    if not isinstance(strict, bool):
        raise config.ConfigError("configuration: plugins.strict: expected `bool`")
    plugins = Plugins()
    points = importlib.metadata.entry_points(group=GROUP) if entry_points is None else entry_points
    for point in sorted(points, key=lambda each: each.name):
        plugin = _load(point, {p.name for p in plugins.found})
        plugins.found.append(plugin)
        if plugin.error is None:
            _configure(plugin, given.get(plugin.name))
            _collect(plugin, plugins)
    _check_known(given, plugins)
    if strict:
        _check_strict(plugins)
    return plugins


def commands() -> dict[str, importlib.metadata.EntryPoint]:
    """Return the plugins' commands by name; they are imported when they run."""
    return {point.name: point for point in importlib.metadata.entry_points(group=COMMANDS_GROUP)}


def _load(point: importlib.metadata.EntryPoint, taken: set[str]) -> Plugin:
    plugin = Plugin(point.name)
    if point.dist is not None:
        plugin.distribution, plugin.version = point.dist.name, point.dist.version
    try:
        if point.name in taken or point.name == "strict":
            raise PluginError(f"the name {point.name!r} is taken")  # noqa: TRY301
        plugin.module = point.load()
        _check_hooks(plugin.module)
    except Exception as error:
        _refuse(plugin, error)
    return plugin


def _check_hooks(module: object) -> None:
    """Let pluggy check the names and signatures of the hook implementations."""
    manager = pluggy.PluginManager("mataserver")
    manager.add_hookspecs(hookspecs)
    manager.register(module)
    manager.check_pending()
    if not manager.get_hookcallers(module):
        raise PluginError("it implements no hook: mark one with mataserver.hookimpl")
    for name in HOOKS:
        function = getattr(module, name, None)
        if inspect.isfunction(function) and not hasattr(function, "mataserver_impl"):
            raise PluginError(f"{name}() is not marked with mataserver.hookimpl")


def _hook(plugin: Plugin, name: str) -> Any:
    """Return a plugin's implementation of a hook; a submodule of the same name is none."""
    function = getattr(plugin.module, name, None)
    return function if hasattr(function, "mataserver_impl") else None


def _configure(plugin: Plugin, given: object) -> None:
    hook = _hook(plugin, "settings")
    try:
        kind = hook() if hook is not None else None
        if kind is not None and not (isinstance(kind, type) and issubclass(kind, msgspec.Struct)):
            raise PluginError("settings() must return a msgspec.Struct type")  # noqa: TRY301
    except Exception as error:
        _refuse(plugin, error)
        return
    if kind is not None:
        plugin.settings = config.plugin_settings(given, kind, plugin.name)
    elif given is not None:
        raise config.ConfigError(f"configuration: plugins.{plugin.name}: it takes no settings")


def _collect(plugin: Plugin, plugins: Plugins) -> None:
    hook = _hook(plugin, "backends")
    if hook is None or plugin.error is not None:
        return
    try:
        backends = tuple(hook())
        for backend in backends:
            _check_backend(backend, plugins)
    except Exception as error:
        _refuse(plugin, error)
        return
    plugin.backends = backends
    plugins.offers += [Offer(backend, plugin) for backend in backends]


def _check_backend(backend: object, plugins: Plugins) -> None:
    if not isinstance(backend, Backend):
        raise PluginError(f"backends() gave a {type(backend).__name__}, not a Backend")
    if backend.task not in TASKS:
        raise PluginError(f"backend {backend.name}: unknown task {backend.task!r}")
    if not (isinstance(backend.params, type) and issubclass(backend.params, Params)):
        raise PluginError(f"backend {backend.name}: params must be a mataserver.Params struct")
    for offer in plugins.offers:
        if offer.backend.name == backend.name:
            owner = offer.plugin.name
            raise PluginError(f"backend {backend.name}: the plugin {owner} has one of that name")


def _check_known(given: dict[str, Any], plugins: Plugins) -> None:
    known = {plugin.name for plugin in plugins.found}
    for name in given:
        if name not in known:
            raise config.ConfigError(f"configuration: plugins.{name}: no such plugin is installed")


def _check_strict(plugins: Plugins) -> None:
    for plugin in plugins.found:
        if plugin.error is not None:
            raise PluginError(f"plugin {plugin.name}: {plugin.error}")


def _refuse(plugin: Plugin, error: Exception) -> None:
    plugin.error = f"{type(error).__name__}: {error}"
    log.error("plugin %s is not in use: %s", plugin.name, plugin.error, exc_info=error)


def _importable(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):
        return False
