"""Validation of backends: what they are, the tasks they serve, and what is sent to workers."""

from __future__ import annotations

import inspect
from types import FunctionType
from typing import TYPE_CHECKING, Any

import msgspec

from mataserver.contract.backend import MAX_STEP_TIMEOUT, MODEL_METHODS, Backend, is_step_timeout
from mataserver.params.table import Params
from mataserver.plugins.validation import (
    ENGINES,
    SOURCES,
    NameTakenError,
    PluginError,
    check_pickles,
    check_signature,
    check_strings,
)
from mataserver.results import RESULT_TYPES, TASKS, Detection, is_task

if TYPE_CHECKING:
    from collections.abc import Collection

_BACKEND_FUNCTIONS = {
    "load": "spec, ctx",
    "accepts": "files",
    "facts": "files",
    "parts": "files, settings",
}
"""The functions of a backend, with the arguments that they are called with."""


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
        raise NameTakenError(f"{label}: the plugin {owner} has one of that name{hint}", owner)
    _check_task(backend, label, prefixes)
    for name, allowed in (("source", SOURCES), ("engine", ENGINES)):
        if getattr(backend, name) not in allowed:
            raise PluginError(f"{label}: unknown {name} {getattr(backend, name)!r}")
    if backend.source != "pip" and not callable(backend.accepts):
        raise PluginError(f"{label}: the source {backend.source} needs a function accepts")
    for name in ("parts", "facts"):
        function = getattr(backend, name)
        if function is not None and not callable(function):
            raise PluginError(f"{label}: {name} must be a function")
    _check_worker(backend, label)


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
    _check_described(kind, f"{label}: its result")


def _check_described(kind: type[msgspec.Struct], what: str) -> None:
    """Raise ``PluginError`` for a struct that neither the API's document nor msgspec can read."""
    try:
        msgspec.json.schema(kind)
        msgspec.msgpack.Decoder(kind)
    except (TypeError, ValueError, NameError) as error:
        raise PluginError(f"{what} cannot be described: {error}") from None


def _are_detections(kind: type[msgspec.Struct]) -> bool:
    """Whether ``detections`` of a result, if present, have the API's type."""
    try:
        fields = msgspec.structs.fields(kind)
    except (TypeError, NameError):
        return True  # a struct that cannot be described is reported elsewhere
    known = [each.type for each in fields if each.name == "detections"]
    return not known or known[0] in (list[Detection], tuple[Detection, ...])


def _check_worker(backend: Backend, label: str) -> None:
    if not (isinstance(backend.params, type) and issubclass(backend.params, Params)):
        raise PluginError(f"{label}: params must be a mataserver.Params struct")
    for name in ("check", "of_parts"):
        method = getattr(backend.params, name)
        if not callable(method):  # a field
            raise PluginError(f"{label}: params: the name {name} is taken by a method of Params")
        check_signature(method, f"{label}: params.{name}", "self")
    if not isinstance(backend.max_batch, int) or backend.max_batch < 1:
        raise PluginError(f"{label}: max_batch must be a whole number from 1")
    if not is_step_timeout(backend.step_timeout):
        raise PluginError(f"{label}: step_timeout must be 0 to {MAX_STEP_TIMEOUT:g} seconds")
    _check_switches(backend, label)
    check_strings(backend, ("requires", "packages", "preload"), label)
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
    _check_described(backend.params, f"{label}: its params")
    _check_defaults(backend.params, label)
    _check_promised_model(backend.load, label)


def _check_switches(backend: Backend, label: str) -> None:
    for name in ("confined", "default"):
        if not isinstance(getattr(backend, name), bool):
            raise PluginError(f"{label}: {name} must be True or False")
    if backend.default and backend.source != "pip":
        raise PluginError(f"{label}: default needs the source pip, whose model has one name")


def _check_defaults(kind: type[Params], label: str) -> None:
    """Raise ``PluginError`` for defaults that the worker would refuse: it decodes them."""
    try:
        sent = msgspec.msgpack.encode(kind())
    except Exception:  # some are given by each request, or its __post_init__ refuses them
        return
    try:
        msgspec.msgpack.decode(sent, type=kind)
    except msgspec.ValidationError as error:
        raise PluginError(f"{label}: params: the defaults: {error}") from None


def _check_promised_model(load: Any, label: str) -> None:
    """Check the class that ``load`` is annotated to return, before a worker loads any model."""
    try:
        kind = getattr(load, "__annotations__", {}).get("return")
    except NameError:  # from Python 3.14 on: a name that is imported for type checkers only
        return
    if isinstance(kind, str):
        kind = getattr(load, "__globals__", {}).get(kind)
    if not isinstance(kind, type):
        return
    for name, given in MODEL_METHODS.items():
        method = inspect.getattr_static(kind, name, None)
        if isinstance(method, FunctionType):
            check_signature(method, f"{label}: {kind.__name__}.{name}", f"self, {given}")
