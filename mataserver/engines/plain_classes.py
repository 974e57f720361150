"""Plain data classes: which qualify, and which a peer may name."""

from __future__ import annotations

import dataclasses
import enum
import importlib
import sys
import typing
from typing import TYPE_CHECKING, Any

import msgspec

from mataserver.errors import MataError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    Find = Callable[[str], type[Any]]
_PUBLIC = ("mataserver.results", "mataserver_client.results")
_HINTS: dict[type[Any], dict[str, Any]] = {}


class Unsendable(MataError):
    """500: a value of a type that cannot be sent between the server and a worker."""


def hints(kind: type[Any]) -> dict[str, Any]:
    """Return the fields of a plain data class with their types.

    These are msgspec structs, dataclasses and named tuples. Raises ``Unsendable`` for others.
    """
    found = _HINTS.get(kind)
    if found is None:
        found = _HINTS[kind] = _declared(kind)
    return found


def _declared(kind: type[Any]) -> dict[str, Any]:
    names: Sequence[str]
    if issubclass(kind, msgspec.Struct):
        names = kind.__struct_fields__
    elif dataclasses.is_dataclass(kind):
        names = [field.name for field in dataclasses.fields(kind) if field.init]
    elif issubclass(kind, tuple) and hasattr(kind, "_fields"):
        names = kind._fields
    else:
        raise unsendable(kind)
    try:
        declared = typing.get_type_hints(kind, include_extras=True)
    except (NameError, AttributeError, TypeError) as error:
        raise unsendable(kind, f"since its types cannot be resolved ({error})") from None
    return {name: declared.get(name, Any) for name in names}


def built(kind: type[Any], content: Any) -> Any:
    """Build an object of a plain class. Raises ``Unsendable`` for fields that do not fit."""
    try:
        if issubclass(kind, enum.Enum):
            return kind(content)
        declared = hints(kind)
        fields = {
            name: msgspec.convert(each, declared[name], dec_hook=_as_declared)
            for name, each in content.items()
        }
        return kind(**fields)
    except (msgspec.MsgspecError, TypeError, ValueError, LookupError, AttributeError) as error:
        raise Unsendable(f"The data that was sent is not a {kind.__qualname__}: {error}") from None


def _as_declared(kind: Any, value: object) -> object:
    """Accept an array where one is declared: the hook of msgspec for types it does not know."""
    if not isinstance(value, typing.get_origin(kind) or kind):
        raise TypeError(f"expected {getattr(kind, '__name__', kind)}, got {type(value).__name__}")
    return value


def anywhere(name: str) -> type:
    """Resolve a class name in a worker, importing its module: the server is trusted."""
    module, _, _ = name.partition(":")
    importlib.import_module(module)
    return _class(name)


def of_package(package: str, also: frozenset[str]) -> Find:
    """Return the resolver for class names sent by a worker; it imports nothing.

    It accepts classes of the model's own package, of the results, and those in ``also``, which the
    call itself sent: any other constructor could be abused by an untrusted model.
    """

    def find(name: str) -> type:
        module, _, _ = name.partition(":")
        if name not in also and module not in _PUBLIC and module.partition(".")[0] != package:
            raise Unsendable(f"The model sent a {name[:200]}, which is not a class of its plugin")
        return _class(name)

    return find


def _class(name: str) -> type:
    """Return the class of a name, if its module is imported and it is a plain data class."""
    module, _, path = name.partition(":")
    found: Any = sys.modules.get(module)
    for part in path.split("."):
        found = vars(found).get(part) if found is not None else None
    if not isinstance(found, type) or f"{found.__module__}:{found.__qualname__}" != name:
        raise Unsendable(f"{name[:200]} is not a class that is imported here")
    if not issubclass(found, enum.Enum):
        hints(found)
    return found


def unsendable(kind: type[Any], why: str = "") -> Unsendable:
    """Return the error for an object that cannot be sent; ``why`` ends its sentence."""
    tail = f" {why}" if why else ""
    return Unsendable(f"A {kind.__qualname__} cannot be sent between server and worker{tail}")
