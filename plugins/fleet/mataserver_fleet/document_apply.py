"""Applies a document to a fleet, without touching what was changed since it was read."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from mataserver import MataError
from mataserver_fleet import manifest
from mataserver_fleet.fleet_client import quote_name
from mataserver_fleet.manifest import UserEntry

if TYPE_CHECKING:
    from collections.abc import Callable

    from mataserver_fleet.fleet_client import FleetClient
    from mataserver_fleet.manifest import Manifest
    from mataserver_fleet.planning import Step, Subject

CHANGED_MEANWHILE = (
    "somebody else changed it since it was read; apply again, which begins with what is new"
)


class DocumentApplier:
    """Does steps that were planned for a fleet as it was ``found``. ``print_line`` shows a line.

    Before the first step on a thing it is read again, and must be what was planned for; each change
    of it then names the ``ETag`` that the one before left.
    """

    def __init__(
        self, ask: FleetClient, found: Manifest, print_line: Callable[[str], None]
    ) -> None:
        self._ask = ask
        self._found = found
        self._print = print_line
        self._tags: dict[Subject, str] = {}
        self._removed: set[Subject] = set()

    def do(self, step: Step) -> str | None:
        """Do a step; return why it is not done yet, where it stays wanted.

        Raises ``MataError`` for what is refused, with 412 where the subject was changed since.
        """
        tag = None if step.creates_subject else self._tags.get(step.subject) or self._read(step)
        try:
            done, self._tags[step.subject] = self._ask.tagged(
                step.method, step.path, step.body, tag
            )
        except MataError as error:
            if error.status == 412:
                raise _stale_error(step) from None
            if tag is None or not step.stays_wanted(error):
                raise
            self._tags[step.subject] = _next_tag(tag)
            return error.detail
        if step.removes_subject:
            self._removed.add(step.subject)
        if "key" in done:
            self._print(f"key of {done['name']}: {done['key']}")
        return None

    def _read(self, step: Step) -> str:
        """Return the tag of a thing that is as it was found. Raises ``MataError``."""
        kind, name = step.subject
        view, tag = self._ask.tagged("GET", f"/api/{kind}/{quote_name(name)}")
        if manifest.entry(kind, view, self._found.tritons) != self._expected(kind, name):
            raise _stale_error(step)
        return tag

    def _expected(self, kind: str, name: str) -> object:
        """Return a thing as it was found, but for what earlier steps took away from it."""
        known = getattr(self._found, kind)[name]
        if isinstance(known, UserEntry):
            left = [each for each in known.apps if ("apps", each) not in self._removed]
            return msgspec.structs.replace(known, apps=left)
        return known


def _stale_error(step: Step) -> MataError:
    return MataError(f"{step.line}: {CHANGED_MEANWHILE}", status=412)


def _next_tag(tag: str) -> str:
    """Return the tag of a model after a request of ours that was stored and failed.

    A refusal carries no tag; a model's tag counts its changes, and the request is one.
    """
    return f'"{int(tag.strip(chr(34))) + 1}"'
