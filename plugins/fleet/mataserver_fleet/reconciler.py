"""Brings one placement from what a Triton serves to what is wanted of it.

Every push sends all versions that are wanted, since it replaces all that the Triton has of the
model, and the digest of the whole stands among the configuration's parameters: without it a Triton
takes changed files of the same configuration for no change. What fails leaves what was served
before; where nothing is served any more, the versions that served last are sent again.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from mataserver_database import finish
from mataserver_fleet.placements import Outcome
from mataserver_fleet.triton_answers import TritonError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping
    from pathlib import Path

    from mataserver_fleet.files import FileStore
    from mataserver_fleet.placements import Placement, Placements
    from mataserver_fleet.shared_path import SharedPath
    from mataserver_fleet.triton_client import TritonClient

PARAMETER = "mataserver_digest"
UNLOAD_SECONDS = 30.0
"""How long an unload may take: a Triton finishes what it was asked before."""
SETTLE_SECONDS = 1.0
"""How long a Triton that has answered a load may take to serve what it was sent."""
_POLL_SECONDS = 0.1


class PlacementDisturbedError(TritonError):
    """The pushed files are not served: the Triton restarted, or another client changed them.

    Or they cannot be written to the shared repository. The files themselves are not at fault.
    """

    answered = False


@dataclass(frozen=True)
class Push:
    """What is sent to a Triton."""

    config: Mapping[str, Any]
    files: Mapping[str, Path]
    digest: str


class Reconciler:
    """Works on the placements of one Triton."""

    def __init__(
        self,
        placements: Placements,
        files: FileStore,
        client: TritonClient,
        load_timeout: float,
        shared: SharedPath | None = None,
    ) -> None:
        self._placements = placements
        self._files = files
        self._client = client
        self._load_timeout = load_timeout
        self._shared = shared

    async def is_settled(
        self, placement: Placement, serving: tuple[int, ...], *, deep: bool
    ) -> bool:
        """Whether a Triton that serves these versions is as a placement wants it.

        With ``deep`` it is asked whether they are those that were sent, and not others of the same
        numbers. Raises ``TritonError``.

        A push that failed and left another version serving is settled too: it is not tried again
        until it is asked for, or the Triton lost what it served. Where what serves instead was
        never sent from here, another client loaded it, and it is tried again; and what is served in
        the end, after its time, came true.
        """
        if placement.done < placement.generation:
            return False
        if not placement.wanted:
            return not serving
        if placement.state == "failed" and (serving == placement.versions or not placement.digest):
            return False
        if not serving or serving != placement.serving:
            return False
        if not deep:
            return True
        return await self._client.parameter(placement.name, PARAMETER) == placement.digest

    async def reconcile(self, placement: Placement, serving: tuple[int, ...]) -> Outcome:
        """Bring a placement to what is wanted; return the result.

        Raises ``TritonError`` for a Triton that went away, and ``PlacementDisturbedError``.
        """
        if not placement.wanted:
            return await self._unload(placement, serving)
        outcome = await self._load(placement, placement.versions, serving)
        if outcome.state == "ready":
            return outcome
        still = await self._serving(placement.name)
        last_good = placement.last_good
        if not still and last_good and last_good != placement.versions:
            again = await self._load(placement, last_good, ())
            still = again.serving
            return Outcome(
                placement.generation,
                "failed",
                outcome.reason,
                still,
                again.digest,
                again.last_good or last_good,
            )
        digest = await self._client.parameter(placement.name, PARAMETER) if still else ""
        return Outcome(placement.generation, "failed", outcome.reason, still, digest, last_good)

    async def _load(
        self, placement: Placement, versions: tuple[int, ...], serving: tuple[int, ...]
    ) -> Outcome:
        counts_reset = True
        try:
            push = await self.push(placement.name, placement.model, versions)
            if serving == versions:
                counts_reset = (
                    await self._client.parameter(placement.name, PARAMETER) != push.digest
                )
            ready = (
                self._prepared(placement.name, push) if counts_reset else contextlib.nullcontext()
            )
            async with ready, asyncio.timeout(self._load_timeout):
                if counts_reset:
                    await self._send(placement.name, push)
                await self._until_ready(placement.name, versions, push.digest)
        except TimeoutError:
            late = f"It was not loaded within {self._load_timeout:g} s"
            return Outcome(placement.generation, "failed", late)
        except FileNotFoundError:
            return Outcome(placement.generation, "failed", "A file of this version is missing")
        except TritonError as error:
            if not error.answered:
                raise
            return Outcome(placement.generation, "failed", error.detail)
        return Outcome(
            placement.generation, "ready", "", versions, push.digest, versions, counts_reset
        )

    @contextlib.asynccontextmanager
    async def _prepared(self, model: str, push: Push) -> AsyncIterator[None]:
        """Hold what a Triton is to load: it is its turn to be sent it, or it lies where it reads.

        How long that takes, for large files among others, is no part of the Triton's time. Raises
        ``PlacementDisturbedError`` and ``FileNotFoundError``.
        """
        if self._shared is None:
            async with self._client.upload_turn(push.files):
                yield
            return
        async with self._shared.lock(model):
            try:
                await self._shared.write(model, push.config, push.files)
            except FileNotFoundError:
                raise
            except OSError as error:
                raise PlacementDisturbedError(
                    f"Its repository cannot be written: {error.strerror}"
                ) from None
            yield

    async def _send(self, model: str, push: Push) -> None:
        """Have a Triton load what is pushed. Raises ``TritonError`` and ``FileNotFoundError``."""
        if self._shared is None:
            await self._client.load(model, push.config, push.files)
        else:
            await self._client.load_from_repository(model)

    async def push(self, name: str, model: int, versions: tuple[int, ...]) -> Push:
        """Return what is sent for versions of a model. Raises ``MataError`` where one is gone."""
        contents = await finish(self._placements.contents(model, versions))
        if set(contents) != set(versions):
            absent = min(set(versions) - set(contents))
            raise TritonError(f"{name} has no version {absent} any more")
        named = [[number, contents[number]["digest"]] for number in sorted(contents)]
        digest = hashlib.sha256(msgspec.json.encode(named)).hexdigest()
        config = dict(contents[max(contents)]["config"])
        parameters = {**config.get("parameters", {}), PARAMETER: {"string_value": digest}}
        policy = {"specific": {"versions": [str(number) for number in sorted(contents)]}}
        files = {
            path: self._files.path(blob)
            for number in sorted(contents)
            for path, (blob, _) in contents[number]["files"].items()
        }
        whole = {**config, "name": name, "parameters": parameters, "version_policy": policy}
        return Push(whole, files, digest)

    async def _unload(self, placement: Placement, serving: tuple[int, ...]) -> Outcome:
        # Also where nothing is served: a load that was given up may go on, and is waited for.
        try:
            await self._client.unload(placement.name)
        except TritonError as error:
            if serving or not error.answered:
                raise  # else it unloads nothing at all, as one without explicit control does
        deadline = time.monotonic() + UNLOAD_SECONDS
        while await self._serving(placement.name):
            if time.monotonic() > deadline:
                late = f"It was not unloaded within {UNLOAD_SECONDS:g} s"
                return Outcome(placement.generation, "failed", late, serving, placement.digest)
            await asyncio.sleep(_POLL_SECONDS)
        return Outcome(placement.generation, "unloaded", counts_reset=True)

    async def _until_ready(self, model: str, versions: tuple[int, ...], digest: str) -> None:
        """Wait until a Triton serves versions. Its answer to a load may come before.

        Raises ``PlacementDisturbedError`` where it serves other files of the model by now, or none.
        """
        settle_deadline = time.monotonic() + SETTLE_SECONDS
        while True:
            ready = [await self._client.is_ready(model, version) for version in versions]
            if all(ready):
                return
            late = time.monotonic() > settle_deadline
            if late and await self._client.parameter(model, PARAMETER) != digest:
                raise PlacementDisturbedError(
                    "It was lost or changed at the Triton while it was loaded"
                )
            await asyncio.sleep(_POLL_SECONDS)

    async def _serving(self, model: str) -> tuple[int, ...]:
        counts = await self._client.counts()
        return tuple(sorted({each.number for each in counts if each.name == model}))
