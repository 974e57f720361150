"""Whether reconstructions can run here: a process that loads the default matcher says so."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING

from msgspec import Struct

from mataserver import MataError, Unavailable
from mataserver_reconstruct import matchers
from mataserver_reconstruct.weights import Matchers

if TYPE_CHECKING:
    from mataserver import Context, Parent

PATIENCE_SECONDS = 120.0
AGAIN_SECONDS = 30.0
_COMING = "its matcher is being loaded"


class Loaded(Struct):
    """What the process says once the default matcher is there."""

    device: str


class Tried(Struct):
    """What another process says of a learned one: why it cannot be loaded, "" when it can."""

    matcher: str
    problem: str


class Wanted(Struct):
    """What is to be tried, and where its weights are."""

    names: list[str]
    settings: Matchers


def load(parent: Parent) -> None:
    """Load the default matcher and tell what it works on."""
    matchers.load(matchers.DEFAULT, Matchers())
    parent.send(Loaded(f"CPU ({len(os.sched_getaffinity(0))} cores)"))


def attempt(parent: Parent) -> None:
    """Load learned matchers, one after the other, and tell of each whether it could be."""
    from mataserver_reconstruct import networks  # no framework comes together with COLMAP

    wanted = next(parent.messages(Wanted))
    for name in wanted.names:
        problem = ""
        try:
            networks.load(name, wanted.settings, 1)
        except Unavailable as error:
            problem = error.detail
        parent.send(Tried(name, problem))


class Worker:
    """What is known of the matchers. ``device``: what the default one works on, "" before."""

    def __init__(self, ctx: Context) -> None:
        self._ctx = ctx
        self._settings: Matchers = ctx.settings.matchers
        self._tried: dict[str, str] = {}
        self.device = ""
        self.problem = _COMING

    async def look(self) -> None:
        """Find out, again while the default one cannot work, until cancelled."""
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
        await self._try_others()

    async def _asked(self) -> str:
        """Return why the default matcher cannot be loaded; "" when it can."""
        matchers.check(matchers.DEFAULT, self._settings)
        async with self._ctx.run_process(load, threads=1) as child:
            async for loaded in child.messages(Loaded):
                self.device = loaded.device
                return ""
            self._ctx.log.warning("the matcher died: %s", await child.last_words())
        return f"the matcher {matchers.DEFAULT} cannot be loaded here; the log says why"

    async def _try_others(self) -> None:
        """Find out which of those whose weights are there do not load."""
        names = [name for name in matchers.NETWORKS if not matchers.missing(name, self._settings)]
        if not names:
            return
        left = set(names)
        async with self._ctx.run_process(attempt, threads=1) as child:
            await child.send(Wanted(names, self._settings))
            async for told in child.messages(Tried):
                left.discard(told.matcher)
                self._tried[told.matcher] = told.problem
        for name in sorted(left):
            self._tried[name] = "it cannot be loaded here; the log says why"
        for name in filter(self._tried.get, names):
            self._ctx.log.warning("the matcher %s: %s", name, self._tried[name])

    def matchers(self) -> dict[str, str]:
        """Return every matcher by its name: "ready", or the sentence why it cannot work."""
        return {name: self._wrong(name) or "ready" for name in (*matchers.OFFERS, matchers.FUSION)}

    def _wrong(self, name: str) -> str:
        """Return why a matcher cannot work. Raises ``InvalidParams`` for none."""
        why = matchers.missing(name, self._settings)
        broken = [self._tried.get(part, "") for part in matchers.parts(name, self._settings)]
        return why or "; ".join(filter(None, broken))

    def check(self, matcher: str) -> None:
        """Raise ``Unavailable`` while a matcher cannot work, ``InvalidParams`` for none."""
        why = self._wrong(matcher)
        if why:
            raise Unavailable(f"the matcher {matcher} cannot work: {why}")
        if self.problem and self.problem is not _COMING:
            raise Unavailable(self.problem, retry_after=AGAIN_SECONDS)
