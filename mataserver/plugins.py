"""Plugins: discover, isolate, attribute, refuse duplicates; the one typed face over pluggy.

A broken plugin is kept with its reason and never stops the server, unless ``plugins.strict``.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import inspect
import logging
import pickle
import re
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pluggy

from mataserver import config, hookspecs, sources
from mataserver.contract import Backend, Conversion, Service
from mataserver.errors import MataError, Unavailable
from mataserver.params import Params
from mataserver.results import TASKS
from mataserver.suggestion import similar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from aiohttp import web

    from mataserver.contract import Context, ModelFiles

GROUP = "mataserver"
HOOKS = ("settings", "backends", "service")

_SOURCES = ("hf", "pip", "local", "any")
_ENGINES = ("process", "thread")
_FOLDERS = re.compile(r"(?<![\w.:/-])/(?:[^\s/'\",;()<>]+/)*")
_VARIABLE = re.compile(r"\{[^{}]*(?:\{[^{}]*\}[^{}]*)*\}")

log = logging.getLogger("mataserver.plugins")


class PluginError(MataError):
    """A plugin that cannot be used; the detail names it."""


@dataclass(slots=True)
class Plugin:
    """One plugin as it was found. ``error`` says why it is not in use."""

    name: str
    distribution: str = ""
    version: str = ""
    hooks: dict[str, Callable[..., Any]] = field(default_factory=dict)
    settings: Any = None
    backends: tuple[Backend, ...] = ()
    routes: tuple[web.RouteDef, ...] = ()
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

    @property
    def unsuitable(self) -> tuple[str, ...]:
        """The installed distributions whose version it cannot do with, as "name version"."""
        return sources.unsuitable(self.backend.packages)

    def wants(self, files: ModelFiles) -> bool:
        """Whether the backend converts a model. Raises a ``MataError`` that says why it cannot."""
        conversion = self.backend.conversion
        try:
            return conversion is not None and conversion.wanted(files, self.plugin.settings)
        except MataError:
            raise
        except Exception:
            log.exception("backend %s: wanted failed", self.backend.name)
            return False

    def check_installed(self) -> None:
        """Raise ``Unavailable`` with the pip command when a module is missing, or of no use."""
        missing, unsuitable = self.missing, self.unsuitable
        if missing or unsuitable:
            packages = " ".join(f"'{package}'" for package in self.backend.packages or missing)
            needed = ", ".join(missing) or f"another version than {', '.join(unsuitable)}"
            raise Unavailable(
                f"The backend {self.backend.name} needs {needed}: pip install {packages}"
            )


@dataclass(slots=True)
class Plugins:
    """Every plugin found, and the backends of those in use."""

    found: list[Plugin] = field(default_factory=list)
    offers: list[Offer] = field(default_factory=list)
    strict: bool = False

    def offer(self, files: ModelFiles, task: str) -> Offer | None:
        """Return the backend that serves a model for a task, or None."""
        for each in self._usable:
            if _serves(each, files, task) and self._complete(each, files):
                return each
        return None

    def refusal(self, files: ModelFiles, task: str) -> str | None:
        """Return why a backend refuses a model that is of its kind, or None."""
        for each in self._usable:
            try:
                each.backend.serves(files, task)
            except MataError as error:
                return error.detail
            except Exception:  # noqa: S112 - offer() has logged it
                continue
        return None

    def _complete(self, offer: Offer, files: ModelFiles) -> bool:
        """Whether the parts that a backend takes from the model itself are served."""
        if offer.backend.parts is None:
            return True
        try:
            parts = offer.backend.parts(files, offer.plugin.settings)
        except Exception:
            log.exception("backend %s: parts failed", offer.backend.name)
            return False
        own = [part.task for part in parts.values() if part.model == files.name]
        return all(self.offer(files, task) is not None for task in own)

    def pip(self, name: str) -> Offer | None:
        """Return the pip backend called ``name``, or None."""
        return next(
            (o for o in self._usable if o.backend.source == "pip" and o.backend.name == name), None
        )

    @property
    def pip_names(self) -> list[str]:
        """The names of the pip backends."""
        return [each.backend.name for each in self._usable if each.backend.source == "pip"]

    def converting(self, task: str) -> list[Offer]:
        """Return the backends for a task that convert models of other frameworks."""
        return [
            each
            for each in self._usable
            if each.backend.task == task and each.backend.conversion is not None
        ]

    @property
    def usable(self) -> list[Plugin]:
        """The plugins in use."""
        return [plugin for plugin in self.found if plugin.error is None]

    @property
    def _usable(self) -> list[Offer]:
        # A plugin may fall out of use later than its backends were collected: by its service.
        return [offer for offer in self.offers if offer.plugin.error is None]

    def services(
        self, context: Callable[[Plugin], Context], taken: Iterable[tuple[str, str]] = ()
    ) -> list[tuple[Plugin, Service]]:
        """Ask every plugin for its service and its routes, which ``Plugin.routes`` then holds.

        ``taken`` are method and path of the routes that exist. A plugin whose service fails, or
        gives a route that exists, is put out of use; raises ``PluginError`` when
        ``plugins.strict`` is set.
        """
        services = []
        routes = {_shape(method, path) for method, path in taken}
        for plugin in self.usable:
            hook = plugin.hooks.get("service")
            if hook is None:
                continue
            try:
                service = hook(context(plugin))
                plugin.routes = _routes(service, routes)
            except Exception as error:
                _refuse(plugin, error)
                continue
            routes |= {_shape(route.method, route.path) for route in plugin.routes}
            services.append((plugin, service))
        if self.strict:
            _check_strict(self)
        return services


def discover(
    settings: config.Settings,
    entry_points: Iterable[importlib.metadata.EntryPoint] | None = None,
    environ: Mapping[str, str] | None = None,
    problems: list[config.ConfigError] | None = None,
) -> Plugins:
    """Import every plugin of the entry-point group, one at a time.

    ``environ`` holds the variables that settings of plugins name, by default those of the
    environment and of ``.env`` in the working directory. With a list ``problems`` wrong settings
    are put there instead of being raised, and a plugin that has some gets its defaults.
    Raises ``ConfigError`` for settings of a plugin that are wrong, and ``PluginError`` for a broken
    plugin when ``plugins.strict`` is set.
    """
    given = dict(settings.plugins)
    strict = given.pop("strict", False)
    if not isinstance(strict, bool):
        raise config.ConfigError("configuration: plugins.strict: expected `bool`")
    plugins = Plugins(strict=strict)
    variables = config.variables(Path.cwd()) if environ is None else environ
    points = importlib.metadata.entry_points(group=GROUP) if entry_points is None else entry_points
    for point in sorted(points, key=lambda each: each.name):
        plugin = _load(point, {p.name for p in plugins.found})
        plugins.found.append(plugin)
        if plugin.error is None:
            with _told(problems):
                _configure(plugin, given.get(plugin.name), variables)
            _collect(plugin, plugins)
    with _told(problems):
        _check_known(given, plugins)
    if strict:
        _check_strict(plugins)
    return plugins


@contextlib.contextmanager
def _told(problems: list[config.ConfigError] | None) -> Iterator[None]:
    """Put a ``ConfigError`` into the list, where there is one, instead of raising it."""
    try:
        yield
    except config.ConfigError as error:
        if problems is None:
            raise
        problems.append(error)


def _load(point: importlib.metadata.EntryPoint, taken: set[str]) -> Plugin:
    plugin = Plugin(point.name)
    if point.dist is not None:
        plugin.distribution, plugin.version = point.dist.name, point.dist.version
    try:
        if point.name in taken or point.name == "strict":
            raise PluginError(f"the name {point.name!r} is taken")  # noqa: TRY301
        plugin.hooks = _hooks(point.load())
    except Exception as error:
        _refuse(plugin, error)
    return plugin


def _hooks(module: object) -> dict[str, Callable[..., Any]]:
    """Return the hook implementations of a plugin, whose names and arguments pluggy checks."""
    for name in HOOKS:
        function = getattr(module, name, None)
        if inspect.isroutine(function) and not hasattr(function, "mataserver_impl"):
            raise PluginError(f"{name}() is not marked with mataserver.hookimpl")
    manager = pluggy.PluginManager("mataserver")
    manager.add_hookspecs(hookspecs)
    manager.register(module, "plugin")
    callers = manager.get_hookcallers(module) or []
    if not callers:
        raise PluginError("it implements no hook: mark one with mataserver.hookimpl")
    hooks = {}
    for caller in callers:
        if caller.name not in HOOKS:
            raise PluginError(f"unknown hook {caller.name!r}: there are {', '.join(HOOKS)}")
        hooks[caller.name] = _hook(caller)
    return hooks


def _hook(caller: pluggy.HookCaller) -> Callable[..., Any]:
    """Return the one implementation behind a hook, to be called with the hook's arguments."""
    implementations = caller.get_hookimpls()
    if len(implementations) > 1 or any(i.wrapper or i.hookwrapper for i in implementations):
        raise PluginError(f"{caller.name}() must be one plain function: no wrapper, no second one")
    names = caller.spec.argnames if caller.spec is not None else ()
    implementation = implementations[0]

    def call(*arguments: Any) -> Any:
        given = dict(zip(names, arguments, strict=True))
        return implementation.function(*(given[name] for name in implementation.argnames))

    return call


