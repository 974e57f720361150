"""Problems of a configuration, plugins or models, found without starting them."""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from mataserver import config
from mataserver.cli import environment, extensions
from mataserver.config import moved
from mataserver.config.addresses import is_loopback
from mataserver.config.storage import check_writable, os_errors_as
from mataserver.engines.memory import ram_total
from mataserver.errors import MataError
from mataserver.http.budget import MEMORY_PARTS, inflight_limit
from mataserver.library import defaults
from mataserver.library.catalog import Catalog
from mataserver.library.configured import ConfiguredModels
from mataserver.library.registry import Registry
from mataserver.plugins import GROUP, settle_auth_mode
from mataserver.plugins.records import check_installed, unmet
from mataserver.processes import landlock, seccomp
from mataserver.serving import engine_set
from mataserver.serving.models import check_session
from mataserver.suggestion import similar

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from mataserver.config import SetBy, Settings
    from mataserver.plugins import Plugins

_GROUPS = (GROUP, extensions.GROUP, moved.GROUP)
"""The groups of entry points that are read."""


@dataclass(slots=True)
class Findings:
    """The problems found: errors prevent the server from working, warnings do not.

    Notes are informational.
    """

    errors: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def lines(self) -> list[str]:
        """Return one line per finding, then the verdict."""
        problems = [("error", text) for text in self.errors]
        problems += [("warning", text) for text in self.warnings]
        found = [f"{kind}: {' '.join(text.split())}" for kind, text in problems]
        notes = [f"note: {text}" for text in self.notes]
        counts = f"{_count(self.errors, 'error')}, {_count(self.warnings, 'warning')}"
        return [*notes, *found, counts if found else "ok"]


def _count(found: list[str], noun: str) -> str:
    return f"{len(found)} {noun}{'' if len(found) == 1 else 's'}"


@contextlib.contextmanager
def _added(found: list[str], about: str = "") -> Iterator[None]:
    """Add an error to what was found, with what it is about, and go on behind the context."""
    try:
        yield
    except MataError as error:
        found.append(about + error.told)


def examine(config_file: str | None) -> Findings:
    """Check a configuration, every plugin and every model, without starting or changing any."""
    findings = Findings()
    try:
        settings, set_by = config.read(config_file)
    except MataError as error:
        findings.errors.append(error.told)
        return findings
    _check_variables(findings)
    _check_directories(settings, findings)
    _check_memory(settings, findings)
    plugins = _discovered(settings, findings)
    _check_exposure(settings, set_by, plugins, findings)
    _check_found(plugins, findings)
    _check_engines(settings, plugins, findings)
    _check_confinement(settings, plugins, findings)
    _check_commands(findings)
    _check_models(settings, plugins, findings)
    return findings


def _check_variables(findings: Findings) -> None:
    """Warn of variables that look like a setting but are ignored."""
    settings = {each.name.upper() for each in msgspec.structs.fields(config.Settings)}
    structured = {name.upper() for name in config.STRUCTURED}
    for name in sorted(config.variables(Path.cwd())):
        prefix, _, short = name.rpartition(config.PREFIX)
        if prefix or short in {name, "CONFIG"}:
            continue
        if short in structured:
            findings.warnings.append(f"environment: {name} is ignored: it is set in YAML only")
        elif package := moved.package_of(short.lower()):
            findings.warnings.append(
                f"environment: {name} is ignored: it needs a package: pip install {package}"
            )
        elif meant := similar(short, sorted(settings - structured)):
            meant = meant.replace("you mean ", f"you mean {config.PREFIX}")
            findings.warnings.append(f"environment: {name} is not a setting{meant}")


def _check_exposure(
    settings: Settings, set_by: Mapping[str, SetBy], plugins: Plugins, findings: Findings
) -> None:
    with _added(findings.errors):
        settings, _ = settle_auth_mode(settings, set_by, plugins, warn=findings.warnings.append)
    if settings.auth_mode == "none" and not is_loopback(settings.host):
        findings.warnings.append(
            f"auth_mode is none and host is {settings.host}: anyone who can reach it may use it"
        )
    if settings.auth_mode == "none" and "*" in settings.cors_origins:
        findings.warnings.append(
            "auth_mode is none and cors_origins is *: any web page that a user opens may use it"
        )


def _check_directories(settings: Settings, findings: Findings) -> None:
    """Report the data directory, and the shared one, if nothing can be stored in it."""
    for path in dict.fromkeys((settings.data_path, settings.shared_path)):
        with _added(findings.errors):
            check_writable(path)


def _discovered(settings: Settings, findings: Findings) -> Plugins:
    """Import every plugin; one with invalid settings continues with its defaults.

    Otherwise each of its models would also be reported as unserved.
    """
    problems: list[config.ConfigError] = []
    found = environment.discover(settings, problems)
    findings.errors += [problem.detail for problem in problems]
    return found


