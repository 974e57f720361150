"""What came with a request: forms, uploads, and the bytes in flight that they count as."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


class Share(Protocol):
    """A share of the one budget of request bytes in flight."""

    def check(self, count: int) -> None:
        """Raise ``Unavailable`` when there is no room for ``count`` bytes; takes none of them."""
        ...

    def take(self, count: int) -> None:
        """Take ``count`` bytes more. Raises ``Unavailable`` when the budget has not as many."""
        ...

    def give_back(self) -> None:
        """Give all of it back."""
        ...


class Form(NamedTuple):
    """A form that was read: the bytes of its file, and its other fields."""

    file: bytes
    fields: dict[str, str]


@dataclass(frozen=True, slots=True)
class Saved:
    """An upload that was written to a file.

    ``size`` is in bytes, ``name`` what the client calls the file, ``fields`` the other fields of
    its form.
    """

    size: int
    name: str
    fields: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Upload:
    """A file of a form: the field, what the client calls it, where it was written, its bytes."""

    field: str
    name: str
    path: Path
    size: int


@dataclass(frozen=True, slots=True)
class Uploads:
    """The files of a form in the order of their coming, and its other fields."""

    files: tuple[Upload, ...]
    fields: Mapping[str, str]
