"""``mataserver cluster``: the nodes that the running server has workers on."""

from __future__ import annotations

import json

import click
from msgspec import Struct

from mataserver.cli.environment import UNKNOWN
from mataserver.cli.remote import connected, server_options
from mataserver.errors import MataError

HEADER = ("NODE", "CPU FREE", "GPU FREE", "MEMORY FREE (MB)", "WORKERS")


class NodeRow(Struct):
    """A node of ``GET /v1/cluster``."""

    id: str
    name: str
    total: dict[str, float]
    free: dict[str, float]
    workers: list[str]


@click.group()
def cluster() -> None:
    """Look after the Ray cluster of the running server."""


@cluster.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@server_options
def status(*, as_json: bool, url: str | None, api_key: str | None, config_file: str | None) -> None:
    """List the nodes, the room that they have, and the workers on them."""
    from mataserver_client import NotFound

    with connected(url, api_key, config_file) as client:
        try:
            answer = client.request("GET", "/v1/cluster")
        except NotFound:
            raise MataError("the server has no model with the engine ray") from None
        nodes, queues = answer.decode(list[NodeRow]), client.queues()
    if as_json:
        click.echo(json.dumps(json.loads(answer.body), indent=2))
        return
    for line in _table(nodes):
        click.echo(line)
    for model in sorted({name for node in nodes for name in node.workers}):
        click.echo(f"{model}: {queues.get(model, 0)} waiting")


def _table(nodes: list[NodeRow]) -> list[str]:
    """Return the table's lines; numbers stand on the right."""
    rows = [HEADER, *map(_cells, nodes)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEADER))]
    return [
        "  ".join(
            f"{cell:>{width}}" if 1 <= column <= 3 else f"{cell:<{width}}"
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def _cells(node: NodeRow) -> tuple[str, ...]:
    return (
        node.name,
        _of(node, "CPU"),
        _of(node, "GPU"),
        _of(node, "memory", 1e6),
        ", ".join(_counted(node.workers)) or UNKNOWN,
    )


def _of(node: NodeRow, what: str, unit: float = 1.0) -> str:
    """Return what is left of something, and how much there is, to a hundredth."""
    free, total = (round(each.get(what, 0.0) / unit, 2) for each in (node.free, node.total))
    return f"{free:.12g} of {total:.12g}"


def _counted(workers: list[str]) -> list[str]:
    """Return each model once, with how many workers it has when there are several."""
    found = sorted(set(workers))
    return [f"{n} x{workers.count(n)}" if workers.count(n) > 1 else n for n in found]
