"""Unpacks an upload in a child process to check it: a server never inflates untrusted bytes."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import Struct

from mataserver import BadRequest, MataError, Unavailable
from mataserver_reconstruct import archive
from mataserver_reconstruct.spec import Limits

if TYPE_CHECKING:
    from mataserver import Context, Parent

MAX_CONCURRENT = 4
TIMEOUT_SECONDS = 600.0
"""The time for 8 GB of the slowest method on a slow machine, with a margin."""


class CheckRequest(Struct):
    """The archive, and its limits."""

    file: str
    limits: Limits


class CheckResult(Struct):
    """Why an archive is refused; "" if it is intact."""

    problem: str


def check_in_child(parent: Parent) -> None:
    """Unpack an archive without storing it, and report whether it is intact."""
    request = next(parent.messages(CheckRequest))
    parent.change_nothing()
    file, problem = Path(request.file), ""
    try:
        archive.verify_contents(file, archive.inspect(file, request.limits))
    except MataError as error:
        problem = error.detail
    parent.send(CheckResult(problem))


class ArchiveChecker:
    """Checks archives in child processes, a few at a time."""

    def __init__(self, ctx: Context, timeout: float = TIMEOUT_SECONDS) -> None:
        self._ctx = ctx
        self._timeout = timeout
        self._slots = asyncio.Semaphore(MAX_CONCURRENT)

    async def check(self, file: Path, limits: Limits) -> None:
        """Raise ``BadRequest`` for an archive that is damaged inside or takes too long."""
        try:
            async with self._slots, asyncio.timeout(self._timeout):
                problem = await self._run_child(CheckRequest(str(file), limits))
        except TimeoutError:
            raise BadRequest("the archive takes too long to unpack") from None
        if problem:
            raise BadRequest(problem)

    async def _run_child(self, request: CheckRequest) -> str:
        """Return why an archive is refused. Raises ``Unavailable`` when the child dies."""
        async with self._ctx.run_process(check_in_child, threads=1) as child:
            await child.send(request)
            async for verdict in child.messages(CheckResult):
                return str(verdict.problem)
            self._ctx.log.warning("an archive's process died: %s", await child.last_words())
        raise Unavailable("the archive could not be looked at", retry_after=10)
