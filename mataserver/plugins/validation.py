"""Validation of plugins: their hooks, engines and sources, and what is sent to workers."""

from __future__ import annotations

import functools
import importlib.util
import inspect
import pickle
import re
import sys
from collections.abc import Iterable, Mapping
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pluggy

from mataserver.config.settings import ENGINE_NAME
from mataserver.contract import hookspecs
from mataserver.contract.engine import EngineSpec
from mataserver.contract.source import MAX_STALL_TIMEOUT, SOURCE_NAME, SourceSpec
from mataserver.errors import MataError
from mataserver.signatures import plain_call_problem

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

HOOKS = ("settings", "backends", "engines", "sources", "brings", "auth_mode", "check", "service")

SOURCES = ("hf", "pip", "local", "any")
ENGINES = ("process", "thread")
_TAKEN_ENGINES = ("auto", *ENGINES)


class PluginError(MataError):
    """A plugin cannot be used; the detail names it."""


class NameTakenError(PluginError):
    """A plugin cannot be used, as the plugin ``owner`` has a name that it needs."""

    def __init__(self, detail: str, owner: str) -> None:
        super().__init__(detail)
        self.owner = owner


def hooks(module: object) -> dict[str, Callable[..., Any]]:
    """Return a plugin's hook implementations; pluggy validates names and arguments."""
    for name in HOOKS:
        function = getattr(module, name, None)
        if inspect.isroutine(function) and not hasattr(function, "mataserver_impl"):
            raise PluginError(f"{name}() is not marked with mataserver.hookimpl")
    manager = pluggy.PluginManager("mataserver")
    manager.add_hookspecs(hookspecs)
    try:
        manager.register(module, "plugin")
    except pluggy.PluginValidationError:
        raise PluginError(_signature_error(module)) from None
    callers = manager.get_hookcallers(module) or []
    _check_submodules(module, [caller.name for caller in callers])
    if not callers:
        raise PluginError("it implements no hook: mark one with mataserver.hookimpl")
    found = {}
    for caller in callers:
        if caller.name not in HOOKS:
            raise PluginError(f"unknown hook {caller.name!r}: there are {', '.join(HOOKS)}")
        found[caller.name] = _single_implementation(caller)
    return found


def _check_submodules(module: object, names: Iterable[str]) -> None:
    """Raise ``PluginError`` if a submodule will take the place of a hook of the package.

    The first import of a submodule sets the package's attribute of its name: the hook would be gone
    at the next reload. One that the package imported before it defined the hook is harmless.
    """
    if not isinstance(module, ModuleType) or not hasattr(module, "__path__"):
        return
    for name in filter(functools.partial(hasattr, module), names):
        submodule = f"{module.__name__}.{name}"
        if submodule not in sys.modules and importlib.util.find_spec(submodule) is not None:
            raise PluginError(
                f"its module {name}.py takes the place of the hook {name}() once it is imported: "
                "rename the module"
            )


def _signature_error(module: object) -> str:
    """Return the error for a plugin's hook whose signature differs from its specification."""
    for name in HOOKS:
        wanted = list(inspect.signature(getattr(hookspecs, name)).parameters)
        function = getattr(module, name, None)
        own = list(inspect.signature(function).parameters) if callable(function) else []
        if not set(own) <= set(wanted):
            may = f"takes no argument but {', '.join(wanted)}" if wanted else "takes no argument"
            return f"{name}() {may}: not {', '.join(each for each in own if each not in wanted)}"
    return "its hooks must be plain functions"


def _single_implementation(caller: pluggy.HookCaller) -> Callable[..., Any]:
    """Return a hook's single implementation, callable with the hook's arguments."""
    implementations = caller.get_hookimpls()
    if len(implementations) > 1 or any(i.wrapper or i.hookwrapper for i in implementations):
        raise PluginError(f"{caller.name}() must be one plain function: no wrapper, no second one")
    names = caller.spec.argnames if caller.spec is not None else ()
    implementation = implementations[0]
    check_signature(implementation.function, f"{caller.name}()", ", ".join(implementation.argnames))

    def call(*arguments: Any) -> Any:
        given = dict(zip(names, arguments, strict=True))
        return implementation.function(*(given[name] for name in implementation.argnames))

    return call


