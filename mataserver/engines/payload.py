"""What a call, and each item of a stream, carries between a service and a model: no pickle.

A worker runs strangers' models, so nothing that it says may make the server do more than build
plain values. A value becomes MessagePack with five extensions: tuples, sets, arrays, large bytes,
and objects of classes that are nothing but their fields, which name their class. Whoever reads
never calls anything but such a class, with fields of the types that it declares. The memory of
arrays and large bytes travels beside, in parts of their own, and is not copied on the way in.
"""

from __future__ import annotations

import enum
import sys
import typing
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import UNSET

from mataserver.engines import wire
from mataserver.engines.plain_classes import Unsendable, built, hints, unsendable
from mataserver.errors import MataError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    Find = Callable[[str], type[Any]]

_TUPLE, _SET, _ARRAY, _BYTES, _OBJECT = range(1, 6)
_SCALARS = frozenset({type(None), bool, int, float, str})
_KEYS = frozenset({bool, int, float, str})
_NUMBERS = "biufc"
"""The kinds of arrays that travel: of numbers and booleans. Others are objects of Python."""
_LONGEST_TYPE = 8
"""Characters of such a kind's name; numpy reads a list of kinds too, for as long as it takes."""
MOST_HELD, MOST_BESIDE = 1 << 22, 1 << 26
"""Lists and dicts that a value may hold, and its bytes beside its arrays and large bytes.

A byte of MessagePack can make 72 of Python's objects, and whoever reads them answers nobody else
meanwhile. A text is no more than it says.
"""
_HOLDING = bytes(range(0x80, 0xA0))
"""The bytes that begin a short list or dict; as many others may be among them: an upper bound."""
_ENCODER = msgspec.msgpack.Encoder()


class Packed(typing.NamedTuple):
    """A value as parts of a message, and the classes that it named."""

    parts: list[bytes | memoryview]
    classes: frozenset[str]


def pack(value: object) -> Packed:
    """Return a value as parts: MessagePack first, then the memory that lies beside it.

    Raises ``Unsendable`` for what does not travel.
    """
    packer = _Packer()
    try:
        body = _ENCODER.encode(packer.plain(value))
    except RecursionError:
        raise Unsendable("What is nested so deeply, or holds itself, cannot be sent") from None
    except (OverflowError, UnicodeEncodeError) as error:
        raise Unsendable(f"A number or text cannot be sent: {error}") from None
    _check_size(body)
    return Packed([body, *packer.parts], frozenset(packer.classes))


def unpack(parts: Sequence[bytes | memoryview], find: Find) -> Any:
    """Return the value of parts; ``find`` returns the class of a name, or raises ``Unsendable``.

    Arrays lie in the memory of their part, and are read-only where it is. Raises ``Unsendable``
    for what no ``pack`` has made.
    """
    reader = _Reader(parts, find)
    _check_size(parts[0])
    try:
        return reader.value(parts[0])
    except MataError:
        raise
    except Exception as error:  # a stranger may say anything
        raise Unsendable(f"What was sent cannot be read: {type(error).__name__}") from error


def _check_size(body: bytes | memoryview) -> None:
    if len(body) <= MOST_HELD:
        return
    held = len(body) - len(bytes(body).translate(None, _HOLDING))
    if len(body) > MOST_BESIDE or held > MOST_HELD:
        raise Unsendable("What is so large beside its arrays and large bytes cannot be sent")