def _configure(plugin: Plugin, given: object, environ: Mapping[str, str]) -> None:
    hook = plugin.hooks.get("settings")
    if hook is None:
        if given is not None:
            raise config.ConfigError(f"configuration: plugins.{plugin.name}: it takes no settings")
        return
    try:
        kind = hook()
        if not (isinstance(kind, type) and issubclass(kind, msgspec.Struct)):
            raise PluginError("settings() must return a msgspec.Struct type")  # noqa: TRY301
        if not kind.__struct_config__.forbid_unknown_fields:
            raise PluginError("settings(): the struct must have forbid_unknown_fields=True")  # noqa: TRY301
        _check_pickles(kind, "settings(): the struct")
        with contextlib.suppress(TypeError):  # what counts when the given ones are wrong
            plugin.settings = kind()
        plugin.settings = config.plugin_settings(given, kind, plugin.name, environ)
    except config.ConfigError:
        raise
    except Exception as error:
        _refuse(plugin, error)


def _collect(plugin: Plugin, plugins: Plugins) -> None:
    hook = plugin.hooks.get("backends")
    if hook is None or plugin.error is not None:
        return
    owners = {offer.backend.name: offer.plugin.name for offer in plugins.offers}
    try:
        backends = tuple(hook())
        for backend in backends:
            _check_backend(backend, owners)
            owners[backend.name] = plugin.name
    except Exception as error:
        _refuse(plugin, error)
        return
    plugin.backends = backends
    plugins.offers += [Offer(backend, plugin) for backend in backends]


