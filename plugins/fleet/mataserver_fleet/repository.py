"""A Triton's model repository and what it serves, as it reports both."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from mataserver_fleet.triton_answers import TritonError, decode

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mataserver_fleet.triton_client import TritonClient


MAX_CONFIG_BYTES = 32_000_000
"""Bytes of all configurations together: there may be ten thousand."""
TOTAL_SECONDS = 60.0
"""Seconds for all answers together: each may come late, and each model's is one."""


class RepositoryModel(Struct, kw_only=True):
    """A model at a Triton: the versions that it serves there, none for one that is not loaded.

    ``config`` is what it was loaded with, ``reason`` why it is not.
    """

    name: str
    versions: list[str]
    reason: str
    config: dict[str, Any] | None


class RepositoryList(Struct, kw_only=True):
    """All models at a Triton, and how many there are."""

    models: list[RepositoryModel]
    total: int


async def repository(client: TritonClient, *, full: bool) -> RepositoryList:
    """Ask a Triton for its models by name. Raises ``TritonError``, also for one that takes long."""
    try:
        async with asyncio.timeout(TOTAL_SECONDS):
            return await _ask(client, full=full)
    except TimeoutError:
        raise TritonError(f"It did not describe its models within {TOTAL_SECONDS:g} s") from None


async def _ask(client: TritonClient, *, full: bool) -> RepositoryList:
    """Ask a Triton for its models by name. Raises ``TritonError``.

    Its index may lack what was pushed to it, and lists hidden folders, which are left out.
    Without ``full`` reasons are cut to a line: the rest may be a traceback.
    """
    served: dict[str, list[str]] = {}
    for each in sorted(await client.counts(), key=lambda count: count.number):
        served.setdefault(each.name, []).append(str(each.number))
    reasons: dict[str, str] = {}
    for entry in await client.index():
        if not entry.name.startswith("."):
            reasons[entry.name] = reasons.get(entry.name) or entry.reason
    names = sorted({*served, *reasons})
    configs = await _configs(client, sorted(served))
    models = [
        RepositoryModel(
            name=name,
            versions=served.get(name, []),
            reason="" if name in served else _cut(reasons[name], full=full),
            config=configs.get(name),
        )
        for name in names
    ]
    return RepositoryList(models=models, total=len(models))


async def _configs(client: TritonClient, names: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Return the configurations of models. Raises ``TritonError``, also for too large ones."""
    found, left = dict[str, dict[str, Any]](), MAX_CONFIG_BYTES
    for name in names:
        body = await client.config(name)
        if body is None:
            continue
        left -= len(body)
        if left < 0:
            raise TritonError(
                f"Its models' configurations have over {MAX_CONFIG_BYTES / 1e6:g} MB together"
            )
        found[name] = decode(body, dict[str, Any])
    return found


def _cut(reason: str, *, full: bool) -> str:
    """Return a reason, or its first line."""
    return reason if full else reason.partition("\n")[0][:300]