class _Packer:
    """Makes one value plain; collects the memory beside it."""

    def __init__(self) -> None:
        self.parts: list[bytes | memoryview] = []
        self.classes: set[str] = set()
        self._makers: dict[type, Callable[[Any], Any]] = {
            list: self._list,
            tuple: self._tuple,
            dict: self._mapping,
            set: self._set,
            frozenset: self._set,
            **dict.fromkeys((bytes, bytearray, memoryview), self._bytes),
        }

    def plain(self, value: Any) -> Any:
        """Return a value of which msgspec encodes everything without a question."""
        kind = type(value)
        if kind in _SCALARS:
            return value
        make = self._makers.get(kind)
        return self._rare(kind, value) if make is None else make(value)

    def _list(self, value: list[Any] | tuple[Any, ...]) -> Sequence[Any]:
        if _SCALARS.issuperset(map(type, value)):
            return value
        return [self.plain(each) for each in value]

    def _tuple(self, value: tuple[Any, ...]) -> msgspec.msgpack.Ext:
        return self._extension(_TUPLE, self._list(value))

    def _set(self, value: set[Any] | frozenset[Any]) -> msgspec.msgpack.Ext:
        return self._extension(_SET, [isinstance(value, frozenset), self._list(tuple(value))])

    def _mapping(self, value: dict[Any, Any]) -> dict[Any, Any]:
        for key in value:
            if type(key) not in _KEYS:
                raise unsendable(type(key), "as the key of a dict")
        return {key: self.plain(each) for key, each in value.items()}

    def _bytes(self, value: bytes | bytearray | memoryview) -> Any:
        view = memoryview(value)
        if view.nbytes < wire.LARGE or not view.c_contiguous:
            value = view.tobytes()
        if view.nbytes < wire.LARGE:
            return value
        self.parts.append(memoryview(value).cast("B"))
        return self._extension(_BYTES, len(self.parts))

    def _rare(self, kind: type, value: Any) -> Any:
        """Make an array, a scalar of numpy or an object of a plain class plain."""
        numpy = sys.modules.get("numpy")  # the server imports it for those alone who use it
        if numpy is not None and isinstance(value, numpy.generic):
            return self.plain(value.item())
        if numpy is not None and kind is numpy.ndarray:
            return self._array(numpy, value)
        if isinstance(value, enum.Enum):
            return self._object(kind, self.plain(value.value))
        fields = {name: getattr(value, name) for name in hints(kind)}
        given = {name: self.plain(each) for name, each in fields.items() if each is not UNSET}
        return self._object(kind, given)

    def _array(self, numpy: Any, value: Any) -> msgspec.msgpack.Ext:
        if value.dtype.kind not in _NUMBERS:
            raise Unsendable(f"An array of {value.dtype} cannot be sent: only numbers and booleans")
        flat = numpy.ascontiguousarray(value).reshape(-1)
        self.parts.append(flat.view(numpy.uint8).data)
        return self._extension(_ARRAY, [value.dtype.str, value.shape, len(self.parts)])

    def _object(self, kind: type, content: Any) -> msgspec.msgpack.Ext:
        name = f"{kind.__module__}:{kind.__qualname__}"
        if "<" in name:
            raise unsendable(kind, "since it is defined inside a function")
        self.classes.add(name)
        return self._extension(_OBJECT, [name, content])

    @staticmethod
    def _extension(code: int, content: Any) -> msgspec.msgpack.Ext:
        return msgspec.msgpack.Ext(code, _ENCODER.encode(content))


class _Reader:
    """Reads one value."""

    def __init__(self, parts: Sequence[bytes | memoryview], find: Find) -> None:
        self._parts = parts
        self._find = find
        self._left = set(range(1, len(parts)))
        self._decoder = msgspec.msgpack.Decoder(ext_hook=self._extension)

    def value(self, data: bytes | memoryview) -> Any:
        """Decode a value; what it holds first."""
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
            return built(self._find(frozen_or_name), held)
        raise ValueError("an unknown extension")

    def _array(self, dtype: str, shape: list[int], part: int) -> Any:
        import numpy as np

        if len(dtype) > _LONGEST_TYPE:
            raise ValueError("no kind of numbers")
        kind = np.dtype(dtype)
        if kind.kind not in _NUMBERS:
            raise ValueError("an array of objects")
        return np.frombuffer(self._part(part), kind).reshape(shape)

    def _part(self, number: int) -> bytes | memoryview:
        """Return a part, once: many copies of a large one would be named by a few bytes."""
        self._left.remove(number)
        return self._parts[number]