def _check_backend(backend: object, owners: dict[str, str]) -> None:
    if not isinstance(backend, Backend):
        raise PluginError(f"backends() gave a {type(backend).__name__}, not a Backend")
    if not isinstance(backend.name, str) or not backend.name:
        raise PluginError("backends() gave a Backend without a name")
    who = f"backend {backend.name}"
    if backend.name in owners:
        raise PluginError(f"{who}: the plugin {owners[backend.name]} has one of that name")
    for name, allowed in (("task", TASKS), ("source", _SOURCES), ("engine", _ENGINES)):
        if getattr(backend, name) not in allowed:
            raise PluginError(f"{who}: unknown {name} {getattr(backend, name)!r}")
    if backend.source != "pip" and not callable(backend.accepts):
        raise PluginError(f"{who}: the source {backend.source} needs a function accepts")
    if backend.parts is not None and not callable(backend.parts):
        raise PluginError(f"{who}: parts must be a function")
    _check_worker(backend, who)
    _check_conversion(backend, who)


def _check_conversion(backend: Backend, who: str) -> None:
    conversion = backend.conversion
    if conversion is None:
        return
    if not isinstance(conversion, Conversion) or not callable(conversion.wanted):
        raise PluginError(f"{who}: conversion must be a Conversion of two functions")
    _check_pickles(conversion.make, f"{who}: conversion: make")


