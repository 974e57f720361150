"""The server's configuration, and its registered models, as a plugin's command has them."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar, cast

import msgspec
from msgspec import UNSET

from mataserver import config
from mataserver.config.addresses import server_url
from mataserver.config.credentials import client_key
from mataserver.library import weights
from mataserver.library.registry import Registry

if TYPE_CHECKING:
    from collections.abc import Mapping

    from msgspec import Struct

    from mataserver.library.catalog import Catalog
    from mataserver.library.registry import Entry
    from mataserver_client import Client

T = TypeVar("T", bound="Struct")


@dataclass(frozen=True, slots=True)
class RegisteredModel:
    """A registered model.

    task, source: as ``GET /v1/models`` tells them.
    path:         its own directory or file, None for "pip" and where its files are gone.
    converted:    the directory that it is served from in place of that, where there is one.
    """

    task: str
    source: str
    path: Path | None
    converted: Path | None


@dataclass(frozen=True, slots=True)
class Configuration:
    """What is configured: the context of a command.

    data_dir: the server's data directory.
    shared_dir: what it shares with other front-ends, the registry too; else the data directory.
    url:      the base URL by which this machine reaches the server, which may not run.
    key:      the API key that a command of this machine shows, None where there is none.
    """

    data_dir: Path
    url: str
    key: str | None = field(repr=False)
    shared_dir: Path
    _settings: config.Settings = field(repr=False)

    def plugin(self, name: str, kind: type[T]) -> T:
        """Return the settings of a plugin as ``kind``. Raises ``MataError`` for wrong ones."""
        given, variables = self._settings.plugins.get(name), config.variables(Path.cwd())
        return cast("T", config.plugin_settings(given, kind, name, variables))

    def client(self) -> Client:
        """Return a client of the server, to be used in a ``with``."""
        from mataserver_client import Client  # brings what talks HTTP, which few commands need

        return Client(self.url, self.key)

    def models(self) -> Mapping[str, RegisteredModel]:
        """Return the registered models by name. Raises ``MataError`` for a broken registry."""
        return {name: _registered(name, each) for name, each in self._registry().entries().items()}

    def add_model(self, path: Path, task: str, name: str) -> None:
        """Register a local directory or file, as ``mataserver pull`` does.

        Raises ``BadRequest`` when nothing serves it, ``Conflict`` when the name is in use.
        """
        self._catalog().add_local(path, task, name)

    def convert_model(
        self, name: str, task: str, directory: Path, path: Path | None = None
    ) -> None:
        """Serve a model from ``directory``, what was made of it, in place of its own files.

        These stay, and serve it where the directory is gone. A directory right in ``converted`` of
        ``shared_dir`` is deleted when the model is removed, pulled anew or converted again.
        ``path`` is where the files of a local model lie that may not be registered yet, as may a
        model that is in the hub's cache. Raises as ``add_model``, ``NotFound`` for a model that is
        not here, and ``BadRequest`` for one whose weights come with a package.
        """
        self._catalog().convert(name, task, directory, path)

    def _registry(self) -> Registry:
        return Registry(self._settings.registry_path)

    def _catalog(self) -> Catalog:
        from mataserver.library.catalog import Catalog  # brings every source of models
        from mataserver.plugins import discover

        # `plugins.strict` is about starting a server.
        given = {name: each for name, each in self._settings.plugins.items() if name != "strict"}
        settings = msgspec.structs.replace(self._settings, plugins=given)
        return Catalog(settings, self._registry(), discover(settings))


def _registered(name: str, entry: Entry) -> RegisteredModel:
    place = weights.original(name, entry)
    converted = None if entry.converted is UNSET else Path(entry.converted)
    here = place if place is not None and place.exists() else None
    return RegisteredModel(entry.task, entry.source, here, converted)


def read_configuration(file: str | None = None) -> Configuration:
    """Read the configuration as ``mataserver serve`` does. Raises ``MataError`` for a wrong one.

    ``file`` is the YAML file, by default the one that the server finds.
    """
    settings = config.load(file)
    return Configuration(
        settings.data_path,
        server_url(settings),
        client_key(settings),
        settings.shared_path,
        settings,
    )
