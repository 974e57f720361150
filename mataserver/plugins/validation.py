"""Validation of plugins: their hooks, their backends, and what is sent to workers."""

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

import msgspec
import pluggy

from mataserver.config.settings import ENGINE_NAME
from mataserver.contract import hookspecs
from mataserver.contract.backend import MAX_STEP_TIMEOUT, Backend
from mataserver.contract.engine import EngineSpec
from mataserver.contract.source import MAX_STALL_TIMEOUT, SOURCE_NAME, SourceSpec
from mataserver.errors import MataError
from mataserver.params.table import Params
from mataserver.results import RESULT_TYPES, TASKS, Detection, is_task

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

HOOKS = ("settings", "backends", "engines", "sources", "brings", "check", "service")

_SOURCES = ("hf", "pip", "local", "any")
_ENGINES = ("process", "thread")
_TAKEN_ENGINES = ("auto", *_ENGINES)
_BACKEND_FUNCTIONS = {
    "load": "spec, ctx",
    "accepts": "files",
    "facts": "files",
    "parts": "files, settings",
}
"""The functions of a backend, with the arguments that they are called with."""


class PluginError(MataError):
    """A plugin cannot be used; the detail names it."""


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

    def call(*arguments: Any) -> Any:
        given = dict(zip(names, arguments, strict=True))
        return implementation.function(*(given[name] for name in implementation.argnames))

    return call


def require_iterable(given: object, wanted: str) -> Iterable[Any]:
    """Return a hook's result. Raises ``PluginError`` if it is not an iterable of items."""
    if not isinstance(given, Iterable) or isinstance(given, (str, Mapping)):
        raise PluginError(f"{wanted}, not a {type(given).__name__}")
    return given


def check_backend(backend: object, owners: dict[str, str], prefixes: Collection[str]) -> None:
    """Validate a backend. Raises ``PluginError``.

    ``owners`` maps existing backends to their plugins; ``prefixes`` are the allowed prefixes for
    the plugin's own tasks.
    """
    if not isinstance(backend, Backend):
        raise PluginError(f"backends() gave a {type(backend).__name__}, not a Backend")
    if not isinstance(backend.name, str) or not backend.name:
        raise PluginError("backends() gave a Backend without a name")
    label = f"backend {backend.name}"
    if backend.name in owners:
        owner = owners[backend.name]
        hint = "" if owner in prefixes else f"; plugins.disabled: [{owner}] turns that one off"
        raise PluginError(f"{label}: the plugin {owner} has one of that name{hint}")
    _check_task(backend, label, prefixes)
    for name, allowed in (("source", _SOURCES), ("engine", _ENGINES)):
        if getattr(backend, name) not in allowed:
            raise PluginError(f"{label}: unknown {name} {getattr(backend, name)!r}")
    if backend.source != "pip" and not callable(backend.accepts):
        raise PluginError(f"{label}: the source {backend.source} needs a function accepts")
    for name in ("parts", "facts"):
        function = getattr(backend, name)
        if function is not None and not callable(function):
            raise PluginError(f"{label}: {name} must be a function")
    _check_worker(backend, label)


def check_engine(engine: object, owners: dict[str, str]) -> None:
    """Validate an engine. Raises ``PluginError``. ``owners`` maps plugins' engines to plugins."""
    if not isinstance(engine, EngineSpec):
        raise PluginError(f"engines() gave a {type(engine).__name__}, not an EngineSpec")
    label = _check_name(engine.name, "engine", ENGINE_NAME, _TAKEN_ENGINES, owners)
    if not callable(engine.make):
        raise PluginError(f"{label}: make must be a function")
    check_signature(engine.make, f"{label}: make", "ctx")
    _check_strings(engine, ("requires", "packages"), label)


def check_source(source: object, owners: dict[str, str]) -> None:
    """Validate a source. Raises ``PluginError``. ``owners`` maps plugins' sources to plugins."""
    if not isinstance(source, SourceSpec):
        raise PluginError(f"sources() gave a {type(source).__name__}, not a SourceSpec")
    label = _check_name(source.name, "source", SOURCE_NAME, _SOURCES, owners)
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
    _check_strings(source, ("requires", "packages", "inherit"), label)


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
        raise PluginError(f"{kind} {name}: the plugin {owners[name]} has one of that name")
    return f"{kind} {name}"