def _check_worker(backend: Backend, who: str) -> None:
    """Check what goes to the worker."""
    if not (isinstance(backend.params, type) and issubclass(backend.params, Params)):
        raise PluginError(f"{who}: params must be a mataserver.Params struct")
    if not isinstance(backend.max_batch, int) or backend.max_batch < 1:
        raise PluginError(f"{who}: max_batch must be a whole number from 1")
    for name in ("requires", "packages", "preload"):
        values = getattr(backend, name)
        if not isinstance(values, tuple) or not all(isinstance(value, str) for value in values):
            raise PluginError(f"{who}: {name} must be a tuple of strings")
    _check_pickles(backend.load, f"{who}: load")
    _check_pickles(backend.params, f"{who}: params")


def _check_pickles(thing: object, what: str) -> None:
    """A worker process gets it by its name, so it must be found under that name."""
    if not callable(thing):
        raise PluginError(f"{what} must be a function")
    try:
        pickle.dumps(thing)
    except Exception:
        raise PluginError(f"{what} must stand at the top level of its module") from None


def _serves(offer: Offer, files: ModelFiles, task: str) -> bool:
    """Whether a backend serves a model; one whose ``accepts`` fails serves none."""
    try:
        return bool(offer.backend.serves(files, task))
    except MataError:  # refusal() tells it
        return False
    except Exception:
        log.exception("accepts of the backend %s failed", offer.backend.name)
        return False


def _routes(service: object, taken: set[tuple[str, str]]) -> tuple[web.RouteDef, ...]:
    """Return a service's routes. Raises ``PluginError`` for one that exists already."""
    from aiohttp import web

    if not isinstance(service, Service):
        raise PluginError("service() must return an object with routes() and async enter and exit")
    routes = tuple(service.routes())
    seen = set(taken)
    for route in routes:
        if not isinstance(route, web.RouteDef):
            raise PluginError(f"routes() gave a {type(route).__name__}, not an aiohttp RouteDef")
        shape = _shape(route.method, route.path)
        if shape in seen or ("*", shape[1]) in seen:
            raise PluginError(f"its route exists already: {route.method} {route.path}")
        seen.add(shape)
    return routes


def _shape(method: str, path: str) -> tuple[str, str]:
    """Return a route as what it matches: the names of its variables do not count."""
    return (method.upper(), _VARIABLE.sub("{}", path))


def _check_known(given: dict[str, Any], plugins: Plugins) -> None:
    known = {plugin.name for plugin in plugins.found}
    for name in given:
        if name not in known:
            raise config.ConfigError(
                f"configuration: plugins.{name}: no such plugin is installed{similar(name, known)}"
            )


def _check_strict(plugins: Plugins) -> None:
    for plugin in plugins.found:
        if plugin.error is not None:
            raise PluginError(f"plugin {plugin.name}: {plugin.error}")


def _refuse(plugin: Plugin, error: Exception) -> None:
    plugin.error = _reason(error)
    log.error("plugin %s is not in use: %s", plugin.name, plugin.error, exc_info=error)


def _reason(error: Exception) -> str:
    """What ``GET /v1/plugins`` may say of an error: on one line, and no folder of this machine."""
    if isinstance(error, MataError):
        return error.detail
    text = " ".join(_FOLDERS.sub("", str(error)).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _importable(module: str) -> bool:
    if sys.modules.get(module) is not None:
        return True  # while another thread imports it, it may have no spec, as cv2
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):
        return False
