"""Makes a fleet as a document says, and touches nothing that somebody else changed meanwhile."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from mataserver import MataError
from mataserver_fleet import manifest
from mataserver_fleet.asking import part
from mataserver_fleet.manifest import UserEntry

if TYPE_CHECKING:
    from collections.abc import Callable

    from mataserver_fleet.asking import Asking
    from mataserver_fleet.manifest import Manifest
    from mataserver_fleet.planning import Step, Thing

MEANWHILE = "somebody else changed it since it was read; apply again, which begins with what is new"


class Applying:
    """Does steps that were planned for a fleet as it was ``found``. ``tell`` shows a line.

    Before the first step on a thing it is read again, and must be what was planned for; each change
    of it then names the ``ETag`` that the one before left.
    """

    def __init__(self, ask: Asking, found: Manifest, tell: Callable[[str], None]) -> None:
        self._ask = ask
        self._found = found
        self._tell = tell
        self._tags: dict[Thing, str] = {}
        self._removed: set[Thing] = set()

    def do(self, step: Step) -> str | None:
        """Do a step; return why it is not done yet, where it stays wanted.

        Raises ``MataError`` for what is refused, with 412 where the thing was changed meanwhile.
        """
        tag = None if step.makes else self._tags.get(step.thing) or self._read(step)
        try:
            done, self._tags[step.thing] = self._ask.tagged(step.method, step.path, step.body, tag)
        except MataError as error:
            if error.status == 412:
                raise _stale(step) from None
            if tag is None or not step.lasting(error):
                raise
            self._tags[step.thing] = _following(tag)
            return error.detail
        if step.removes:
            self._removed.add(step.thing)
        if "key" in done:
            self._tell(f"key of {done['name']}: {done['key']}")
        return None

    def _read(self, step: Step) -> str:
        """Return the tag of a thing that is as it was found. Raises ``MataError``."""
        kind, name = step.thing
        told, tag = self._ask.tagged("GET", f"/api/{kind}/{part(name)}")
        if manifest.entry(kind, told, self._found.tritons) != self._expected(kind, name):
            raise _stale(step)
        return tag

    def _expected(self, kind: str, name: str) -> object:
        """Return a thing as it was found, but for what earlier steps took away from it."""
        known = getattr(self._found, kind)[name]
        if isinstance(known, UserEntry):
            left = [each for each in known.apps if ("apps", each) not in self._removed]
            return msgspec.structs.replace(known, apps=left)
        return known


def _stale(step: Step) -> MataError:
    return MataError(f"{step.told}: {MEANWHILE}", status=412)


def _following(tag: str) -> str:
    """Return the tag of a model after a wish of ours that was kept and could not be done.

    Whoever is refused is shown no tag; a model's counts its changes, of which a wish is one.
    """
    return f'"{int(tag.strip(chr(34))) + 1}"'
