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

    ClassResolver = Callable[[str], type[Any]]
_PUBLIC_MODULES = ("mataserver.results", "mataserver_client.results")
_FIELD_TYPES: dict[type[Any], dict[str, Any]] = {}


class NotSerializableError(MataError):
    """500: a value of a type that cannot be sent between the server and a worker."""


def field_types(kind: type[Any]) -> dict[str, Any]:
    """Return the fields of a plain data class with their types.

    These are msgspec structs, dataclasses and named tuples. Raises ``NotSerializableError`` for
    others.
    """
    found = _FIELD_TYPES.get(kind)
    if found is None:
        found = _FIELD_TYPES[kind] = _read_field_types(kind)
    return found


def _read_field_types(kind: type[Any]) -> dict[str, Any]:
    names: Sequence[str]
    if issubclass(kind, msgspec.Struct):
        names = kind.__struct_fields__
    elif dataclasses.is_dataclass(kind):
        names = [field.name for field in dataclasses.fields(kind) if field.init]
    elif issubclass(kind, tuple) and hasattr(kind, "_fields"):
        names = kind._fields
    else:
        raise not_serializable(kind)
    try:
        declared = typing.get_type_hints(kind, include_extras=True)
    except (NameError, AttributeError, TypeError) as error:
        raise not_serializable(kind, f"since its types cannot be resolved ({error})") from None
    return {name: declared.get(name, Any) for name in names}


def build(kind: type[Any], content: Any) -> Any:
    """Build an object of a plain class. Raises ``NotSerializableError`` for other fields."""
    try:
        if issubclass(kind, enum.Enum):
            return kind(content)
        declared = field_types(kind)
        fields = {
            name: msgspec.convert(each, declared[name], dec_hook=_convert_declared)
            for name, each in content.items()
        }
        return kind(**fields)
    except (msgspec.MsgspecError, TypeError, ValueError, LookupError, AttributeError) as error:
        raise NotSerializableError(
            f"The data that was sent is not a {kind.__qualname__}: {error}"
        ) from None


def _convert_declared(kind: Any, value: object) -> object:
    """Accept an array where one is declared: the hook of msgspec for types it does not know."""
    if not isinstance(value, typing.get_origin(kind) or kind):
        raise TypeError(f"expected {getattr(kind, '__name__', kind)}, got {type(value).__name__}")
    return value


def resolve_trusted(name: str) -> type:
    """Resolve a class name in a worker, importing its module: the server is trusted."""
    module, _, _ = name.partition(":")
    importlib.import_module(module)
    return _find_class(name)


def package_resolver(package: str, also: frozenset[str]) -> ClassResolver:
    """Return the resolver for class names sent by a worker; it imports nothing.

    It accepts classes of the model's own package, of the results, and those in ``also``, which the
    call itself sent: any other constructor could be abused by an untrusted model.
    """

    def resolve(name: str) -> type:
        module, _, _ = name.partition(":")
        if (
            name not in also
            and module not in _PUBLIC_MODULES
            and module.partition(".")[0] != package
        ):
            raise NotSerializableError(
                f"The model sent a {name[:200]}, which is not a class of its plugin"
            )
        return _find_class(name)

    return resolve


def _find_class(name: str) -> type:
    """Return the class of a name, if its module is imported and it is a plain data class."""
    module, _, path = name.partition(":")
    found: Any = sys.modules.get(module)
    for part in path.split("."):
        found = vars(found).get(part) if found is not None else None
    if not isinstance(found, type) or f"{found.__module__}:{found.__qualname__}" != name:
        raise NotSerializableError(f"{name[:200]} is not a class that is imported here")
    if not issubclass(found, enum.Enum):
        field_types(found)
    return found


def not_serializable(kind: type[Any], why: str = "") -> NotSerializableError:
    """Return the error for an object that cannot be sent; ``why`` ends its sentence."""
    tail = f" {why}" if why else ""
    return NotSerializableError(
        f"A {kind.__qualname__} cannot be sent between server and worker{tail}"
    )
