"""Models of plugins' sources by their names, which are ``SOURCE:REFERENCE``."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import UNSET

from mataserver.contract.source import SOURCE_NAME
from mataserver.errors import BadRequest
from mataserver.library.registry import Entry
from mataserver.sources import pulled
from mataserver.suggestion import similar

if TYPE_CHECKING:
    from collections.abc import Callable

    from mataserver.contract.source import SourceSpec
    from mataserver.library.registry import Registry
    from mataserver.plugins import Plugin, Plugins
    from mataserver.sources.messages import Progress


_OWN = {"hf": "its id, org/name,", "pip": "its backend's name", "local": "its path"}
"""What names a model of the server's own sources."""


@dataclass(frozen=True, slots=True)
class PluginSource:
    """What a model's name says: a plugin's source, and the reference of a model there."""

    spec: SourceSpec
    plugin: Plugin
    reference: str


def find_source(name: str, plugins: Plugins) -> PluginSource | None:
    """Return the source of a model's name; None for a name without one.

    Raises ``BadRequest`` for a source that no usable plugin has, and for a wrong reference.
    """
    source, colon, reference = name.partition(":")
    if not colon:
        return None
    found = plugins.source(source)
    if found is not None:
        from mataserver.sources import plugin_sources  # most servers need it never

        plugin_sources.validate_reference(found[0], reference)
        return PluginSource(*found, reference)
    if reference.startswith("/") or not re.match(SOURCE_NAME, source):
        return None  # an address or a path, as the hub's error says
    if source in _OWN:
        raise BadRequest(f"a model of the source {source} is pulled by {_OWN[source]} alone")
    for plugin in plugins.found:
        if plugin.error is not None and source in plugin.names:
            raise BadRequest(f"the source {source} is not in use: {plugin.error}")
    known = plugins.source_names
    which = f"one of {', '.join(known)}" if known else "no installed plugin has a source"
    raise BadRequest(f"unknown source {source[:64]!r}: {which}{similar(source, known)}")


async def pull(
    source: PluginSource,
    task: str,
    registry: Registry,
    on_progress: Callable[[Progress], None],
    check: Callable[[Entry], None],
) -> Entry:
    """Fetch a model that ``check`` accepts; return its entry. Raises ``BadRequest``."""
    from mataserver.sources import plugin_sources  # see above

    registered = registry.get(f"{source.spec.name}:{source.reference}")
    kept = None if registered is None or registered.path is UNSET else Path(registered.path)
    path = await plugin_sources.pull(
        source.spec,
        source.plugin.settings,
        _pulled_models(registry).new(source.spec.name, source.reference, kept),
        on_progress,
        lambda path: check(_entry(source, task, path)),
    )
    return _entry(source, task, path)


def cached_entry(name: str, task: str, plugins: Plugins, registry: Registry) -> Entry | None:
    """Return the entry of a model that was pulled from a plugin's source before, else None.

    Raises as ``find_source``.
    """
    source = find_source(name, plugins)
    if source is None:
        return None
    path = _pulled_models(registry).cached(source.spec.name, source.reference)
    return None if path is None else _entry(source, task, path)


def _entry(source: PluginSource, task: str, path: Path) -> Entry:
    return Entry(task=task, source=source.spec.name, pulled_at=time.time(), path=str(path))


def _pulled_models(registry: Registry) -> pulled.PulledModels:
    """Return the models of plugins' sources, which are beside the registry."""
    return pulled.PulledModels(registry.path.parent / pulled.FOLDER)
