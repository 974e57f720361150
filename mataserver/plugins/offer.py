"""A plugin as it was found, and what it offers: a backend with its plugin's settings."""

from __future__ import annotations

import importlib.util
import logging
import sys
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from mataserver import sources
from mataserver.errors import MataError, Unavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from mataserver.contract.backend import Backend, ModelFiles
    from mataserver.contract.routes import Route

DISABLED = "it is switched off by plugins.disabled"

log = logging.getLogger("mataserver.plugins")


@dataclass(slots=True)
class Plugin:
    """One plugin as it was found. ``error`` says why it is not in use.

    ``section`` is where its settings stand below ``plugins``, by default its name. ``late``: it was
    installed while the server ran. ``note`` says what waits for the next start. ``brings`` are the
    names that it brings to other plugins, by theirs. ``module`` is its entry point's.
    """

    name: str
    module: str = ""
    distribution: str = ""
    version: str = ""
    hooks: dict[str, Callable[..., Any]] = field(default_factory=dict)
    section: str = ""
    settings: Any = None
    backends: tuple[Backend, ...] = ()
    routes: tuple[Route, ...] = ()
    brings: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    error: str | None = None
    late: bool = False
    note: str | None = None

    def __post_init__(self) -> None:
        """Give it a section of its own until its settings name another."""
        self.section = self.section or self.name

    @property
    def family(self) -> str:
        """What the plugins of one distribution are called together: ``hf`` of mataserver-hf."""
        return self.distribution.removeprefix("mataserver-") or self.name

    @property
    def place(self) -> tuple[str, str]:
        """Where it stands among the others: those of a distribution lie side by side."""
        return (self.family, self.name)

    @property
    def names(self) -> set[str]:
        """The names by which ``plugins.disabled`` may switch it off."""
        return {self.name, self.family, self.distribution} - {""}

    @property
    def fault(self) -> str | None:
        """What is wrong with it, on one line: nothing with one that was switched off."""
        return None if self.error in {None, DISABLED} else " ".join(str(self.error).split())


@dataclass(frozen=True, slots=True)
class Offer:
    """A backend and the plugin that gives it."""

    backend: Backend
    plugin: Plugin

    @property
    def missing(self) -> tuple[str, ...]:
        """The modules that it needs and that are not installed."""
        return tuple(name for name in self.backend.requires if not _importable(name))

    @property
    def unsuitable(self) -> tuple[str, ...]:
        """The installed distributions whose version it cannot do with, as "name version"."""
        return sources.unsuitable(self.backend.packages)

    def given(self, files: ModelFiles) -> ModelFiles:
        """Return what the backend is told of a model: with its plugin's settings."""
        return replace(files, settings=self.plugin.settings)

    def facts(self, files: ModelFiles) -> Mapping[str, str]:
        """Return what the backend has decided about a model that it serves, or says of it."""
        if self.backend.facts is None:
            return {}
        try:
            return self.backend.facts(self.given(files))
        except MataError as error:
            return {"problem": error.detail}
        except Exception:
            log.exception("backend %s: facts failed", self.backend.name)
            return {}

    def check_installed(self) -> None:
        """Raise ``Unavailable`` with the pip command when a module is missing, or of no use."""
        missing, unsuitable = self.missing, self.unsuitable
        if missing or unsuitable:
            packages = " ".join(f"'{package}'" for package in self.backend.packages or missing)
            needed = ", ".join(missing) or f"another version than {', '.join(unsuitable)}"
            raise Unavailable(
                f"The backend {self.backend.name} needs {needed}: pip install {packages}"
            )


@dataclass(slots=True)
class Discovered:
    """Plugins that were found, and the backends of those in use."""

    found: list[Plugin] = field(default_factory=list)
    offers: list[Offer] = field(default_factory=list)


def _importable(module: str) -> bool:
    if sys.modules.get(module) is not None:
        return True  # while another thread imports it, it may have no spec, as cv2
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):
        return False
