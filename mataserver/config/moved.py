"""Settings that moved from the server to a plugin: old names still work, with a warning.

A distribution declares one by an entry point in the group ``mataserver.settings``: its name is the
old key, its value ``plugin:field``. The entry point is never imported.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from mataserver.config.settings import ConfigError, Settings
from mataserver.entry_points import module_of

if TYPE_CHECKING:
    from collections.abc import Iterable
    from importlib.metadata import EntryPoint

GROUP = "mataserver.settings"

_PACKAGES = {
    **dict.fromkeys(
        ("camera_hosts", "camera_paths", "camera_timeout", "cameras"),
        "mataserver-cameras (./plugins/cameras in a checkout)",
    ),
    "grpc_port": "'mataserver-oip[grpc]' (./plugins/oip[grpc] in a checkout)",
}
"""Settings of former server features, with the package to install now."""

log = logging.getLogger("mataserver")


def apply_moves(
    written: dict[str, Any], declared: Iterable[EntryPoint] | None = None
) -> dict[str, Any]:
    """Return a configuration with moved settings under their plugins' names.

    ``declared`` are the moves, by default those of the installed distributions. Raises
    ``ConfigError`` for a setting given in both places, and for one whose plugin is not installed.
    """
    unknown = written.keys() - set(Settings.__struct_fields__)
    if not unknown:
        return written
    import importlib.metadata  # slow, and most configurations need no move

    kept = dict(written)
    if declared is None:
        declared = importlib.metadata.entry_points(group=GROUP)
    points = {point.name: point for point in declared if module_of(point)}
    for name in sorted(unknown):
        if name in points:
            _move(kept, name, module_of(points[name]), points[name].attr)
        elif name in _PACKAGES:
            package = _PACKAGES[name]
            raise ConfigError(f"configuration: {name}: needs a package: pip install {package}")
    return kept


def package_of(name: str, declared: Iterable[EntryPoint] | None = None) -> str | None:
    """Return the missing package that a former setting needs, or None."""
    import importlib.metadata  # as above

    if declared is None:
        declared = importlib.metadata.entry_points(group=GROUP)
    return None if name in {point.name for point in declared} else _PACKAGES.get(name)


def _move(kept: dict[str, Any], old: str, plugin: str, new: str) -> None:
    place = f"plugins.{plugin}.{new}"
    plugins = kept.get("plugins") or {}
    own = plugins.get(plugin) or {} if isinstance(plugins, dict) else None
    if not isinstance(own, dict):
        return  # not a mapping: validation reports it later
    if new in own:
        raise ConfigError(f"configuration: {old}: given twice: it is called {place} now")
    log.warning("configuration: %s is called %s now", old, place)
    kept["plugins"] = {**plugins, plugin: {**own, new: kept.pop(old)}}


def warn_of_runtime(given: Iterable[str | None]) -> None:
    """Warn of ``runtime: auto``: conversion during a pull was replaced by a command."""
    if "auto" in given:
        log.warning(
            "configuration: runtime: auto no longer converts a model when it is pulled: "
            "mataserver export MODEL --register does, of mataserver-onnx"
        )
