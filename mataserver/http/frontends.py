"""The front-ends of a shared directory, including this one, and their status."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING, Self

from msgspec import Struct

from mataserver.errors import MataError
from mataserver.frontends.directory import FrontendEntry
from mataserver.frontends.identity_assertions import IdentityAssertions
from mataserver.http import codec
from mataserver.http.request_credentials import check_query
from mataserver.http.routing import Body, Route, StatelessService

if TYPE_CHECKING:
    from aiohttp import web

    from mataserver.contract.service import Context
    from mataserver.frontends.directory import FrontendDirectory
    from mataserver.http.relay import FrontendRelay
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


class FrontendsService(StatelessService):
    """The service of the front-ends; exists only with ``shared_dir``.

    ``address`` is where the others reach this one, None for its listening address; ``beat`` the
    heartbeat interval in seconds, ``timeout`` the timeout of writing one.
    """

    def __init__(
        self,
        ctx: Context,
        relay: FrontendRelay,
        sessions: SessionStore,
        metrics: Metrics,
        *,
        address: str | None,
        beat: float,
        timeout: float,
    ) -> None:
        self._ctx = ctx
        self._relay = relay
        self._directory: FrontendDirectory = relay.directory
        self._sessions = sessions
        self._metrics = metrics
        self._address = address
        self._heartbeat = beat
        self._timeout = timeout
        self._fault = ""
        self._write_lock = asyncio.Lock()
        self._has_left = False
        self._pending_write: asyncio.Task[None] | None = None
        metrics.registry.before_collect(self._update_gauges)

    def routes(self) -> list[Route]:
        """Return the routes."""
        return [
            Route("GET", "/v1/frontends", self._list, "The front-ends of the shared directory",
                  "server", response=(Body(codec.JSON, list[FrontendInfo]),), errors=(422,),
                  needs="models:read"),
        ]  # fmt: skip

    async def __aenter__(self) -> Self:
        """Join the others, which assigns the tag of our sessions. Raises ``MataError``."""
        try:
            secret = await self._directory.join()
        except OSError as error:
            where = str(self._directory.folder)
            raise MataError(f"shared_dir {_describe_fault(error)}", hint=where) from error
        self._directory.held.announce = self._announce
        self._directory.held.gather = self._relay.gather
        self._relay.client.open(IdentityAssertions(secret))
        self._ctx.tasks.spawn(self._send_heartbeats, "tell the other front-ends")
        return self

    async def __aexit__(self, *exc: object) -> None:
        """Leave the others; wait for a pending heartbeat, which must not be written after that."""
        self._has_left = True
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._timeout), self._write_lock:
                pass
        await self._directory.leave()
        await self._relay.client.close()

    def waiting(self) -> dict[str, str]:
        """Return why the others cannot see this one."""
        return {"shared_dir": self._fault} if self._fault else {}

    async def _send_heartbeats(self) -> None:
        self._address = self._address or await self._ctx.address()
        while True:
            await self._announce()
            await asyncio.sleep(self._heartbeat)

    async def _announce(self) -> None:
        """Announce our current state, without blocking on a disk that hangs.

        Callers share an announcement that has not started, so that threads do not pile up on such a
        disk.
        """
        writing = self._pending_write
        if writing is None:
            writing = self._pending_write = asyncio.create_task(self._write_entry())
        await asyncio.wait({writing}, timeout=self._timeout)
        if writing.done():
            writing.result()
        else:
            self._set_fault("does not answer")

    async def _write_entry(self) -> None:
        fault = ""
        async with self._write_lock:
            self._pending_write = None
            if self._has_left:
                return
            entry = FrontendEntry(
                address=self._address or "",
                beat=self._directory.own.beat + 1,
                sessions=len(self._sessions),
                names=tuple(sorted(self._directory.held.announced)),
            )
            try:
                if not await self._directory.write_entry(entry):
                    log.warning("another front-end says that it is at %s, too", entry.address)
            except OSError as error:
                fault = _describe_fault(error)
            self._set_fault(fault)

    def _set_fault(self, fault: str) -> None:
        if fault and fault != self._fault:
            log.error("shared_dir %s", fault)
        self._fault = fault

    def _update_gauges(self) -> None:
        others = self._directory.peers()
        silent = sum(map(self._directory.is_silent, others))
        self._metrics.frontends.labels("alive").set(1 + len(others) - silent)
        self._metrics.frontends.labels("silent").set(silent)

    async def _list(self, request: web.Request) -> web.Response:
        check_query(request, ())
        found = [self._info(self._directory.held.tag, self._directory.own, here=True, alive=True)]
        for other in self._directory.peers():
            alive = not self._directory.is_silent(other)
            found.append(self._info(other.tag, other.entry, here=False, alive=alive))
        return codec.respond(sorted(found, key=lambda each: each.address))

    def _info(self, tag: str, entry: FrontendEntry, *, here: bool, alive: bool) -> FrontendInfo:
        count = len(self._sessions) if here else entry.sessions
        return FrontendInfo(tag, entry.address, here, alive, count)


def _describe_fault(error: OSError) -> str:
    return f"cannot be used: {error.strerror or type(error).__name__}"
