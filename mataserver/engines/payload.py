"""Serialization of calls and stream items between services and models, without pickle.

A worker runs untrusted models, so its messages must not make the server do more than build plain
values. Values are MessagePack with five extensions: tuples, sets, arrays, large bytes, and objects
of plain data classes, which are sent with the class's name. The reader calls nothing but such a
class, with fields of the declared types. The memory of arrays and large bytes is sent as separate
parts, and not copied on receipt.
"""

from __future__ import annotations

import enum
import sys
import typing
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import UNSET

from mataserver.engines import wire
from mataserver.engines.plain_classes import (
    NotSerializableError,
    build,
    field_types,
    not_serializable,
)
from mataserver.errors import MataError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from mataserver.engines.plain_classes import ClassResolver

_TUPLE, _SET, _ARRAY, _BYTES, _OBJECT = range(1, 6)
_SCALAR_TYPES = frozenset({type(None), bool, int, float, str})
_KEY_TYPES = frozenset({bool, int, float, str})
_NUMBER_KINDS = "biufc"
"""Array dtype kinds that can be sent: numbers and booleans; others hold Python objects."""
_MAX_DTYPE_LENGTH = 8
"""Maximum length of a dtype string: numpy also parses lists of dtypes, in unbounded time."""
MAX_CONTAINERS, MAX_BODY_BYTES = 1 << 22, 1 << 26
"""Limits of a value: lists and dicts in it, and bytes outside its arrays and large bytes.

A byte of MessagePack can become 72 Python objects, and decoding blocks the reader. Text is exempt
from the first limit: it does not expand.
"""
_CONTAINER_PREFIXES = bytes(range(0x80, 0xA0))
"""First bytes of short lists and dicts. They may occur in other data too: an upper bound."""
_ENCODER = msgspec.msgpack.Encoder()


class PackedValue(typing.NamedTuple):
    """A value as parts of a message, and the classes named in it."""

    parts: list[bytes | memoryview]
    classes: frozenset[str]


def pack(value: object) -> PackedValue:
    """Serialize a value: MessagePack first, then the separate memory parts.

    Raises ``NotSerializableError`` for unsupported values.
    """
    packer = _Packer()
    try:
        body = _ENCODER.encode(packer.to_plain(value))
    except RecursionError:
        raise NotSerializableError(
            "Data that is nested too deeply, or contains itself, cannot be sent"
        ) from None
    except (OverflowError, UnicodeEncodeError) as error:
        raise NotSerializableError(f"A number or text cannot be sent: {error}") from None
    _check_size(body)
    return PackedValue([body, *packer.parts], frozenset(packer.classes))


def unpack(parts: Sequence[bytes | memoryview], resolve: ClassResolver) -> Any:
    """Deserialize a value; ``resolve`` resolves a class name, or raises ``NotSerializableError``.

    Arrays are views of their part's memory, and read-only where it is. Raises
    ``NotSerializableError`` for malformed data.
    """
    reader = _Reader(parts, resolve)
    _check_size(parts[0])
    try:
        return reader.value(parts[0])
    except MataError:
        raise
    except Exception as error:  # the data is untrusted and may cause any error
        raise NotSerializableError(
            f"The data that was sent cannot be read: {type(error).__name__}"
        ) from error


def _check_size(body: bytes | memoryview) -> None:
    if len(body) <= MAX_CONTAINERS:
        return
    container_count = len(body) - len(bytes(body).translate(None, _CONTAINER_PREFIXES))
    if len(body) > MAX_BODY_BYTES or container_count > MAX_CONTAINERS:
        raise NotSerializableError(
            "The data beside its arrays and large bytes is too large to be sent"
        )


