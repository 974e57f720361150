"""A plugin's record, and its offers: a backend with its plugin's settings."""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import logging
import sys
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from mataserver.errors import MataError, Unavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from packaging.requirements import Requirement

    from mataserver.contract.backend import Backend, ModelFiles
    from mataserver.contract.engine import EngineSpec
    from mataserver.contract.routes import Route
    from mataserver.contract.source import SourceSpec

DISABLED = "it is switched off by plugins.disabled"

_UNINSTALLED = "it was uninstalled: restart the server to be rid of it"

log = logging.getLogger("mataserver.plugins")


@dataclass(slots=True)
class Plugin:
    """One plugin as it was found. ``error`` says why it is not in use.

    ``section`` is the place of its settings below ``plugins``, by default its name.
    ``installed_late``: installed while the server was running. ``note``: what requires a restart.
    ``brings``: the names that it provides to other plugins, by their names. ``module`` is its entry
    point's. ``rival`` has a name that it needs: its error.
    """

    name: str
    module: str = ""
    distribution: str = ""
    version: str = ""
    hooks: dict[str, Callable[..., Any]] = field(default_factory=dict)
    section: str = ""
    settings: Any = None
    backends: tuple[Backend, ...] = ()
    engines: tuple[EngineSpec, ...] = ()
    sources: tuple[SourceSpec, ...] = ()
    routes: tuple[Route, ...] = ()
    brings: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    error: str | None = None
    rival: str = ""
    installed_late: bool = False
    note: str | None = None

    def __post_init__(self) -> None:
        """Default the section to the plugin's name."""
        self.section = self.section or self.name

    @property
    def family(self) -> str:
        """The common name of a distribution's plugins: ``hf`` for mataserver-hf."""
        return self.distribution.removeprefix("mataserver-") or self.name

    @property
    def sort_key(self) -> tuple[str, str, str]:
        """Its sort key: plugins of a distribution are adjacent."""
        return (self.family, self.distribution, self.name)

    @property
    def identity(self) -> tuple[str, str]:
        """Its name and its distribution's: another distribution may have a plugin of its name."""
        return (self.name, self.distribution)

    @property
    def names(self) -> set[str]:
        """The names by which ``plugins.disabled`` can disable it."""
        return {self.name, self.family, self.distribution} - {""}

    @property
    def error_line(self) -> str | None:
        """Its error on one line; None for a disabled plugin."""
        return None if self.error in {None, DISABLED} else " ".join(str(self.error).split())


@dataclass(frozen=True, slots=True)
class ProvidedBackend:
    """A backend and the plugin that provides it."""

    backend: Backend
    plugin: Plugin

    @property
    def missing(self) -> tuple[str, ...]:
        """The modules that it requires and that are not installed."""
        return tuple(name for name in self.backend.requires if not importable(name))

    @property
    def unsuitable(self) -> tuple[str, ...]:
        """The installed distributions with an incompatible version, as "name version"."""
        return mismatched(self.backend.packages)

    def with_settings(self, files: ModelFiles) -> ModelFiles:
        """Return the model's description with the plugin's settings added."""
        return replace(files, settings=self.plugin.settings)

    def facts(self, files: ModelFiles) -> Mapping[str, str]:
        """Return the backend's decisions about a model that it serves, or its error."""
        if self.backend.facts is None:
            return {}
        try:
            found = dict(self.backend.facts(self.with_settings(files)))
            return {str(name): str(fact) for name, fact in found.items()}
        except MataError as error:
            return {"problem": error.detail}
        except (Exception, SystemExit):
            log.exception("backend %s: facts failed", self.backend.name)
            return {}

    @property
    def install_command(self) -> str:
        """What installs the missing packages."""
        return _pip_command(self.backend.packages or self.missing)

    def check_installed(self) -> None:
        """Raise ``Unavailable`` with the pip command if a module is missing or incompatible."""
        check_installed(f"The backend {self.backend.name}", self.backend)


