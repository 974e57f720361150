"""Loading of single plugins: import, configuration, collection of backends, or rejection."""

from __future__ import annotations

import contextlib
import re
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from mataserver import config
from mataserver.entry_points import describe_problem, module_of
from mataserver.errors import MataError
from mataserver.plugins import validation
from mataserver.plugins.backend_validation import check_backend
from mataserver.plugins.records import DISABLED, Plugin, ProvidedBackend, log, unmet_versions
from mataserver.plugins.validation import (
    NameTakenError,
    PluginError,
    check_engine,
    check_pickles,
    check_source,
    require_iterable,
)

if TYPE_CHECKING:
    import importlib.metadata
    from collections.abc import Callable, Iterable, Iterator

    from mataserver.contract.backend import Backend
    from mataserver.plugins.records import DiscoveredPlugins

_DIRECTORIES = re.compile(r"(?<![\w.:/-])/(?:[^\s/'\",;()<>]+/)*")


def plugin_record(point: importlib.metadata.EntryPoint) -> Plugin:
    """Return the record of a plugin without importing it."""
    plugin = Plugin(point.name, module=module_of(point))
    if point.dist is not None:
        metadata = point.dist.metadata  # parses the file anew at every access: read it once
        # Half an installation has left no METADATA, of which Python 3.12 warns by its subscript.
        given = [metadata.get_all(key, [""])[0] for key in ("Name", "Version")]
        plugin.distribution, plugin.version = given
    return plugin


def load_plugin(
    plugin: Plugin,
    point: importlib.metadata.EntryPoint,
    plugins: DiscoveredPlugins,
    given: Mapping[str, Any],
    variables: Mapping[str, str],
) -> None:
    """Import a plugin and add its record. Raises ``ConfigError``, then it has its defaults."""
    with rejecting(plugin):
        _load(plugin, point, plugins.found)
    plugins.found.append(plugin)
    try:
        if plugin.error is None:
            with rejecting(plugin, unless=(config.ConfigError,)):
                configure(plugin, given, variables)
    finally:
        if plugin.error is None:
            with rejecting(plugin):
                _collect(plugin, plugins)


@contextlib.contextmanager
def rejecting(plugin: Plugin, unless: tuple[type[Exception], ...] = ()) -> Iterator[None]:
    """Reject a plugin for what its code raises, also a panic of a library in Rust."""
    try:
        yield
    except KeyboardInterrupt:
        raise
    except unless:
        raise
    except BaseException as error:
        reject(plugin, error)


@contextlib.contextmanager
def collect_errors(problems: list[config.ConfigError] | None) -> Iterator[None]:
    """Append a ``ConfigError`` to the list, if there is one, instead of raising it."""
    try:
        yield
    except config.ConfigError as error:
        if problems is None:
            raise
        if error.detail not in {each.detail for each in problems}:  # plugins may share settings
            problems.append(error)


def _load(plugin: Plugin, point: importlib.metadata.EntryPoint, others: Iterable[Plugin]) -> None:
    if point.name in {"strict", "disabled"}:
        raise PluginError(f"the name {point.name!r} is that of a setting")
    for other in others:
        if other.name == plugin.name and other.error != DISABLED:
            hint = f": plugins.disabled: [{other.distribution}] turns the other one off"
            hint = hint if other.distribution else ""
            raise NameTakenError(f"the name {plugin.name!r} is taken{hint}", plugin.name)
    if not plugin.module:
        raise PluginError(describe_problem(point))
    plugin.hooks = validation.hooks(point.load())


def configure(plugin: Plugin, given: Mapping[str, Any], environ: Mapping[str, str]) -> None:
    """Read a plugin's settings from its section. Raises ``ConfigError`` for invalid ones."""
    own = given.get(plugin.name)
    hook = plugin.hooks.get("settings")
    if hook is None:
        if own is not None:
            raise config.ConfigError(f"configuration: plugins.{plugin.name}: it takes no settings")
        return
    kind = hook()
    if not (isinstance(kind, type) and issubclass(kind, msgspec.Struct)):
        raise PluginError("settings() must return a msgspec.Struct type")
    if not kind.__struct_config__.forbid_unknown_fields:
        raise PluginError("settings(): the struct must have forbid_unknown_fields=True")
    check_pickles(kind, "settings(): the struct")
    plugin.section = _section(kind, plugin)
    if own is not None and plugin.section != plugin.name:
        raise config.ConfigError(
            f"configuration: plugins.{plugin.name}: its settings are those of "
            f"plugins.{plugin.section}"
        )
    with contextlib.suppress(TypeError):  # defaults, in case the given settings are invalid
        plugin.settings = kind()
    mine = given.get(plugin.section)
    plugin.settings = config.plugin_settings(mine, kind, plugin.section, environ)


def _section(kind: type[msgspec.Struct], plugin: Plugin) -> str:
    """Return a plugin's settings section, which plugins of one distribution may share.

    Raises ``PluginError`` for a section other than the plugin's or its distribution's.
    """
    if "section" in kind.__struct_fields__:
        return plugin.name
    allowed = dict.fromkeys((plugin.name, plugin.family))
    section = getattr(kind, "section", plugin.name)
    if section not in allowed:
        raise PluginError(f"settings(): section must be {' or '.join(map(repr, allowed))}")
    return str(section)