class _Packer:
    """Converts one value to plain data; collects its separate memory parts."""

    def __init__(self) -> None:
        self.parts: list[bytes | memoryview] = []
        self.classes: set[str] = set()
        self._converters: dict[type, Callable[[Any], Any]] = {
            list: self._list,
            tuple: self._tuple,
            dict: self._mapping,
            set: self._set,
            frozenset: self._set,
            **dict.fromkeys((bytes, bytearray, memoryview), self._bytes),
        }

    def to_plain(self, value: Any) -> Any:
        """Return a value that msgspec encodes without a hook."""
        kind = type(value)
        if kind in _SCALAR_TYPES:
            return value
        convert = self._converters.get(kind)
        return self._convert_object(kind, value) if convert is None else convert(value)

    def _list(self, value: list[Any] | tuple[Any, ...]) -> Sequence[Any]:
        if _SCALAR_TYPES.issuperset(map(type, value)):
            return value
        return [self.to_plain(each) for each in value]

    def _tuple(self, value: tuple[Any, ...]) -> msgspec.msgpack.Ext:
        return self._extension(_TUPLE, self._list(value))

    def _set(self, value: set[Any] | frozenset[Any]) -> msgspec.msgpack.Ext:
        return self._extension(_SET, [isinstance(value, frozenset), self._list(tuple(value))])

    def _mapping(self, value: dict[Any, Any]) -> dict[Any, Any]:
        for key in value:
            if type(key) not in _KEY_TYPES:
                raise not_serializable(type(key), "as the key of a dict")
        return {key: self.to_plain(each) for key, each in value.items()}

    def _bytes(self, value: bytes | bytearray | memoryview) -> Any:
        view = memoryview(value)
        if view.nbytes < wire.SHARED_MIN_BYTES or not view.c_contiguous:
            value = view.tobytes()
        if view.nbytes < wire.SHARED_MIN_BYTES:
            return value
        self.parts.append(memoryview(value).cast("B"))
        return self._extension(_BYTES, len(self.parts))

    def _convert_object(self, kind: type, value: Any) -> Any:
        """Convert an array, a numpy scalar or an object of a plain class."""
        numpy = sys.modules.get("numpy")  # without an import of numpy there can be no array
        if numpy is not None and isinstance(value, numpy.generic):
            return self.to_plain(value.item())
        if numpy is not None and kind is numpy.ndarray:
            return self._array(numpy, value)
        if isinstance(value, enum.Enum):
            return self._object(kind, self.to_plain(value.value))
        fields = {name: getattr(value, name) for name in field_types(kind)}
        given = {name: self.to_plain(each) for name, each in fields.items() if each is not UNSET}
        return self._object(kind, given)

    def _array(self, numpy: Any, value: Any) -> msgspec.msgpack.Ext:
        if value.dtype.kind not in _NUMBER_KINDS:
            raise NotSerializableError(
                f"An array of {value.dtype} cannot be sent: only numbers and booleans"
            )
        flat = numpy.ascontiguousarray(value).reshape(-1)
        self.parts.append(flat.view(numpy.uint8).data)
        return self._extension(_ARRAY, [value.dtype.str, value.shape, len(self.parts)])

    def _object(self, kind: type, content: Any) -> msgspec.msgpack.Ext:
        name = f"{kind.__module__}:{kind.__qualname__}"
        if "<" in name:
            raise not_serializable(kind, "since it is defined inside a function")
        self.classes.add(name)
        return self._extension(_OBJECT, [name, content])

    @staticmethod
    def _extension(code: int, content: Any) -> msgspec.msgpack.Ext:
        return msgspec.msgpack.Ext(code, _ENCODER.encode(content))


class _Reader:
    """Deserializes one value."""

    def __init__(self, parts: Sequence[bytes | memoryview], resolve: ClassResolver) -> None:
        self._parts = parts
        self._resolve = resolve
        self._unread = set(range(1, len(parts)))
        self._decoder = msgspec.msgpack.Decoder(ext_hook=self._extension)

    def value(self, data: bytes | memoryview) -> Any:
        """Decode a value, innermost extensions first."""
        return self._decoder.decode(data)

    def _extension(self, code: int, data: memoryview) -> Any:
        content = self.value(data)
        if code == _TUPLE:
            return tuple(content)
        if code == _BYTES:
            return bytes(self._part(content))
        if code == _ARRAY:
            return self._array(*content)
        frozen_or_name, held = content
        if code == _SET:
            return frozenset(held) if frozen_or_name else set(held)
        if code == _OBJECT:
            return build(self._resolve(frozen_or_name), held)
        raise ValueError("an unknown extension")

    def _array(self, dtype: str, shape: list[int], part: int) -> Any:
        import numpy as np

        if len(dtype) > _MAX_DTYPE_LENGTH:
            raise ValueError("no kind of numbers")
        kind = np.dtype(dtype)
        if kind.kind not in _NUMBER_KINDS:
            raise ValueError("an array of objects")
        return np.frombuffer(self._part(part), kind).reshape(shape)

    def _part(self, number: int) -> bytes | memoryview:
        """Return a part, once: otherwise a few bytes could name many copies of a large one."""
        self._unread.remove(number)
        return self._parts[number]
