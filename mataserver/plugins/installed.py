"""The installed plugins, and the lookup of backends for models."""

from __future__ import annotations

import importlib.metadata
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from mataserver import config
from mataserver.errors import MataError
from mataserver.plugins.admission import PluginError, several
from mataserver.plugins.intake import admit, collecting, note_change, note_loss, refuse, settle
from mataserver.plugins.offer import Discovered, log
from mataserver.results import TASKS

if TYPE_CHECKING:
    from msgspec import Struct

    from mataserver.contract.backend import ModelFiles
    from mataserver.contract.sessions import CheckSession
    from mataserver.plugins.offer import Offer, Plugin
    from mataserver.plugins.sites import Sites

GROUP = "mataserver"
"""The entry point group of plugins."""


@dataclass(slots=True)
class Plugins(Discovered):
    """Every plugin found, and the backends of the usable ones.

    With ``sites``, plugins installed later are discovered, too. ``grown`` counts these discoveries.
    """

    strict: bool = False
    sites: Sites | None = None
    grown: int = 0
    _looking: threading.Lock = field(default_factory=threading.Lock)

    def refresh(self) -> bool:
        """Discover plugins installed since the last check; return whether there were any.

        Their services start with the next start of the server, and so do changed plugins.
        Thread-safe.
        """
        with self._looking:
            if self.sites is None or not self.sites.changed():
                return False
            # A late plugin with an error may have been only partly installed: retry it.
            known = {p.name: p for p in self.found if not (p.late and p.error)}
            points = importlib.metadata.entry_points(group=GROUP)
            for point in points:
                if point.name in known:
                    note_change(known[point.name], point)
            for name in known.keys() - points.names:
                note_loss(known[name])
            new = [point for point in points if point.name not in known]
            if new:
                self._take_in(new, list(known.values()))
            return bool(new)

    def _take_in(self, points: list[importlib.metadata.EntryPoint], known: list[Plugin]) -> None:
        """Add plugins, in the order of the next start."""
        before = len(known)
        grown = Discovered(known, [offer for offer in self.offers if offer.plugin in known])
        for point in points:
            problems: list[config.ConfigError] = []
            with collecting(problems):
                admit(point, grown, {}, config.variables(Path.cwd()))
            plugin = grown.found[-1]
            plugin.late = True
            for problem in problems:
                refuse(plugin, problem)
            if "service" in plugin.hooks:
                plugin.note = "its routes begin with the next start of the server"
        settle(grown.found)
        for plugin in grown.found[before:]:
            told = plugin.error or plugin.note or "in use from now on"
            log.warning("plugin %s %s was installed: %s", plugin.name, plugin.version, told)
        grown.found.sort(key=lambda each: each.place)
        grown.offers.sort(key=lambda each: each.plugin.place)
        self.found, self.offers, self.grown = grown.found, grown.offers, self.grown + 1

    def awaited(self) -> str:
        """Return an explanation for an unknown path, or "": a late plugin's inactive service."""
        self.refresh()
        late = [each.name for each in self.found if each.late and "service" in each.hooks]
        if not late:
            return ""
        come = "the plugin" if len(late) == 1 else "plugins"
        return f"{come} {', '.join(late)} came after the server's start: restart it for the routes"

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
        """Return a backend's reason for rejecting a model of its kind, or None."""
        for each in self._usable:
            try:
                each.backend.serves(each.given(files), task)
            except MataError as error:
                return error.detail
            except Exception:  # noqa: S112 - logged by offer()
                continue
        return None

    def _complete(self, offer: Offer, files: ModelFiles) -> bool:
        """Whether the parts that a backend derives from the model itself can be served."""
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

    def serves_hub(self, task: str) -> bool:
        """Whether a backend serves any model of the hub for a task."""
        backends = [each.backend for each in self._usable]
        return any(each.task == task and each.source in {"hf", "any"} for each in backends)

    @property
    def tasks(self) -> list[str]:
        """The tasks of the API, and those of usable plugins."""
        return sorted({*TASKS, *(each.backend.task for each in self._usable)})

    @property
    def brought(self) -> dict[str, type[Struct]]:
        """The result structs of the usable plugins' own tasks."""
        backends = [each.backend for each in self._usable]
        return {each.task: each.result for each in backends if each.result is not None}

    @property
    def usable(self) -> list[Plugin]:
        """The plugins in use."""
        return [plugin for plugin in self.found if plugin.error is None]

    @property
    def _usable(self) -> list[Offer]:
        # A plugin's service may fail after its backends were collected.
        return [offer for offer in self.offers if offer.plugin.error is None]

    def problems(self, session: CheckSession) -> list[str]:
        """Return the problems that plugins report in their settings, or why a check failed."""
        found: list[str] = []
        for plugin in self.usable:
            if "check" in plugin.hooks:
                try:
                    said = plugin.hooks["check"](plugin.settings, session)
                    said = several(said, "check() must return sentences")
                    found += [_named(plugin, text) for text in said]
                except (Exception, SystemExit) as error:
                    refuse(plugin, error)
                    found.append(f"plugin {plugin.name}: {plugin.error}")
        return found

    def check_strict(self) -> None:
        """Raise ``PluginError`` for a broken plugin if ``plugins.strict`` is set."""
        if self.strict:
            _check_strict(self)


def _named(plugin: Plugin, text: str) -> str:
    """Return a plugin's message, prefixed with its name unless that occurs in it."""
    return text if plugin.name in text else f"plugin {plugin.name}: {text}"


def _serves(offer: Offer, files: ModelFiles, task: str) -> bool:
    """Whether a backend serves a model; False if its ``accepts`` fails."""
    try:
        return bool(offer.backend.serves(offer.given(files), task))
    except MataError:  # reported by refusal()
        return False
    except Exception:
        log.exception("accepts of the backend %s failed", offer.backend.name)
        return False


def _check_strict(plugins: Plugins) -> None:
    for plugin in plugins.found:
        if plugin.fault is not None:
            raise PluginError(f"plugin {plugin.name}: {plugin.fault}")