def require_iterable(given: object, wanted: str) -> Iterable[Any]:
    """Return a hook's result. Raises ``PluginError`` if it is not an iterable of items."""
    if not isinstance(given, Iterable) or isinstance(given, (str, Mapping)):
        raise PluginError(f"{wanted}, not a {type(given).__name__}")
    return given


def check_engine(engine: object, owners: dict[str, str]) -> None:
    """Validate an engine. Raises ``PluginError``. ``owners`` maps plugins' engines to plugins."""
    if not isinstance(engine, EngineSpec):
        raise PluginError(f"engines() gave a {type(engine).__name__}, not an EngineSpec")
    label = _check_name(engine.name, "engine", ENGINE_NAME, _TAKEN_ENGINES, owners)
    if not callable(engine.make):
        raise PluginError(f"{label}: make must be a function")
    check_signature(engine.make, f"{label}: make", "ctx")
    check_strings(engine, ("requires", "packages"), label)


def check_source(source: object, owners: dict[str, str]) -> None:
    """Validate a source. Raises ``PluginError``. ``owners`` maps plugins' sources to plugins."""
    if not isinstance(source, SourceSpec):
        raise PluginError(f"sources() gave a {type(source).__name__}, not a SourceSpec")
    label = _check_name(source.name, "source", SOURCE_NAME, SOURCES, owners)
    check_pickles(source.fetch, f"{label}: fetch")
    check_signature(source.fetch, f"{label}: fetch", "ctx")
    try:
        re.compile(source.pattern)
    except (re.error, TypeError) as error:
        raise PluginError(f"{label}: pattern is no regular expression: {error}") from None
    seconds = source.stall_timeout
    if not isinstance(seconds, (int, float)) or not 0 < seconds <= MAX_STALL_TIMEOUT:
        raise PluginError(
            f"{label}: stall_timeout must be above 0 and at most {MAX_STALL_TIMEOUT:g} seconds"
        )
    check_strings(source, ("requires", "packages", "inherit"), label)


def _check_name(
    name: object, kind: str, pattern: str, taken: Collection[str], owners: Mapping[str, str]
) -> str:
    """Return an engine's or a source's label in errors; its name must be valid and new."""
    if not isinstance(name, str) or not re.match(pattern, name):
        article = "an" if kind == "engine" else "a"
        raise PluginError(
            f"{kind}s() gave the name {name!r}: {article} {kind}'s has small letters, digits and _"
        )
    if name in taken:
        raise PluginError(f"{kind} {name}: the name is the server's")
    if name in owners:
        owner = owners[name]
        raise NameTakenError(f"{kind} {name}: the plugin {owner} has one of that name", owner)
    return f"{kind} {name}"


def check_strings(owner: object, names: tuple[str, ...], label: str) -> None:
    """Require tuples of strings."""
    for name in names:
        values = getattr(owner, name)
        if not isinstance(values, tuple) or not all(isinstance(value, str) for value in values):
            raise PluginError(f"{label}: {name} must be a tuple of strings")


def check_signature(function: object, what: str, given: str) -> None:
    """Raise ``PluginError`` for a function that cannot be called with the given arguments."""
    if problem := plain_call_problem(function, given):
        raise PluginError(f"{what} {problem}")


def check_pickles(thing: object, what: str) -> None:
    """Require that a worker process can unpickle the object by its qualified name."""
    if not callable(thing):
        raise PluginError(f"{what} must be a function")
    try:
        pickle.dumps(thing)
    except Exception:
        raise PluginError(f"{what} must stand at the top level of its module") from None
