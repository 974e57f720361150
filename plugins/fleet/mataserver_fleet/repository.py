"""A Triton's model repository and what it serves, as it reports both."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from msgspec import Struct

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mataserver_fleet.triton_answers import IndexEntry
    from mataserver_fleet.triton_client import TritonClient


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
    """Ask a Triton for its models by name. Raises ``TritonError``.

    Its index may lack what was pushed to it, and lists hidden folders, which are left out.
    Without ``full`` reasons are cut to a line: the rest may be a traceback.
    """
    served: dict[str, list[str]] = {}
    for each in sorted(await client.counts(), key=lambda count: count.number):
        served.setdefault(each.name, []).append(str(each.number))
    indexed = [each for each in await client.index() if not each.name.startswith(".")]
    names = sorted({*served, *(each.name for each in indexed)})
    models = [
        RepositoryModel(
            name=name,
            versions=served.get(name, []),
            reason="" if name in served else _reason(name, indexed, full=full),
            config=await client.config(name) if name in served else None,
        )
        for name in names
    ]
    return RepositoryList(models=models, total=len(models))


def _reason(name: str, indexed: Iterable[IndexEntry], *, full: bool) -> str:
    reason = next((each.reason for each in indexed if each.name == name and each.reason), "")
    return reason if full else reason.partition("\n")[0][:300]
