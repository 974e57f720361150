"""The server's configuration and registered models, for plugins' commands."""

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

    task, source: as in ``GET /v1/models``.
    path:         its own directory or file, None for "pip" or if its files are gone.
    converted:    the directory of a converted copy, from which it is served instead, if any.
    """

    task: str
    source: str
    path: Path | None
    converted: Path | None


@dataclass(frozen=True, slots=True)
class Configuration:
    """The server's configuration: the context of a command.

    data_dir: the server's data directory.
    shared_dir: the directory shared with other front-ends, with the registry; else the data
    directory.
    url:      the base URL of the server for this machine; it need not be running.
    key:      the API key for commands on this machine, None if there is none.
    """

    data_dir: Path
    url: str
    key: str | None = field(repr=False)
    shared_dir: Path
    _settings: config.Settings = field(repr=False)

    def plugin(self, name: str, kind: type[T]) -> T:
        """Return the settings of a plugin as ``kind``. Raises ``MataError`` if they are invalid."""
        given, variables = self._settings.plugins.get(name), config.variables(Path.cwd())
        return cast("T", config.plugin_settings(given, kind, name, variables))

    def client(self) -> Client:
        """Return a client of the server, to be used as a context manager."""
        from mataserver_client import Client  # imports an HTTP client, which few commands need

        return Client(self.url, self.key)

    def models(self) -> Mapping[str, RegisteredModel]:
        """Return the registered models by name. Raises ``MataError`` if the registry is corrupt."""
        return {name: _registered(name, each) for name, each in self._registry().entries().items()}

    def add_model(self, path: Path, task: str, name: str) -> None:
        """Register a local directory or file, as ``mataserver pull`` does.

        Raises ``BadRequest`` if no backend serves it, ``Conflict`` if the name is in use.
        """
        self._catalog().add_local(path, task, name)

    def convert_model(
        self, name: str, task: str, directory: Path, path: Path | None = None
    ) -> None:
        """Serve a model from ``directory``, its converted copy, instead of its own files.

        Its own files stay, as the fallback if the directory is gone. A directory directly in
        ``converted`` of ``shared_dir`` is deleted when the model is removed, pulled anew or
        converted again. ``path`` locates the files of a local model; neither it nor a model in the
        hub's cache need be registered yet. Raises as ``add_model``, ``NotFound`` for a missing
        model, and ``BadRequest`` for one whose weights come with a package.
        """
        self._catalog().convert(name, task, directory, path)

    def _registry(self) -> Registry:
        return Registry(self._settings.registry_path)

    def _catalog(self) -> Catalog:
        from mataserver.library.catalog import Catalog  # imports every source of models
        from mataserver.plugins import discover

        # `plugins.strict` applies to a server's start only.
        given = {name: each for name, each in self._settings.plugins.items() if name != "strict"}
        settings = msgspec.structs.replace(self._settings, plugins=given)
        return Catalog(settings, self._registry(), discover(settings))


def _registered(name: str, entry: Entry) -> RegisteredModel:
    place = weights.original_path(name, entry)
    converted = None if entry.converted is UNSET else Path(entry.converted)
    here = place if place is not None and place.exists() else None
    return RegisteredModel(entry.task, entry.source, here, converted)


def read_configuration(file: str | None = None) -> Configuration:
    """Read the configuration as ``mataserver serve`` does. Raises ``MataError`` if it is invalid.

    ``file`` is the YAML file, by default the one that the server would find.
    """
    settings = config.load(file)
    return Configuration(
        settings.data_path,
        server_url(settings),
        client_key(settings),
        settings.shared_path,
        settings,
    )
