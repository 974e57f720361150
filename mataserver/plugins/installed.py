"""The installed plugins, and the lookup of backends for models."""

from __future__ import annotations

import importlib.metadata
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from mataserver import config
from mataserver.errors import MataError
from mataserver.plugins.loading import (
    collect_errors,
    load_plugin,
    plugin_record,
    reject,
    reject_name_conflicts,
    rejecting,
)
from mataserver.plugins.records import (
    DiscoveredPlugins,
    log,
    record_succession,
    record_uninstall,
    record_version_change,
)
from mataserver.plugins.validation import PluginError, require_iterable
from mataserver.results import TASKS

if TYPE_CHECKING:
    from collections.abc import Callable

    from msgspec import Struct

    from mataserver.contract.backend import ModelFiles
    from mataserver.contract.engine import EngineSpec
    from mataserver.contract.sessions import CheckSession
    from mataserver.contract.source import SourceSpec
    from mataserver.plugins.records import Plugin, ProvidedBackend
    from mataserver.plugins.sites import SiteDirectories

Found = TypeVar("Found")

GROUP = "mataserver"
"""The entry point group of plugins."""

_NO_TRACKER = (
    "; no plugin here tracks: pip install mataserver-track (./plugins/track in a checkout)"
)


@dataclass(slots=True)
class Plugins(DiscoveredPlugins):
    """Every plugin found, and the backends of the usable ones.

    With ``sites``, plugins installed later are discovered, too. ``generation`` counts these
    discoveries.
    """

    strict: bool = False
    sites: SiteDirectories | None = None
    generation: int = 0
    _refresh_lock: threading.Lock = field(default_factory=threading.Lock)

    def refresh(self) -> bool:
        """Discover plugins installed since the last check; return whether there were any.

        Their services start with the next start of the server, and so do changed plugins.
        Thread-safe.
        """
        with self._refresh_lock:
            if self.sites is None or not self.sites.changed():
                return False
            # A late plugin with an error may have been only partly installed: retry it.
            known = {p.identity: p for p in self.found if not (p.installed_late and p.error)}
            points = _installed_points()
            for identity in known.keys() & points.keys():
                record_version_change(known[identity], points[identity])
            for identity in known.keys() - points.keys():
                record_uninstall(known[identity])
            new = [point for identity, point in points.items() if identity not in known]
            if new:
                self._add_late(new, list(known.values()))
            return bool(new)

    def _add_late(self, points: list[importlib.metadata.EntryPoint], known: list[Plugin]) -> None:
        """Add plugins, in the order of the next start."""
        before = len(known)
        updated = DiscoveredPlugins(
            known, [provided for provided in self.provided if provided.plugin in known]
        )
        records = [(plugin_record(point), point) for point in points]
        for plugin, point in sorted(records, key=lambda each: each[0].sort_key):
            problems: list[config.ConfigError] = []
            with collect_errors(problems):
                load_plugin(plugin, point, updated, {}, config.variables(Path.cwd()))
            plugin.installed_late = True
            for problem in problems:
                reject(plugin, problem)
            if "service" in plugin.hooks:
                plugin.note = "its routes begin with the next start of the server"
        reject_name_conflicts(updated.found)
        for plugin in updated.found[before:]:
            status = plugin.error or plugin.note or "in use from now on"
            log.warning("plugin %s %s was installed: %s", plugin.name, plugin.version, status)
            record_succession(plugin, known)
        updated.found.sort(key=lambda each: each.sort_key)
        updated.provided.sort(key=lambda each: each.plugin.sort_key)
        self.found, self.provided = updated.found, updated.provided
        self.generation += 1

    def late_service_hint(self) -> str:
        """Return an explanation for an unknown path, or "": a late plugin's inactive service."""
        self.refresh()
        late = [each.name for each in self.found if each.installed_late and "service" in each.hooks]
        if not late:
            return ""
        noun = "the plugin" if len(late) == 1 else "plugins"
        return f"{noun} {', '.join(late)} came after the server's start: restart it for the routes"

    def find_backend(
        self, files: ModelFiles, task: str, above: frozenset[str] = frozenset()
    ) -> ProvidedBackend | None:
        """Return the backend that serves a model for a task, or None.

        ``above`` are the backends of the model that have it as a part: not one of them.
        """
        return _find(self, lambda: self._find_backend(files, task, above))

    def _find_backend(
        self, files: ModelFiles, task: str, above: frozenset[str]
    ) -> ProvidedBackend | None:
        for each in self._usable:
            name = each.backend.name
            if (
                name not in above
                and _serves(each, files, task)
                and self._serves_own_parts(each, files, above | {name})
            ):
                return each
        return None

    def rejection_reason(self, files: ModelFiles, task: str) -> str | None:
        """Return a backend's reason for rejecting a model of its kind, or None."""
        for each in self._usable:
            try:
                each.backend.serves(each.with_settings(files), task)
            except MataError as error:
                return error.detail
            except (Exception, SystemExit):  # noqa: S112 - logged by find_backend()
                continue
        return None

    def _serves_own_parts(
        self, provided: ProvidedBackend, files: ModelFiles, above: frozenset[str]
    ) -> bool:
        """Whether others serve the parts that a backend derives from the model itself."""
        if provided.backend.parts is None:
            return True
        try:
            parts = provided.backend.parts(files, provided.plugin.settings)
            own = [part.task for part in parts.values() if part.model == files.name]
        except (Exception, SystemExit):
            log.exception("backend %s: parts failed", provided.backend.name)
            return False
        return all(self._find_backend(files, task, above) is not None for task in own)

    def pip_backend(self, name: str) -> ProvidedBackend | None:
        """Return the pip backend called ``name``, or None."""
        return _find(self, lambda: self._find_pip_backend(name))

    def _find_pip_backend(self, name: str) -> ProvidedBackend | None:
        return next(
            (o for o in self._usable if o.backend.source == "pip" and o.backend.name == name), None
        )

    def engine(self, name: str) -> tuple[EngineSpec, Plugin] | None:
        """Return the engine of a usable plugin, with that plugin, or None."""
        pairs = [(spec, plugin) for plugin in self.usable for spec in plugin.engines]
        return next((pair for pair in pairs if pair[0].name == name), None)

    def source(self, name: str) -> tuple[SourceSpec, Plugin] | None:
        """Return the source of a usable plugin, with that plugin, or None."""
        return _find(self, lambda: self._find_source(name))

    def _find_source(self, name: str) -> tuple[SourceSpec, Plugin] | None:
        pairs = [(spec, plugin) for plugin in self.usable for spec in plugin.sources]
        return next((pair for pair in pairs if pair[0].name == name), None)

    @property
    def source_names(self) -> list[str]:
        """The names of the plugins' sources."""
        return [spec.name for plugin in self.usable for spec in plugin.sources]

    @property
    def pip_names(self) -> list[str]:
        """The names of the pip backends."""
        return [each.backend.name for each in self._usable if each.backend.source == "pip"]

    def serves_hub(self, task: str) -> bool:
        """Whether a backend serves any model of the hub for a task."""
        backends = [each.backend for each in self._usable]
        return any(each.task == task and each.source in {"hf", "any"} for each in backends)

    @property
    def tasks(self) -> list[str]:
        """The tasks of the API, and those of usable plugins."""
        return sorted({*TASKS, *(each.backend.task for each in self._usable)})

    def tracker_hint(self, task: str) -> str:
        """Return what a refusal of ``track`` adds if no plugin serves that task, or ""."""
        if task != "track" or any(each.backend.task == task for each in self._usable):
            return ""
        return _NO_TRACKER

    @property
    def own_result_types(self) -> dict[str, type[Struct]]:
        """The result structs of the usable plugins' own tasks."""
        backends = [each.backend for each in self._usable]
        return {each.task: each.result for each in backends if each.result is not None}

    @property
    def usable(self) -> list[Plugin]:
        """The plugins in use."""
        return [plugin for plugin in self.found if plugin.error is None]

    @property
    def _usable(self) -> list[ProvidedBackend]:
        # A plugin's service may fail after its backends were collected.
        return [provided for provided in self.provided if provided.plugin.error is None]

    def problems(self, session: CheckSession) -> list[str]:
        """Return the problems that plugins report in their settings, or why a check failed."""
        found: list[str] = []
        for plugin in self.usable:
            if "check" in plugin.hooks:
                with rejecting(plugin):
                    messages = plugin.hooks["check"](plugin.settings, session)
                    messages = require_iterable(messages, "check() must return sentences")
                    found += [_named(plugin, text) for text in messages]
                if plugin.error is not None:
                    found.append(f"plugin {plugin.name}: {plugin.error}")
        return found

    def check_strict(self) -> None:
        """Raise ``PluginError`` for a broken plugin if ``plugins.strict`` is set."""
        for plugin in self.found:
            if self.strict and plugin.error_line is not None:
                raise PluginError(f"plugin {plugin.name}: {plugin.error_line}")


def _installed_points() -> dict[tuple[str, str], importlib.metadata.EntryPoint]:
    """Return the entry points of the installed plugins by their ``Plugin.identity``."""
    points = importlib.metadata.entry_points(group=GROUP)
    return {plugin_record(point).identity: point for point in points}


def _named(plugin: Plugin, text: str) -> str:
    """Return a plugin's message, prefixed with its name unless that occurs in it."""
    return text if plugin.name in text else f"plugin {plugin.name}: {text}"


def _find(plugins: Plugins, look: Callable[[], Found | None]) -> Found | None:
    """Return what ``look`` finds; look again if plugins came since, also by another thread."""
    before = plugins.generation
    found = look()
    if found is None and (plugins.refresh() or plugins.generation != before):
        found = look()
    return found


def _serves(provided: ProvidedBackend, files: ModelFiles, task: str) -> bool:
    """Whether a backend serves a model; False if its ``accepts`` fails."""
    try:
        return bool(provided.backend.serves(provided.with_settings(files), task))
    except MataError:  # reported by rejection_reason()
        return False
    except (Exception, SystemExit):
        log.exception("accepts of the backend %s failed", provided.backend.name)
        return False
