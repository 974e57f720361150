"""Whether reconstructions can run here, found by loading the matchers in other processes."""

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

TIMEOUT_SECONDS = 120.0
RETRY_SECONDS = 30.0
_LOADING = "its matcher is being loaded"


class LoadedMessage(Struct):
    """The process's message once the default matcher is loaded."""

    device: str


class TrialResult(Struct):
    """Why a learned matcher cannot be loaded, "" when it can."""

    matcher: str
    problem: str


class TrialRequest(Struct):
    """The matchers to load, and the locations of their weights."""

    names: list[str]
    settings: Matchers


def load(parent: Parent) -> None:
    """Load the default matcher and report its device."""
    matchers.load(matchers.DEFAULT, Matchers())
    parent.send(LoadedMessage(f"CPU ({len(os.sched_getaffinity(0))} cores)"))


def try_matchers(parent: Parent) -> None:
    """Load learned matchers, one after the other, and report whether each could be loaded."""
    from mataserver_reconstruct import networks  # must not be loaded together with COLMAP

    wanted = next(parent.messages(TrialRequest))
    for name in wanted.names:
        problem = ""
        try:
            networks.load(name, wanted.settings, 1)
        except Unavailable as error:
            problem = error.detail
        parent.send(TrialResult(name, problem))


class MatcherStatus:
    """The status of the matchers. ``device``: that of the default one, "" until it is loaded."""

    def __init__(self, ctx: Context) -> None:
        self._ctx = ctx
        self._settings: Matchers = ctx.settings.matchers
        self._problems: dict[str, str] = {}
        self.device = ""
        self.problem = _LOADING

    async def watch(self) -> None:
        """Load the matchers, retrying while the default one fails, until cancelled.

        Not before the server listens: it would wait for the process to be started.
        """
        await self._ctx.address()
        while not self.device:
            try:
                async with asyncio.timeout(TIMEOUT_SECONDS):
                    self.problem = await self._load_default()
            except TimeoutError:
                self.problem = "its matcher does not load in time"
            except MataError as error:
                self.problem = error.detail
            if self.problem:
                self._ctx.log.warning("reconstruct: %s", self.problem)
                await asyncio.sleep(RETRY_SECONDS)
        await self._try_others()

    async def _load_default(self) -> str:
        """Return why the default matcher cannot be loaded; "" when it can."""
        matchers.check(matchers.DEFAULT, self._settings)
        async with self._ctx.run_process(load, threads=1) as child:
            async for loaded in child.messages(LoadedMessage):
                self.device = loaded.device
                return ""
            self._ctx.log.warning("the matcher died: %s", await child.last_words())
        return f"the matcher {matchers.DEFAULT} cannot be loaded here; the log says why"

    async def _try_others(self) -> None:
        """Determine which of the matchers with local weights cannot be loaded."""
        names = [
            name for name in matchers.NETWORKS if not matchers.problem_of(name, self._settings)
        ]
        if not names:
            return
        left = set(names)
        async with self._ctx.run_process(try_matchers, threads=1) as child:
            await child.send(TrialRequest(names, self._settings))
            async for told in child.messages(TrialResult):
                left.discard(told.matcher)
                self._problems[told.matcher] = told.problem
        for name in sorted(left):
            self._problems[name] = "it cannot be loaded here; the log says why"
        for name in filter(self._problems.get, names):
            self._ctx.log.warning("the matcher %s: %s", name, self._problems[name])

    def matchers(self) -> dict[str, str]:
        """Return every matcher by name: "ready", or the sentence why it is not available."""
        return {
            name: self._problem_of(name) or "ready"
            for name in (*matchers.MATCHERS, matchers.FUSION)
        }

    def _problem_of(self, name: str) -> str:
        """Return why a matcher is not available. Raises ``InvalidParams`` for an unknown one."""
        why = matchers.problem_of(name, self._settings)
        broken = [self._problems.get(part, "") for part in matchers.expand(name, self._settings)]
        return why or "; ".join(filter(None, broken))

    def check(self, matcher: str) -> None:
        """Raise ``Unavailable`` while a matcher is not, ``InvalidParams`` if it is unknown."""
        why = self._problem_of(matcher)
        if why:
            raise Unavailable(f"the matcher {matcher} cannot work: {why}")
        if self.problem and self.problem is not _LOADING:
            raise Unavailable(self.problem, retry_after=RETRY_SECONDS)
