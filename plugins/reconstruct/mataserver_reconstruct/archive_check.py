"""The child that unpacks an upload to nowhere: a stranger's bytes are inflated in no server."""

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

AT_ONCE = 4
PATIENCE_SECONDS = 600.0
"""What 8 GB of the slowest method take on a slow machine, and some more."""


class Asked(Struct):
    """The archive, and what it may hold."""

    file: str
    limits: Limits


class Verdict(Struct):
    """Why an archive is refused; "" for one that is whole."""

    problem: str


def prove(parent: Parent) -> None:
    """Unpack an archive to nowhere and tell whether it is whole."""
    asked = next(parent.messages(Asked))
    parent.change_nothing()
    file, problem = Path(asked.file), ""
    try:
        archive.prove(file, archive.inspect(file, asked.limits))
    except MataError as error:
        problem = error.detail
    parent.send(Verdict(problem))


class Proving:
    """Has archives unpacked to nowhere, a few at a time."""

    def __init__(self, ctx: Context, patience: float = PATIENCE_SECONDS) -> None:
        self._ctx = ctx
        self._patience = patience
        self._turns = asyncio.Semaphore(AT_ONCE)

    async def check(self, file: Path, limits: Limits) -> None:
        """Raise ``BadRequest`` for an archive that is damaged inside or takes too long."""
        try:
            async with self._turns, asyncio.timeout(self._patience):
                problem = await self._asked(Asked(str(file), limits))
        except TimeoutError:
            raise BadRequest("the archive takes too long to unpack") from None
        if problem:
            raise BadRequest(problem)

    async def _asked(self, asked: Asked) -> str:
        """Return why an archive is refused. Raises ``Unavailable`` when the child dies."""
        async with self._ctx.run_process(prove, threads=1) as child:
            await child.send(asked)
            async for verdict in child.messages(Verdict):
                return str(verdict.problem)
            self._ctx.log.warning("an archive's process died: %s", await child.last_words())
        raise Unavailable("the archive could not be looked at", retry_after=10)
