"""Cursors: where a page of a list ended, as an opaque text that a client sends back."""

from __future__ import annotations

import base64
from typing import Any

import msgspec

from mataserver import InvalidParams

_LONGEST = 2_048
_LARGEST = 2**31 - 1
"""Of a whole number: what PostgreSQL's ``integer`` holds."""


class Cursors:
    """The cursors of one list, by its name and the types of what it is sorted by.

    A cursor holds what its client was shown: the values that the last row is sorted by. It is not
    signed, since a forged one shows nothing more: a list gives rows by who asks, with any cursor.
    """

    def __init__(self, name: str, *types: type[str | int | float]) -> None:
        self._name = name
        self._type: Any = tuple.__class_getitem__((str, *types))

    def write(self, values: tuple[Any, ...]) -> str:
        """Return the cursor of a row that is sorted by these values."""
        return base64.urlsafe_b64encode(msgspec.json.encode([self._name, *values])).decode()

    def read(self, cursor: str) -> tuple[Any, ...]:
        """Return the values of a cursor. Raises ``InvalidParams`` for one of another list."""
        try:
            data = base64.b64decode(cursor[:_LONGEST].encode(), altchars=b"-_", validate=True)
            name, *values = msgspec.json.decode(data, type=self._type)
        except (ValueError, msgspec.MsgspecError):  # and binascii.Error and UnicodeError, of these
            raise _unknown() from None
        if name != self._name or not all(map(_is_kept, values)):
            raise _unknown()
        return tuple(values)


def _is_kept(value: object) -> bool:
    """Whether every database holds a value: others cannot be of a row."""
    if isinstance(value, str):
        return "\0" not in value
    return not isinstance(value, int) or 0 <= value <= _LARGEST


def _unknown() -> InvalidParams:
    return InvalidParams("cursor: must be the next_cursor of an answer of this list")
