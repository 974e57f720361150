"""The front-ends of a shared directory, including this one, and their status."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING, Self

from msgspec import Struct

from mataserver.errors import MataError
from mataserver.frontends.roll import RollEntry
from mataserver.frontends.vouching import Voucher
from mataserver.http import codec
from mataserver.http.routing import Body, Handlers, Route

if TYPE_CHECKING:
    from aiohttp import web

    from mataserver.contract.service import Context
    from mataserver.frontends.roll import Roll
    from mataserver.http.relay import Elsewhere
    from mataserver.metrics import Metrics
    from mataserver.serving.sessions import SessionStore

log = logging.getLogger("mataserver.frontends")


class FrontendInfo(Struct):
    """A front-end: ``id`` is what ids of its sessions begin with after their first word.

    ``here`` says that it gave this answer, ``alive`` that it shows signs of life.
    """

    id: str
    address: str
    here: bool
    alive: bool
    sessions: int


class FrontendsService(Handlers):
    """The service of the front-ends; exists only with ``shared_dir``.

    ``address`` is where the others reach this one, None for its listening address; ``beat`` the
    heartbeat interval in seconds, ``patience`` the timeout of the directory for one.
    """

    def __init__(
        self,
        ctx: Context,
        elsewhere: Elsewhere,
        sessions: SessionStore,
        metrics: Metrics,
        *,
        address: str | None,
        beat: float,
        patience: float,
    ) -> None:
        self._ctx = ctx
        self._elsewhere = elsewhere
        self._roll: Roll = elsewhere.roll
        self._sessions = sessions
        self._metrics = metrics
        self._address = address
        self._beat = beat
        self._patience = patience
        self._fault = ""
        self._telling = asyncio.Lock()
        self._left = False
        self._next: asyncio.Task[None] | None = None
        metrics.before_render(self._count)

    def routes(self) -> list[Route]:
        """Return the routes."""
        return [
            Route("GET", "/v1/frontends", self._every, "The front-ends of the shared directory",
                  "server", response=(Body(codec.JSON, list[FrontendInfo]),), needs="models:read"),
        ]  # fmt: skip

    async def __aenter__(self) -> Self:
        """Join the others, which assigns the tag of our sessions. Raises ``MataError``."""
        try:
            secret = await self._roll.join()
        except OSError as error:
            where = str(self._roll.folder)
            raise MataError(f"shared_dir {_unusable(error)}", hint=where) from error
        self._roll.held.tell = self._tell
        self._roll.held.gather = self._elsewhere.gather
        self._elsewhere.open(Voucher(secret))
        self._ctx.tasks.spawn(self._live(), "tell the other front-ends")
        return self

    async def __aexit__(self, *exc: object) -> None:
        """Leave the others; wait for a pending heartbeat, which must not be written after that."""
        self._left = True
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._patience), self._telling:
                pass
        await self._roll.leave()
        await self._elsewhere.close()

    def waiting(self) -> dict[str, str]:
        """Return why the others cannot see this one."""
        return {"shared_dir": self._fault} if self._fault else {}

    async def _live(self) -> None:
        """Write heartbeats forever."""
        self._address = self._address or await self._ctx.address()
        while True:
            await self._tell()
            await asyncio.sleep(self._beat)

    async def _tell(self) -> None:
        """Announce our current state, without blocking on a disk that hangs.

        Callers share an announcement that has not started, so that threads do not pile up on such a
        disk.
        """
        telling = self._next
        if telling is None:
            telling = self._next = asyncio.create_task(self._told())
        await asyncio.wait({telling}, timeout=self._patience)
        if telling.done():
            telling.result()
        else:
            self._note("does not answer")

    async def _told(self) -> None:
        """Write our entry."""
        fault = ""
        async with self._telling:
            self._next = None
            if self._left:
                return
            entry = RollEntry(
                address=self._address or "",
                beat=self._roll.own.beat + 1,
                sessions=len(self._sessions),
                names=tuple(sorted(self._roll.held.chosen)),
            )
            try:
                if not await self._roll.tell(entry):
                    log.warning("another front-end says that it is at %s, too", entry.address)
            except OSError as error:
                fault = _unusable(error)
            self._note(fault)

    def _note(self, fault: str) -> None:
        """Record a fault of the directory; log it once."""
        if fault and fault != self._fault:
            log.error("shared_dir %s", fault)
        self._fault = fault

    def _count(self) -> None:
        """Set the gauges."""
        others = self._roll.others()
        silent = sum(map(self._roll.silent, others))
        self._metrics.frontends.labels("alive").set(1 + len(others) - silent)
        self._metrics.frontends.labels("silent").set(silent)

    async def _every(self, _request: web.Request) -> web.Response:
        found = [self._info(self._roll.held.tag, self._roll.own, here=True, alive=True)]
        for other in self._roll.others():
            alive = not self._roll.silent(other)
            found.append(self._info(other.tag, other.entry, here=False, alive=alive))
        return codec.respond(sorted(found, key=lambda each: each.address))

    def _info(self, tag: str, entry: RollEntry, *, here: bool, alive: bool) -> FrontendInfo:
        count = len(self._sessions) if here else entry.sessions
        return FrontendInfo(tag, entry.address, here, alive, count)


def _unusable(error: OSError) -> str:
    """Describe an error of the shared directory."""
    return f"cannot be used: {error.strerror or type(error).__name__}"
