"""``mataserver ps``: the models in the running server's memory, and their activity."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

import click

from mataserver.cli.environment import UNKNOWN, table
from mataserver.cli.remote import connected, server_options
from mataserver.printing import printable

if TYPE_CHECKING:
    from mataserver_client import Client

HEADER = ("MODEL", "TASK", "STATE", "MEMORY (MB)", "QUEUE", "SESSIONS", "LAST USED")
_AWAY = frozenset({"unloaded", "evicted"})


@click.command()
@click.option("-a", "--all", "every", is_flag=True, help="Also the models that are not loaded.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@server_options
def ps(
    *, every: bool, as_json: bool, url: str | None, api_key: str | None, config_file: str | None
) -> None:
    """List the models that are in memory."""
    with connected(url, api_key, config_file) as client:
        rows = _rows(client, every=every)
    if as_json:
        click.echo(json.dumps(rows, indent=2))
    elif not rows:
        click.echo("No models in memory.")
    else:
        for line in table([HEADER, *map(_cells, rows)], range(3, 6)):
            click.echo(line)
        for row in rows:
            if row["error"] is not None:
                click.echo(f"{row['model']}: {printable(row['error'])}")


def _rows(client: Client, *, every: bool) -> list[dict[str, Any]]:
    queues, sessions = client.queues(), client.sessions()
    rows = []
    for info in sorted(client.models(), key=lambda each: each.model):
        error = info.error if isinstance(info.error, str) else None
        if info.state in _AWAY and error is None and not every:
            continue
        row = {
            "model": info.model,
            "task": info.task,
            "state": info.state,
            "memory_mb": info.memory_mb,
            "queue": queues.get(info.model, 0),
            "sessions": sum(session["model"] == info.model for session in sessions),
            "loaded_at": info.loaded_at,
            "last_used": info.last_used,
            "error": error,
        }
        rows.append(row)
    return rows


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    memory, used = row["memory_mb"], row["last_used"]
    return (
        row["model"],
        row["task"],
        row["state"],
        UNKNOWN if memory is None else f"{memory:.1f}",
        str(row["queue"]),
        str(row["sessions"]),
        UNKNOWN if used is None else _ago(time.time() - used),
    )


def _ago(seconds: float) -> str:
    """Format a duration in its largest unit."""
    for unit, length in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:.0f} {unit} ago"
    return f"{max(0.0, seconds):.0f} s ago"