def _check_strings(owner: object, names: tuple[str, ...], label: str) -> None:
    """Require tuples of strings."""
    for name in names:
        values = getattr(owner, name)
        if not isinstance(values, tuple) or not all(isinstance(value, str) for value in values):
            raise PluginError(f"{label}: {name} must be a tuple of strings")


def _check_task(backend: Backend, label: str, prefixes: Collection[str]) -> None:
    """Validate the task: one of the API, or the plugin's own with a result struct."""
    task, kind = backend.task, backend.result
    if task in TASKS:
        if kind is not None:
            raise PluginError(f"{label}: the task {task} has a result already: leave out result")
        return
    if not isinstance(task, str) or not is_task(task):
        raise PluginError(
            f"{label}: unknown task {task!r}: one of {', '.join(TASKS)}, or a name of your own "
            f"as in {min(prefixes)}.name"
        )
    if task.partition(".")[0] not in prefixes:
        said = " or ".join(f"{each}." for each in sorted(prefixes))
        raise PluginError(f"{label}: the name of its own task {task!r} must begin with {said}")
    if not (isinstance(kind, type) and issubclass(kind, msgspec.Struct)):
        raise PluginError(f"{label}: its own task {task} needs a result, a msgspec.Struct type")
    if issubclass(kind, RESULT_TYPES):
        raise PluginError(
            f"{label}: the result of its own task {task} is that of a task of the API: make a "
            f"struct of your own, which may have a list of mataserver.Detection as detections"
        )
    if not _are_detections(kind):
        raise PluginError(
            f"{label}: its result's detections must be a list or a tuple of mataserver.Detection"
        )
    check_pickles(kind, f"{label}: result")
    try:
        msgspec.json.schema(kind)
        msgspec.msgpack.Decoder(kind)
    except (TypeError, ValueError, NameError) as error:
        raise PluginError(f"{label}: its result cannot be described: {error}") from None


def _are_detections(kind: type[msgspec.Struct]) -> bool:
    """Whether ``detections`` of a result, if present, have the API's type."""
    try:
        fields = msgspec.structs.fields(kind)
    except (TypeError, NameError):
        return True  # a struct that cannot be described is reported elsewhere
    known = [each.type for each in fields if each.name == "detections"]
    return not known or known[0] in (list[Detection], tuple[Detection, ...])


def _check_worker(backend: Backend, label: str) -> None:
    """Validate what is sent to the worker."""
    if not (isinstance(backend.params, type) and issubclass(backend.params, Params)):
        raise PluginError(f"{label}: params must be a mataserver.Params struct")
    for name in ("check", "of_parts"):
        method = getattr(backend.params, name)
        if not callable(method):  # a field
            raise PluginError(f"{label}: params: the name {name} is taken by a method of Params")
        check_signature(method, f"{label}: params.{name}", "self")
    if not isinstance(backend.max_batch, int) or backend.max_batch < 1:
        raise PluginError(f"{label}: max_batch must be a whole number from 1")
    seconds = backend.step_timeout
    if not isinstance(seconds, (int, float)) or not 0 <= seconds <= MAX_STEP_TIMEOUT:
        raise PluginError(f"{label}: step_timeout must be 0 to {MAX_STEP_TIMEOUT:g} seconds")
    if not isinstance(backend.confined, bool):
        raise PluginError(f"{label}: confined must be True or False")
    _check_strings(backend, ("requires", "packages", "preload"), label)
    try:  # a mapping would be taken for its names, letter by letter
        msgspec.convert(backend.environment, tuple[tuple[str, str], ...])
    except msgspec.ValidationError:
        raise PluginError(
            f"{label}: environment must be a tuple of pairs of name and value"
        ) from None
    for name, given in _BACKEND_FUNCTIONS.items():
        check_signature(getattr(backend, name), f"{label}: {name}", given)
    check_pickles(backend.load, f"{label}: load")
    check_pickles(backend.params, f"{label}: params")


def check_signature(function: object, what: str, given: str) -> None:
    """Raise ``PluginError`` for a function that cannot be called with the given arguments."""
    if not callable(function):
        return
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # implemented in C, without a signature
        return
    try:
        signature.bind(*given.split(", "))
    except TypeError:
        raise PluginError(f"{what} is called with ({given}), and takes {signature}") from None


def check_pickles(thing: object, what: str) -> None:
    """Require that a worker process can unpickle the object by its qualified name."""
    if not callable(thing):
        raise PluginError(f"{what} must be a function")
    try:
        pickle.dumps(thing)
    except Exception:
        raise PluginError(f"{what} must stand at the top level of its module") from None
