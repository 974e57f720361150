"""The server's configuration as a plugin's command has it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar, cast

from mataserver import config
from mataserver.addresses import server_url
from mataserver.credentials import client_key

if TYPE_CHECKING:
    from msgspec import Struct

    from mataserver_client import Client

T = TypeVar("T", bound="Struct")


@dataclass(frozen=True, slots=True)
class Configuration:
    """What is configured: the context of a command.

    data_dir: the server's data directory.
    url:      the base URL by which this machine reaches the server, which may not run.
    key:      the API key that a command of this machine shows, None where there is none.
    """

    data_dir: Path
    url: str
    key: str | None = field(repr=False)
    _plugins: dict[str, object] = field(repr=False)

    def plugin(self, name: str, kind: type[T]) -> T:
        """Return the settings of a plugin as ``kind``. Raises ``MataError`` for wrong ones."""
        variables = config.variables(Path.cwd())
        return cast("T", config.plugin_settings(self._plugins.get(name), kind, name, variables))

    def client(self) -> Client:
        """Return a client of the server, to be used in a ``with``."""
        from mataserver_client import Client  # brings what talks HTTP, which few commands need

        return Client(self.url, self.key)


def read_configuration(file: str | None = None) -> Configuration:
    """Read the configuration as ``mataserver serve`` does. Raises ``MataError`` for a wrong one.

    ``file`` is the YAML file, by default the one that the server finds.
    """
    settings = config.load(file)
    return Configuration(
        settings.data_path, server_url(settings), client_key(settings), dict(settings.plugins)
    )
