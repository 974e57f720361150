"""``mataserver cluster``: the nodes with workers of the running server, and its front-ends."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click
from msgspec import Struct

from mataserver.cli.environment import UNKNOWN, table
from mataserver.cli.remote import connected, server_options
from mataserver.errors import MataError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from mataserver_client import Client
    from mataserver_client.transport import Answer

HEADER = ("NODE", "STATE", "CPU FREE", "GPU FREE", "MEMORY FREE (MB)", "WORKERS")
FRONTENDS_HEADER = ("FRONT-END", "ID", "STATE", "SESSIONS")


class NodeRow(Struct):
    """A node of ``GET /v1/cluster``."""

    id: str
    name: str
    total: dict[str, float]
    free: dict[str, float]
    workers: list[str]
    state: str = UNKNOWN


class FrontendRow(Struct):
    """A front-end of ``GET /v1/frontends``."""

    id: str
    address: str
    here: bool
    alive: bool
    sessions: int


@click.group()
def cluster() -> None:
    """Show the Ray cluster and the front-ends."""


@cluster.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@server_options
def status(*, as_json: bool, url: str | None, api_key: str | None, config_file: str | None) -> None:
    """List the nodes, with free room and workers.

    Of several front-ends, each is listed below them.
    """
    with connected(url, api_key, config_file) as client:
        nodes, fronts = _request(client, "/v1/cluster"), _request(client, "/v1/frontends")
        queues = {} if nodes is None else client.queues()
    if nodes is None and (fronts is None or as_json):
        raise MataError("the server has no model with the engine ray")
    if nodes is not None:
        _print(nodes, _node_lines(nodes.decode(list[NodeRow]), queues), as_json=as_json)
    if fronts is not None and not as_json:
        _print(fronts, _frontend_lines(fronts.decode(list[FrontendRow])), as_json=False)


@cluster.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@server_options
def frontends(
    *, as_json: bool, url: str | None, api_key: str | None, config_file: str | None
) -> None:
    """List the front-ends, with state and sessions."""
    with connected(url, api_key, config_file) as client:
        answer = _request(client, "/v1/frontends")
    if answer is None:
        raise MataError("the server has no shared_dir")
    _print(answer, _frontend_lines(answer.decode(list[FrontendRow])), as_json=as_json)


def _request(client: Client, path: str) -> Answer | None:
    """Return the server's answer, None if it has no such route."""
    from mataserver_client import NotFound

    try:
        return client.request("GET", path)
    except NotFound:
        return None


def _print(answer: Answer, lines: Iterable[str], *, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(json.loads(answer.body), indent=2))
        return
    for line in lines:
        click.echo(line)


def _node_lines(nodes: list[NodeRow], queues: Mapping[str, int]) -> Iterator[str]:
    """Yield the table of nodes, then the queue length of each of their models."""
    yield from table([HEADER, *map(_cells, nodes)], range(2, 5))
    for model in sorted({name for node in nodes for name in node.workers}):
        yield f"{model}: {queues.get(model, 0)} waiting"


def _frontend_lines(fronts: list[FrontendRow]) -> list[str]:
    """Return the table of front-ends, with the requested one marked."""
    rows = [
        (
            each.address + (" *" if each.here else ""),
            each.id,
            "alive" if each.alive else "silent",
            str(each.sessions),
        )
        for each in fronts
    ]
    return table([FRONTENDS_HEADER, *rows], {3})


def _cells(node: NodeRow) -> tuple[str, ...]:
    return (
        node.name,
        node.state,
        _usage(node, "CPU"),
        _usage(node, "GPU"),
        _usage(node, "memory", 1e6, digits=0),
        ", ".join(_worker_count(node.workers)) or UNKNOWN,
    )


def _usage(node: NodeRow, what: str, unit: float = 1.0, digits: int = 2) -> str:
    """Return a resource's free and total amounts, rounded to ``digits`` decimals."""
    free, total = (round(each.get(what, 0.0) / unit, digits) for each in (node.free, node.total))
    return f"{free:.12g} of {total:.12g}"


def _worker_count(workers: list[str]) -> list[str]:
    """Return each model once, with its number of workers if several."""
    found = sorted(set(workers))
    return [f"{n} x{workers.count(n)}" if workers.count(n) > 1 else n for n in found]
