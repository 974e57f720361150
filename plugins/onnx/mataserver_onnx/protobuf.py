"""The wire format of protocol buffers; only the requested parts of a file are read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import mmap
    from collections.abc import Iterator

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_MAX_VARINT_BYTES = 10
_MAX_TEXT = 8 * 2**20
MAX_FIELDS = 500_000
"""Maximum fields that are looked at: some 140,000 describe a large language model's graph."""
_MAX_TEXTS = 64 * 2**20
"""Maximum bytes of all texts that are read: those of such a graph have some ten million."""


class TooManyFieldsError(ValueError):
    """A file has more fields, or texts of more bytes, than are read."""


@dataclass(slots=True)
class Room:
    """How many fields, and bytes of texts, of a file may still be read."""

    fields: int = MAX_FIELDS
    texts: int = _MAX_TEXTS

    def take(self, fields: int, texts: int = 0) -> None:
        """Take of it. Raises ``TooManyFieldsError`` where there is not so much."""
        self.fields -= fields
        self.texts -= texts
        if self.fields < 0 or self.texts < 0:
            raise TooManyFieldsError


@dataclass(frozen=True, slots=True)
class Message:
    """A section of a protocol buffer, from ``start`` to ``end``.

    The file may be a stranger's, and the server reads it: each field that is looked at and each
    text that is read, in whatever section of the file, takes of ``room``.
    """

    content: mmap.mmap
    start: int
    end: int
    room: Room

    @staticmethod
    def whole(content: mmap.mmap) -> Message:
        """Return a file's outermost section."""
        return Message(content, 0, len(content), Room())

    def fields(self) -> Iterator[tuple[int, int | Message]]:
        """Yield the number of each field and its value; a string or a message as a ``Message``.

        Raises ``ValueError`` for bytes that are not a protocol buffer, ``TooManyFieldsError``.
        """
        at = self.start
        while at < self.end:
            key, at = self._varint(at)
            number, wire = key >> 3, key & 7
            value: int | Message
            if wire == _VARINT:
                value, at = self._varint(at)
            elif wire == _BYTES:
                length, at = self._varint(at)
                value = Message(self.content, at, at + length, self.room)
                at += length
            elif wire in {_FIXED64, _FIXED32}:
                value = 0  # no field that is read here has a fixed size
                at += 8 if wire == _FIXED64 else 4
            else:
                raise ValueError("unknown wire type")
            if not number or at > self.end:
                raise ValueError("a field leaves its message")
            self.room.take(1)
            yield number, value

    def text(self) -> str:
        """Return the value as text. Raises ``ValueError``, ``TooManyFieldsError``."""
        if self.end - self.start > _MAX_TEXT:
            raise ValueError("a text is too long")
        self.room.take(0, self.end - self.start)
        return self.content[self.start : self.end].decode("utf-8")

    def bytes(self, most: int) -> bytes:
        """Return the value's bytes, the first ``most`` of them."""
        return self.content[self.start : min(self.end, self.start + most)]

    def messages(self, number: int) -> Iterator[Message]:
        """Yield every message or text of one field."""
        for each, value in self.fields():
            if each == number:
                yield message_of(value)

    def _varint(self, at: int) -> tuple[int, int]:
        value = 0
        for index in range(_MAX_VARINT_BYTES):
            byte = self.content[at + index]
            value |= (byte & 0x7F) << (7 * index)
            if byte < 0x80:
                return value, at + index + 1
        raise ValueError("a number is too long")


def message_of(value: int | Message) -> Message:
    """Return a field's value that is a string or a message. Raises ``ValueError``."""
    if isinstance(value, Message):
        return value
    raise ValueError("a number where a message belongs")


def number_of(value: int | Message) -> int:
    """Return a field's value that is an integer. Raises ``ValueError``."""
    if isinstance(value, int):
        return value
    raise ValueError("a message where a number belongs")