def _check_found(found: Plugins, findings: Findings) -> None:
    for plugin in found.found:
        if plugin.error_line is not None:
            findings.errors.append(f"plugin {plugin.name}: {plugin.error_line}")
    for name in sorted({each.distribution for each in found.found} - {""}):
        findings.warnings += [f"{name} needs {each}" for each in _unmet(name)]
    for spec in (each for plugin in found.usable for each in plugin.sources):
        with _added(findings.warnings):
            check_installed(f"The source {spec.name}", spec)
    for provided in found.provided:
        binary = provided.backend.system_binary
        if provided.missing:  # optional: a model that needs it is reported by its name
            with _added(findings.notes):
                provided.check_installed()
        elif binary and shutil.which(binary) is None:
            findings.warnings.append(
                f"The backend {provided.backend.name} needs the system binary {binary}: not found"
            )


def _unmet(distribution: str) -> Iterator[str]:
    """Yield descriptions of an installed distribution's unmet requirements.

    pip prevents these, unless packages are installed without dependencies or replaced later.
    """
    for needed, version in unmet(importlib.metadata.requires(distribution) or ()):
        there = "which is not installed" if version is None else f"and {version} is installed"
        yield f"{needed.name}{needed.specifier}, {there}"


def _check_memory(settings: Settings, findings: Findings) -> None:
    """Report a limit that lets requests alone fill the memory.

    The kernel kills workers first, but not if the server is larger than all of them.
    """
    allowed, there = inflight_limit(settings), ram_total()
    if allowed > there // MEMORY_PARTS:
        name = "max_inflight_mb" if settings.max_inflight_mb else "max_body_mb"
        findings.warnings.append(
            f"{name}: requests may hold {allowed / 1e6:.0f} MB in memory, and there are "
            f"{there / 1e6:.0f} MB; the kernel may kill the server"
        )


def _check_engines(settings: Settings, plugins: Plugins, findings: Findings) -> None:
    """Report the first engine of the configuration that cannot be used."""
    with _added(findings.errors):
        engine_set.check(settings, plugins)


def _check_confinement(settings: Settings, plugins: Plugins, findings: Findings) -> None:
    """Report the confinement that the kernel supports, and backends that opt out."""
    if not settings.confine_models:
        findings.notes.append("models are not confined: confine_models is false")
        return
    version = landlock.abi_version()
    files = f"files (Landlock {version})" if version else "no files (no Landlock, or refused)"
    calls = "system calls" if seccomp.is_available() else "no system calls (no seccomp)"
    findings.notes.append(f"models are confined: {files}, {calls}")
    for provided in plugins.provided:
        if not provided.backend.confined and not provided.missing:
            findings.notes.append(
                f"the backend {provided.backend.name} is not confined: it needs more"
            )


def _check_commands(findings: Findings) -> None:
    """Import every command; report groups of entry points that are called nearly like ours."""
    for each in extensions.found().values():
        with _added(findings.warnings):
            extensions.ExtensionCommand(each).imported()
    for name in sorted(importlib.metadata.entry_points().groups - set(_GROUPS)):
        if meant := similar(name, _GROUPS):
            points = importlib.metadata.entry_points(group=name)
            owners = sorted({point.dist.name for point in points if point.dist is not None})
            findings.warnings.append(
                f"{' and '.join(owners)}: the group of entry points {name!r} is not read{meant}"
            )


def _check_models(settings: Settings, plugins: Plugins, findings: Findings) -> None:
    """Check every model on a copy of the registry: its registration and its backend."""
    with tempfile.TemporaryDirectory(prefix="mataserver-check-") as directory:
        copy = Registry(Path(directory, "model_registry.json"))
        try:
            _copy_registry(settings.registry_path, copy)
        except MataError as error:
            findings.errors.append(error.told)
            return
        catalog = Catalog(settings, copy, plugins)
        catalog.add_defaults()
        for index, model in enumerate(settings.models):
            alone = msgspec.structs.replace(settings, models=[model])
            problem = _problem(Catalog(alone, copy, plugins), model.model)
            if problem is not None:
                findings.errors.append(f"models[{index}] {model.model}: {problem}")
        for name in sorted(copy.entries().keys() - {model.model for model in settings.models}):
            with _added(findings.warnings, f"registered model {name}: "):
                catalog.plan(name)
        session = functools.partial(check_session, catalog, settings.max_tokens)
        findings.errors += plugins.problems(session)


def _copy_registry(original: Path, copy: Registry) -> None:
    """Copy a registry. Raises ``MataError`` if it cannot be read."""
    with os_errors_as("could not read the model registry", original):
        for name in (original.name, defaults.FILE):
            with contextlib.suppress(FileNotFoundError):
                shutil.copyfile(original.with_name(name), copy.path.with_name(name))
    copy.entries()


def _problem(catalog: Catalog, name: str) -> str | None:
    """Return why the single configured model of ``catalog`` cannot be served, or None."""
    try:
        ConfiguredModels(catalog).add()
        ConfiguredModels(catalog).check()
        catalog.plan(name)
    except MataError as error:
        return error.detail.removeprefix("models: ").removeprefix(f"{name}: ")
    return None
