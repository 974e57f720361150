"""Whether reconstructions can run here: a process that loads the default matcher says so."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING

from msgspec import Struct

from mataserver import MataError, Unavailable
from mataserver_reconstruct import matchers

if TYPE_CHECKING:
    from mataserver import Context, Parent

PATIENCE_SECONDS = 120.0
AGAIN_SECONDS = 30.0
_COMING = "its matcher is being loaded"


class Loaded(Struct):
    """What the process says once the matcher is there."""

    device: str


def load(parent: Parent) -> None:
    """Load the default matcher and tell what it works on."""
    matchers.load(matchers.DEFAULT)
    parent.send(Loaded(f"CPU ({len(os.sched_getaffinity(0))} cores)"))


class Worker:
    """What is known of the default matcher. ``device`` is what it works on, "" before."""

    def __init__(self, ctx: Context) -> None:
        self._ctx = ctx
        self.device = ""
        self.problem = _COMING

    async def look(self) -> None:
        """Find out, again while it cannot work, until cancelled."""
        while not self.device:
            try:
                async with asyncio.timeout(PATIENCE_SECONDS):
                    self.problem = await self._asked()
            except TimeoutError:
                self.problem = "its matcher does not load in time"
            except MataError as error:
                self.problem = error.detail
            if self.problem:
                self._ctx.log.warning("reconstruct: %s", self.problem)
                await asyncio.sleep(AGAIN_SECONDS)

    async def _asked(self) -> str:
        """Return why the matcher cannot be loaded; "" when it can."""
        matchers.check(matchers.DEFAULT)
        async with self._ctx.run_process(load, threads=1) as child:
            async for loaded in child.messages(Loaded):
                self.device = loaded.device
                return ""
            self._ctx.log.warning("the matcher died: %s", await child.last_words())
        return f"the matcher {matchers.DEFAULT} cannot be loaded here; the log says why"

    def check(self, matcher: str) -> None:
        """Raise ``Unavailable`` while a matcher cannot work, ``InvalidParams`` for none."""
        matchers.check(matcher)
        if self.problem and self.problem is not _COMING:
            raise Unavailable(self.problem, retry_after=AGAIN_SECONDS)
