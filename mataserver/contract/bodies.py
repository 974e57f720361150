"""Parts of requests: forms, uploads, and their share of the bytes in flight."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


class Share(Protocol):
    """A share of the global budget of request bytes in flight."""

    def check(self, count: int) -> None:
        """Raise ``Unavailable`` if there is no room for ``count`` bytes; reserves nothing."""

    def take(self, count: int) -> None:
        """Reserve ``count`` more bytes. Raises ``Unavailable`` if the budget is exhausted."""

    def give_back(self) -> None:
        """Release everything reserved."""


class Form(NamedTuple):
    """A form: the contents of its file, and its other fields."""

    file: bytes
    fields: dict[str, str]


@dataclass(frozen=True, slots=True)
class Saved:
    """An upload that was written to a file.

    ``size`` is in bytes, ``name`` the client's file name, ``fields`` the other fields of its form.
    """

    size: int
    name: str
    fields: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Upload:
    """A file of a form: its field, the client's file name, the path written, its size in bytes."""

    field: str
    name: str
    path: Path
    size: int


@dataclass(frozen=True, slots=True)
class Uploads:
    """The files of a form in order of arrival, and its other fields."""

    files: tuple[Upload, ...]
    fields: Mapping[str, str]
