"""A plugin's tables and the migrations that lead to them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from importlib import resources
from pathlib import Path

from mataserver import MataError

_FILE = re.compile(r"(\d{4})_\w+\.py\Z")


class NewerSchemaError(MataError):
    """The database was made by a newer version: this one must not touch it."""

    status = 503


@dataclass(frozen=True)
class Schema:
    """The tables of one plugin.

    name:    the plugin's; its version stands in the table ``<name>_version``.
    package: the package that holds ``migrations/NNNN_what.py``, each an Alembic revision whose
             ``revision`` is its four digits and whose ``down_revision`` is the one before.
    """

    name: str
    package: str

    @cached_property
    def folder(self) -> Path:
        """Where the migrations are. Raises ``FileNotFoundError`` without any."""
        return Path(str(resources.files(self.package).joinpath("migrations")))

    @cached_property
    def revisions(self) -> tuple[str, ...]:
        """Every revision, oldest first. Raises ``LookupError`` for a gap or none."""
        found = sorted(
            match[1] for path in self.folder.iterdir() if (match := _FILE.match(path.name))
        )
        if not found or found != [f"{number:04d}" for number in range(1, len(found) + 1)]:
            raise LookupError(f"{self.package}: migrations must be numbered from 0001, got {found}")
        return tuple(found)

    @property
    def head(self) -> str:
        """The newest revision."""
        return self.revisions[-1]

    @property
    def table(self) -> str:
        """The table that tells the version."""
        return f"{self.name}_version"

    def check(self, version: str | None) -> bool:
        """Whether a database of that version must be migrated.

        Raises ``NewerSchemaError`` for a version that this code does not know.
        """
        if version is not None and version not in self.revisions:
            raise NewerSchemaError(
                f"The database holds {self.name} {version}, newer than {self.head}: "
                "start the version of the server that wrote it, or a newer one"
            )
        return version != self.head
