"""Discovery of the plugins in the entry point group, at the start of a server or a command."""

from __future__ import annotations

import contextlib
import copy
import importlib.metadata
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mataserver import config
from mataserver.plugins.installed import GROUP, Plugins
from mataserver.plugins.loading import (
    collect_errors,
    configure,
    load_plugin,
    plugin_record,
    reject_name_conflicts,
)
from mataserver.plugins.records import DISABLED, log
from mataserver.plugins.sites import SiteDirectories
from mataserver.suggestion import similar

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

SLOW_IMPORT_SECONDS = 5.0
"""Seconds after which a plugin that is still being imported is logged."""


def discover(
    settings: config.Settings,
    entry_points: Iterable[importlib.metadata.EntryPoint] | None = None,
    environ: Mapping[str, str] | None = None,
    problems: list[config.ConfigError] | None = None,
) -> Plugins:
    """Import every plugin of the entry point group, one by one.

    ``environ`` holds the variables for plugins' settings, by default the environment over ``.env``
    in the working directory. With a list ``problems``, invalid settings are appended there instead
    of raised, and the plugin gets its defaults. Raises ``ConfigError`` for invalid settings of a
    plugin, and ``PluginError`` for a broken plugin if ``plugins.strict`` is set.
    """
    given, strict, disabled = _split(settings, problems)
    plugins = Plugins(strict=strict, sites=SiteDirectories() if entry_points is None else None)
    variables = config.variables(Path.cwd()) if environ is None else environ
    points = importlib.metadata.entry_points(group=GROUP) if entry_points is None else entry_points
    records = [(plugin_record(point), point) for point in points]
    for plugin, point in sorted(records, key=lambda each: each[0].sort_key):
        if not plugin.names.isdisjoint(disabled):
            plugin.error = DISABLED  # a disabled plugin is not imported
            plugins.found.append(plugin)
            continue
        with collect_errors(problems), _slow_import_logged(plugin.name):
            load_plugin(plugin, point, plugins, given, variables)
    reject_name_conflicts(plugins.found)
    with collect_errors(problems):
        _check_disabled(disabled, plugins)
    with collect_errors(problems):
        _check_known(given, plugins)
    plugins.check_strict()
    return plugins


def check_settings(settings: config.Settings, plugins: Plugins) -> None:
    """Raise ``ConfigError`` for reread settings of plugins that the next start would refuse.

    What a plugin that is not imported takes is unknown, as of one that was disabled at the start.
    """
    given, _, disabled = _split(settings)
    _check_disabled(disabled, plugins)
    _check_known(given, plugins)
    variables = config.variables(Path.cwd())
    for plugin in plugins.found:
        is_known = plugin.error is None or plugin.settings is not None  # it may have failed since
        if is_known and plugin.names.isdisjoint(disabled):
            configure(copy.copy(plugin), given, variables)


def _split(
    settings: config.Settings, problems: list[config.ConfigError] | None = None
) -> tuple[dict[str, Any], bool, list[str]]:
    """Return ``plugins:`` in parts: the plugins' own sections, ``strict`` and ``disabled``."""
    given = dict(settings.plugins)
    strict, disabled = given.pop("strict", False), given.pop("disabled", [])
    with collect_errors(problems):
        if not isinstance(strict, bool):
            strict = False
            raise config.ConfigError("configuration: plugins.strict: expected `bool`")
    with collect_errors(problems):
        if not isinstance(disabled, list) or not all(isinstance(each, str) for each in disabled):
            disabled = []
            raise config.ConfigError("configuration: plugins.disabled: expected a list of names")
    return given, strict, disabled


_PROJECT_PLUGINS = frozenset(
    [
        "accounts",
        "cameras",
        "database",
        "fleet",
        "hf",
        "jobs",
        "ocr",
        "oip",
        "onnx",
        "opencv",
        "reconstruct",
        "sam",
        "track",
    ]
)
"""This project's plugins that take settings: the sections of their distributions."""


@contextlib.contextmanager
def _slow_import_logged(name: str) -> Iterator[None]:
    """Say which plugin a start waits for while its import, or a hook of it, takes long."""
    said = "the start waits for the plugin %s, which is still being imported after %g s"
    timer = threading.Timer(SLOW_IMPORT_SECONDS, log.warning, (said, name, SLOW_IMPORT_SECONDS))
    timer.daemon = True
    with contextlib.suppress(RuntimeError):  # no thread is to be had: it goes unsaid
        timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _check_disabled(names: list[str], plugins: Plugins) -> None:
    known = {name for plugin in plugins.found for name in plugin.names}
    for name in names:
        if name not in known:
            raise config.ConfigError(
                f"configuration: plugins.disabled: no plugin {name!r} is installed"
                f"{similar(name, known)}"
            )


def _check_known(given: dict[str, Any], plugins: Plugins) -> None:
    known = {name for plugin in plugins.found for name in (plugin.name, plugin.section)}
    # The section of a plugin that was not imported is unknown: accept its family's.
    known |= {plugin.family for plugin in plugins.found if plugin.error is not None}
    for name in given:
        if name in _PROJECT_PLUGINS - known:
            raise config.ConfigError(
                f"configuration: plugins.{name}: the plugin is not installed: pip install "
                f"mataserver-{name} (./plugins/{name} in a checkout)"
            )
        if name not in known:
            raise config.ConfigError(
                f"configuration: plugins.{name}: no such plugin is installed{similar(name, known)}"
            )