def _collect(plugin: Plugin, plugins: DiscoveredPlugins) -> None:
    """Call the hooks that return what a plugin provides. Raises what they raise."""
    if "backends" in plugin.hooks:
        _collect_backends(plugin, plugins)
    if "engines" in plugin.hooks:
        plugin.engines = _named(plugin, plugins, "engines", check_engine)
    if "sources" in plugin.hooks:
        plugin.sources = _named(plugin, plugins, "sources", check_source)
    if "brings" in plugin.hooks:
        plugin.brings = _brought(plugin.hooks["brings"]())


def _collect_backends(plugin: Plugin, plugins: DiscoveredPlugins) -> None:
    owners = {provided.backend.name: provided.plugin.name for provided in plugins.provided}
    results = {each.backend.task: each.backend.result for each in plugins.provided}
    given = plugin.hooks["backends"]()
    backends = tuple(require_iterable(given, "backends() must return backends"))
    for backend in backends:
        check_backend(backend, owners, {plugin.name, plugin.family})
        owners[backend.name] = plugin.name
        _check_owner(backend, plugin, plugins)
        if results.setdefault(backend.task, backend.result) is not backend.result:
            raise PluginError(f"backend {backend.name}: its task has another result already")
    plugin.backends = backends
    plugins.provided += [ProvidedBackend(backend, plugin) for backend in backends]


def _named(
    plugin: Plugin,
    plugins: DiscoveredPlugins,
    kind: str,
    check: Callable[[Any, dict[str, str]], None],
) -> tuple[Any, ...]:
    """Return a plugin's engines or sources, whose names are unique in a server."""
    owners = {made.name: each.name for each in plugins.found for made in getattr(each, kind)}
    found = tuple(require_iterable(plugin.hooks[kind](), f"{kind}() must return {kind}"))
    for made in found:
        check(made, owners)
        owners[made.name] = plugin.name
    return found


def _brought(given: object) -> dict[str, tuple[str, ...]]:
    """Return the names that a plugin provides to others. Raises ``PluginError`` if invalid."""
    if not isinstance(given, Mapping):
        raise PluginError("brings() must return names by the names of plugins")
    wanted = "brings() must return lists of names by the names of plugins"
    brought = {to: tuple(require_iterable(names, wanted)) for to, names in given.items()}
    if not all(
        isinstance(each, str) and each for to, names in brought.items() for each in (to, *names)
    ):
        raise PluginError("brings() must return names by the names of plugins")
    return brought


def _check_owner(backend: Backend, plugin: Plugin, plugins: DiscoveredPlugins) -> None:
    """Raise ``PluginError`` for an own task that another distribution already provides.

    Their prefixes may collide: one distribution may be named like a plugin of the other.
    """
    for provided in plugins.provided:
        alike = backend.result is not None and provided.backend.task == backend.task
        if alike and provided.plugin.distribution != plugin.distribution:
            raise PluginError(
                f"backend {backend.name}: its task {backend.task} is brought by "
                f"{provided.plugin.distribution} already"
            )


def reject(plugin: Plugin, error: BaseException) -> None:
    """Reject a plugin, recording the error."""
    plugin.error = _reason(error, plugin)
    plugin.rival = error.owner if isinstance(error, NameTakenError) else ""
    log.error("plugin %s is not in use: %s", plugin.name, plugin.error, exc_info=error)


def _reason(error: BaseException, plugin: Plugin) -> str:
    """Return an error as ``GET /v1/plugins`` may show it: one line, without local paths.

    An error that is not a sentence for users is given with its place in the plugin's code.
    """
    if isinstance(error, MataError):
        return " ".join(error.detail.split())
    text = " ".join(_DIRECTORIES.sub("", str(error)).split())
    said = f"{type(error).__name__}: {text}" if text else type(error).__name__
    place = None if isinstance(error, SyntaxError) else _code_location(error, plugin.module)
    said = said if place is None else f"{said} ({place})"
    unmet = ", ".join(unmet_versions(plugin))
    return f"{said}; it needs another version than {unmet}" if unmet else said


def _code_location(error: BaseException, module: str) -> str | None:
    """Return the file and line of a plugin that raised an error; None for one from elsewhere."""
    package = module.partition(".")[0]
    places = [
        (frame.f_code.co_filename, line)
        for frame, line in traceback.walk_tb(error.__traceback__)
        if str(frame.f_globals.get("__name__")).partition(".")[0] == package
    ]
    if not places:
        return None
    parts, line = Path(places[-1][0]).parts, places[-1][1]
    own = parts[len(parts) - 1 - parts[::-1].index(package) :] if package in parts else parts[-1:]
    return f"{'/'.join(own)}, line {line}"


def reject_name_conflicts(plugins: Iterable[Plugin]) -> None:
    """Reject each plugin that provides a name to a plugin that already has it from another.

    The owner of such a name, for example a kind of jobs, would be ambiguous.

    A plugin that provides names to itself has priority, then the order counts; plugins added at run
    time are last.
    """
    owners: dict[tuple[str, str], str] = {}
    usable = [plugin for plugin in plugins if plugin.error is None]
    for plugin in sorted(
        usable, key=lambda each: (each.installed_late, each.name not in each.brings)
    ):
        names = [(to, name) for to, given in plugin.brings.items() for name in given]
        taken = next((each for each in names if each in owners), None)
        if taken is None:
            owners.update(dict.fromkeys(names, plugin.name))
        else:
            to, name = taken
            detail = f"{name!r} is provided to {to} by {owners[taken]} already"
            reject(plugin, NameTakenError(detail, owners[taken]))
