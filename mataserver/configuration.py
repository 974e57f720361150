"""The server's configuration as a plugin's command reads it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar, cast

from mataserver import config

if TYPE_CHECKING:
    from msgspec import Struct

T = TypeVar("T", bound="Struct")


@dataclass(frozen=True, slots=True)
class Configuration:
    """What is configured. ``data_dir`` is the server's data directory."""

    data_dir: Path
    _plugins: dict[str, object] = field(repr=False)

    def plugin(self, name: str, kind: type[T]) -> T:
        """Return the settings of a plugin as ``kind``. Raises ``MataError`` for wrong ones."""
        variables = config.variables(Path.cwd())
        return cast("T", config.plugin_settings(self._plugins.get(name), kind, name, variables))


def read_configuration(file: str | None = None) -> Configuration:
    """Read the configuration as ``mataserver serve`` does. Raises ``MataError`` for a wrong one.

    ``file`` is the YAML file, by default the one that the server finds.
    """
    settings = config.load(file)
    return Configuration(settings.data_path, dict(settings.plugins))