@dataclass(slots=True)
class DiscoveredPlugins:
    """The plugins found, and the backends of the usable ones."""

    found: list[Plugin] = field(default_factory=list)
    provided: list[ProvidedBackend] = field(default_factory=list)


def record_uninstall(plugin: Plugin) -> None:
    """Record that a plugin was uninstalled; its imported parts keep running if they can."""
    if plugin.note != _UNINSTALLED:
        plugin.note = _UNINSTALLED
        log.warning("plugin %s: %s", plugin.name, _UNINSTALLED)


def record_version_change(plugin: Plugin, point: importlib.metadata.EntryPoint) -> None:
    """Record that a version other than the imported one was installed."""
    version = plugin.version if point.dist is None else point.dist.version or ""
    note = f"version {version} was installed: restart the server to use it"
    if version == plugin.version and plugin.note == _UNINSTALLED:
        plugin.note = None  # the same is here again
    if version != plugin.version and note != plugin.note:
        plugin.note = note
        log.warning("plugin %s: %s", plugin.name, note)


def record_succession(late: Plugin, others: Iterable[Plugin]) -> None:
    """Record with the plugin whose name a late one needs that the late one precedes it.

    Plugins are loaded in the order of their names, so that at the next start it is the other.
    """
    for each in others:
        if each.error is not None or each.note is not None:
            continue  # it is not in use, or needs a restart that brings the list up to date
        if each.name == late.rival and late.sort_key < each.sort_key:
            owner = late.distribution or late.name
            each.note = (
                f"the plugin {late.name} of {owner} needs a name that this one has, and takes it "
                f"at the next start of the server: plugins.disabled: [{owner}] prevents that"
            )
            log.warning("plugin %s: %s", each.name, each.note)


def unmet_versions(plugin: Plugin) -> tuple[str, ...]:
    """Return the server, and those of its plugins, that a plugin needs in another version."""
    try:
        needed = importlib.metadata.requires(plugin.distribution) or ()
    except (importlib.metadata.PackageNotFoundError, ValueError):  # it is half installed
        return ()
    return mismatched([each for each in needed if each.startswith("mataserver")])


def check_installed(label: str, needing: Backend | SourceSpec) -> None:
    """Raise ``Unavailable`` with the pip command if a module is missing or incompatible."""
    missing = tuple(name for name in needing.requires if not importable(name))
    unsuitable = mismatched(needing.packages)
    if missing or unsuitable:
        needed = ", ".join(missing) or f"another version than {', '.join(unsuitable)}"
        raise Unavailable(f"{label} needs {needed}: {_pip_command(needing.packages or missing)}")


def _pip_command(packages: tuple[str, ...]) -> str:
    """Return what installs packages, quoted for a shell: a version may have a ``>``."""
    return " ".join(("pip install", *(f"'{package}'" for package in packages)))


def importable(module: str) -> bool:
    """Whether a module is installed; it is not imported."""
    if sys.modules.get(module) is not None:
        return True  # during its import by another thread a module, such as cv2, may have no spec
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):
        return False


def mismatched(packages: Sequence[str]) -> tuple[str, ...]:
    """Return installed distributions, as "name version", that violate a package's requirement."""
    return tuple(f"{needed.name} {version}" for needed, version in unmet(packages) if version)


def unmet(packages: Iterable[str]) -> Iterator[tuple[Requirement, str | None]]:
    """Yield the requirements that are not met, with the version that is installed, if one is.

    One whose marker is false, as that of an extra is, requires nothing.
    """
    from packaging.requirements import InvalidRequirement, Requirement

    for package in packages:
        with contextlib.suppress(InvalidRequirement):
            needed, version = Requirement(package), None
            if needed.marker is not None and not needed.marker.evaluate({"extra": ""}):
                continue
            with contextlib.suppress(importlib.metadata.PackageNotFoundError):
                version = importlib.metadata.version(needed.name)
            if version is None or not needed.specifier.contains(version, prereleases=True):
                yield needed, version
