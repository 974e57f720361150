"""Settings that the server had once and a plugin has now: their old names go on with a warning.

A distribution declares one as an entry point of the group ``mataserver.settings``: its name is the
old key, its value ``plugin:field``. Nothing of it is imported.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable
    from collections.abc import Set as AbstractSet

GROUP = "mataserver.settings"

log = logging.getLogger("mataserver")


def renamed(written: dict[str, Any], known: AbstractSet[str]) -> dict[str, Any]:
    """Return what a configuration says, with such settings under their plugins' names.

    ``known`` are the server's own. Raises ``ValueError`` for one that is given in both places.
    """
    unknown = written.keys() - known
    if not unknown:
        return written
    import importlib.metadata  # takes its time, and most configurations are up to date

    kept = dict(written)
    for point in importlib.metadata.entry_points(group=GROUP):
        if point.name in unknown:
            _move(kept, point.name, point.module, point.attr)
    return kept


def _move(kept: dict[str, Any], old: str, plugin: str, new: str) -> None:
    place = f"plugins.{plugin}.{new}"
    plugins = kept.get("plugins") or {}
    own = plugins.get(plugin) or {} if isinstance(plugins, dict) else None
    if not isinstance(own, dict):
        return  # no mapping: it is told as what it is
    if new in own:
        raise ValueError(f"{old}: given twice: it is called {place} now")
    log.warning("configuration: %s is called %s now", old, place)
    kept["plugins"] = {**plugins, plugin: {**own, new: kept.pop(old)}}


def warn_of_runtime(given: Iterable[str | None]) -> None:
    """Warn where models were to be converted when they are pulled, which a command does now."""
    if "auto" in given:
        log.warning(
            "configuration: runtime: auto converts nothing any more when a model is pulled: "
            "mataserver export MODEL --register does, of mataserver-onnx"
        )
