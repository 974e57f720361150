"""Plugins: discover, isolate, attribute, refuse duplicates; the one typed face over pluggy.

A broken plugin is kept with its reason and never stops the server, unless ``plugins.strict``.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import logging
import re
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from mataserver import admission, config
from mataserver.admission import HOOKS, PluginError, check_backend, check_pickles
from mataserver.errors import MataError
from mataserver.offer import DISABLED, Offer, Plugin
from mataserver.sites import Sites
from mataserver.suggestion import similar

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from mataserver.contract import ModelFiles

__all__ = ["GROUP", "HOOKS", "Offer", "Plugin", "PluginError", "Plugins", "discover"]

GROUP = "mataserver"
_FOLDERS = re.compile(r"(?<![\w.:/-])/(?:[^\s/'\",;()<>]+/)*")
_VARIABLE = re.compile(r"\{[^{}]*(?:\{[^{}]*\}[^{}]*)*\}")

log = logging.getLogger("mataserver.plugins")


@dataclass(slots=True)
class Plugins:
    """Every plugin found, and the backends of those in use.

    With ``sites`` it takes in what is installed later. ``grown`` counts how often it did.
    """

    found: list[Plugin] = field(default_factory=list)
    offers: list[Offer] = field(default_factory=list)
    strict: bool = False
    sites: Sites | None = None
    grown: int = 0
    _looking: threading.Lock = field(default_factory=threading.Lock)

    def refresh(self) -> bool:
        """Take in the plugins that were installed meanwhile; whether there were any.

        Their services wait for the next start of the server, and so does a plugin that changed.
        Any thread may call it.
        """
        with self._looking:
            if self.sites is None or not self.sites.changed():
                return False
            # One that was broken when it came may have been half installed.
            known = {p.name: p for p in self.found if not (p.late and p.error)}
            points = importlib.metadata.entry_points(group=GROUP)
            for point in points:
                if point.name in known:
                    _note_change(known[point.name], point)
            new = [point for point in points if point.name not in known]
            if new:
                self._take_in(new, list(known.values()))
            return bool(new)

    def _take_in(self, points: list[importlib.metadata.EntryPoint], known: list[Plugin]) -> None:
        """Add plugins, in the order that the next start will have."""
        grown = Plugins(known, [offer for offer in self.offers if offer.plugin in known])
        for point in points:
            problems: list[config.ConfigError] = []
            with _told(problems):
                _admit(point, grown, {}, config.variables(Path.cwd()))
            plugin = grown.found[-1]
            plugin.late = True
            for problem in problems:
                refuse(plugin, problem)
            if "service" in plugin.hooks:
                plugin.note = "its routes begin with the next start of the server"
            told = plugin.error or plugin.note or "in use from now on"
            log.warning("plugin %s %s was installed: %s", plugin.name, plugin.version, told)
        grown.found.sort(key=lambda each: each.place)
        grown.offers.sort(key=lambda each: each.plugin.place)
        self.found, self.offers, self.grown = grown.found, grown.offers, self.grown + 1

    def offer(self, files: ModelFiles, task: str) -> Offer | None:
        """Return the backend that serves a model for a task, or None."""
        found = self._offer(files, task)
        return self._offer(files, task) if found is None and self.refresh() else found

    def _offer(self, files: ModelFiles, task: str) -> Offer | None:
        for each in self._usable:
            if _serves(each, files, task) and self._complete(each, files):
                return each
        return None

    def refusal(self, files: ModelFiles, task: str) -> str | None:
        """Return why a backend refuses a model that is of its kind, or None."""
        for each in self._usable:
            try:
                each.backend.serves(each.given(files), task)
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
        found = self._pip(name)
        return self._pip(name) if found is None and self.refresh() else found

    def _pip(self, name: str) -> Offer | None:
        return next(
            (o for o in self._usable if o.backend.source == "pip" and o.backend.name == name), None
        )

    @property
    def pip_names(self) -> list[str]:
        """The names of the pip backends."""
        return [each.backend.name for each in self._usable if each.backend.source == "pip"]

    @property
    def usable(self) -> list[Plugin]:
        """The plugins in use."""
        return [plugin for plugin in self.found if plugin.error is None]

    @property
    def _usable(self) -> list[Offer]:
        # A plugin may fall out of use later than its backends were collected: by its service.
        return [offer for offer in self.offers if offer.plugin.error is None]

    def check_strict(self) -> None:
        """Raise ``PluginError`` for a broken plugin when ``plugins.strict`` is set."""
        if self.strict:
            _check_strict(self)


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
    strict, disabled = given.pop("strict", False), given.pop("disabled", [])
    if not isinstance(strict, bool):
        raise config.ConfigError("configuration: plugins.strict: expected `bool`")
    if not isinstance(disabled, list) or not all(isinstance(each, str) for each in disabled):
        raise config.ConfigError("configuration: plugins.disabled: expected a list of names")
    plugins = Plugins(strict=strict, sites=Sites() if entry_points is None else None)
    variables = config.variables(Path.cwd()) if environ is None else environ
    points = importlib.metadata.entry_points(group=GROUP) if entry_points is None else entry_points
    for point in sorted(points, key=lambda each: _unloaded(each).place):
        plugin = _unloaded(point)
        if not plugin.names.isdisjoint(disabled):
            plugin.error = DISABLED  # nothing of it is imported
            plugins.found.append(plugin)
            continue
        with _told(problems):
            _admit(point, plugins, given, variables)
    _check_disabled(disabled, plugins)
    with _told(problems):
        _check_known(given, plugins)
    if strict:
        _check_strict(plugins)
    return plugins


def _unloaded(point: importlib.metadata.EntryPoint) -> Plugin:
    """Return a plugin of which nothing was imported."""
    plugin = Plugin(point.name)
    if point.dist is not None:
        plugin.distribution, plugin.version = point.dist.name, point.dist.version
    return plugin


def _check_disabled(names: list[str], plugins: Plugins) -> None:
    known = {name for plugin in plugins.found for name in plugin.names}
    for name in names:
        if name not in known:
            raise config.ConfigError(
                f"configuration: plugins.disabled: no plugin {name!r} is installed"
                f"{similar(name, known)}"
            )


def _admit(
    point: importlib.metadata.EntryPoint,
    plugins: Plugins,
    given: Mapping[str, Any],
    variables: Mapping[str, str],
) -> Plugin:
    """Import a plugin and add it. Raises ``ConfigError``, after it was added with its defaults."""
    plugin = _load(point, {p.name for p in plugins.found})
    plugins.found.append(plugin)
    try:
        if plugin.error is None:
            _configure(plugin, given, variables)
    finally:
        _collect(plugin, plugins)
    return plugin


@contextlib.contextmanager
def _told(problems: list[config.ConfigError] | None) -> Iterator[None]:
    """Put a ``ConfigError`` into the list, where there is one, instead of raising it."""
    try:
        yield
    except config.ConfigError as error:
        if problems is None:
            raise
        if error.detail not in {each.detail for each in problems}:  # plugins may share settings
            problems.append(error)


def _note_change(plugin: Plugin, point: importlib.metadata.EntryPoint) -> None:
    """Note that another version was installed than the one that was imported."""
    version = plugin.version if point.dist is None else point.dist.version
    note = f"version {version} was installed: restart the server to use it"
    if version != plugin.version and note != plugin.note:
        plugin.note = note
        log.warning("plugin %s: %s", plugin.name, note)


def _load(point: importlib.metadata.EntryPoint, taken: set[str]) -> Plugin:
    plugin = _unloaded(point)
    try:
        if point.name in taken or point.name in {"strict", "disabled"}:
            raise PluginError(f"the name {point.name!r} is taken")  # noqa: TRY301
        plugin.hooks = admission.hooks(point.load())
    except Exception as error:
        refuse(plugin, error)
    return plugin


def _configure(plugin: Plugin, given: Mapping[str, Any], environ: Mapping[str, str]) -> None:
    own = given.get(plugin.name)
    hook = plugin.hooks.get("settings")
    if hook is None:
        if own is not None:
            raise config.ConfigError(f"configuration: plugins.{plugin.name}: it takes no settings")
        return
    try:
        kind = hook()
        if not (isinstance(kind, type) and issubclass(kind, msgspec.Struct)):
            raise PluginError("settings() must return a msgspec.Struct type")  # noqa: TRY301
        if not kind.__struct_config__.forbid_unknown_fields:
            raise PluginError("settings(): the struct must have forbid_unknown_fields=True")  # noqa: TRY301
        check_pickles(kind, "settings(): the struct")
        plugin.section = _section(kind, plugin)
        if own is not None and plugin.section != plugin.name:
            raise config.ConfigError(  # noqa: TRY301
                f"configuration: plugins.{plugin.name}: its settings are those of "
                f"plugins.{plugin.section}"
            )
        with contextlib.suppress(TypeError):  # what counts when the given ones are wrong
            plugin.settings = kind()
        mine = given.get(plugin.section)
        plugin.settings = config.plugin_settings(mine, kind, plugin.section, environ)
    except config.ConfigError:
        raise
    except Exception as error:
        refuse(plugin, error)


def _section(kind: type[msgspec.Struct], plugin: Plugin) -> str:
    """Return where the settings of a plugin stand: plugins of one distribution may share a place.

    Raises ``PluginError`` for another place than the plugin's own or its distribution's.
    """
    if "section" in kind.__struct_fields__:
        return plugin.name
    allowed = dict.fromkeys((plugin.name, plugin.family))
    section = getattr(kind, "section", plugin.name)
    if section not in allowed:
        raise PluginError(f"settings(): section must be {' or '.join(map(repr, allowed))}")
    return str(section)


def _collect(plugin: Plugin, plugins: Plugins) -> None:
    hook = plugin.hooks.get("backends")
    if hook is None or plugin.error is not None:
        return
    owners = {offer.backend.name: offer.plugin.name for offer in plugins.offers}
    try:
        backends = tuple(hook())
        for backend in backends:
            check_backend(backend, owners)
            owners[backend.name] = plugin.name
    except Exception as error:
        refuse(plugin, error)
        return
    plugin.backends = backends
    plugins.offers += [Offer(backend, plugin) for backend in backends]


def _serves(offer: Offer, files: ModelFiles, task: str) -> bool:
    """Whether a backend serves a model; one whose ``accepts`` fails serves none."""
    try:
        return bool(offer.backend.serves(offer.given(files), task))
    except MataError:  # refusal() tells it
        return False
    except Exception:
        log.exception("accepts of the backend %s failed", offer.backend.name)
        return False


def shape(method: str, path: str) -> tuple[str, str]:
    """Return a route as what it matches: the names of its variables do not count."""
    return (method.upper(), _VARIABLE.sub("{}", path))


def _check_known(given: dict[str, Any], plugins: Plugins) -> None:
    known = {name for plugin in plugins.found for name in (plugin.name, plugin.section)}
    # Which section they have, those that were not imported cannot say.
    known |= {plugin.family for plugin in plugins.found if plugin.error is not None}
    for name in given:
        if name not in known:
            raise config.ConfigError(
                f"configuration: plugins.{name}: no such plugin is installed{similar(name, known)}"
            )


def _check_strict(plugins: Plugins) -> None:
    for plugin in plugins.found:
        if plugin.fault is not None:
            raise PluginError(f"plugin {plugin.name}: {plugin.fault}")


def refuse(plugin: Plugin, error: Exception) -> None:
    """Put a plugin out of use."""
    plugin.error = _reason(error)
    log.error("plugin %s is not in use: %s", plugin.name, plugin.error, exc_info=error)


def _reason(error: Exception) -> str:
    """What ``GET /v1/plugins`` may say of an error: on one line, and no folder of this machine."""
    if isinstance(error, MataError):
        return error.detail
    text = " ".join(_FOLDERS.sub("", str(error)).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
