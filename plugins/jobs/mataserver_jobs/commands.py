"""The commands ``mataserver jobs …``: they ask the running server."""

from __future__ import annotations

import errno
import functools
import os
import tempfile
import zipfile
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import click
import msgspec

from mataserver import (
    BadRequest,
    MataError,
    NotFound,
    connected,
    params_option,
    printable,
    server_options,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mataserver import Client

PAGE = 1000
_STATES = ("queued", "running", "done", "failed", "cancelled")


@click.group()
def jobs() -> None:
    """Start, follow and remove jobs of the running server."""


def _with_client(command: Callable[..., None]) -> Callable[..., None]:
    """Return a command that is given a client of the server."""

    @server_options
    @functools.wraps(command)
    def run(*, url: str | None, api_key: str | None, config_file: str | None, **given: Any) -> None:
        with connected(url, api_key, config_file) as client:
            command(client, **given)

    return run


@jobs.command()
@click.argument("model")
@click.argument("path", type=click.Path(path_type=Path), metavar="VIDEO")
@params_option
@click.option("--every", type=click.IntRange(1), default=1, help="Each how many frames one.")
@click.option("--limit", type=click.IntRange(1), help="How many at most.")
@click.option("--annotate/--no-annotate", default=None, help="Whether to draw what was found.")
@click.option("--on-server", is_flag=True, help="VIDEO is a path of the server's machine.")
@click.option("--wait", is_flag=True, help="Wait for its end, and tell how far it is.")
@_with_client
def infer(
    client: Client,
    model: str,
    path: Path,
    params: dict[str, Any],
    *,
    on_server: bool,
    wait: bool,
    **options: Any,
) -> None:
    """Run a model over a VIDEO, a ZIP or a folder of pictures. Prints the job's id."""
    asked = {"model": model, "params": params, **options}
    asked = {name: value for name, value in asked.items() if value is not None}
    if on_server:
        asked["path"] = str(path)
    else:
        # What is misspelt is told before a file of gigabytes has gone its way.
        client.request("POST", "/v1/jobs/infer/check", asked)
        asked["upload"] = _upload(client, path)
    job = client.create_job("infer", **asked)
    click.echo(job)
    if wait:
        _follow(client, job)


@jobs.command("list")
@click.option("--state", "states", multiple=True, type=click.Choice(_STATES), help="Several times.")
@click.option("--kind", help="Only jobs of this kind.")
@click.option("--limit", type=click.IntRange(1), default=100, show_default=True)
@_with_client
def list_jobs(client: Client, states: tuple[str, ...], kind: str | None, limit: int) -> None:
    """List jobs, the newest first.

    Of each: its id, kind, state, percent, when it was made, and its message.
    """
    query = {"state": ",".join(states), "omit": "spec,result"} | ({"kind": kind} if kind else {})
    for job in _jobs(client, query, limit):
        made = datetime.fromtimestamp(job["created_at"], UTC).strftime("%Y-%m-%d %H:%M UTC")
        shown = (job["id"], job["kind"], job["state"], f"{job['progress']:.0f}%", made)
        click.echo("\t".join((*shown, _first_line(job["message"]))))


@jobs.command()
@click.argument("job")
@_with_client
def show(client: Client, job: str) -> None:
    """Show a job as JSON, with the files of its result."""
    found = client.request("GET", _place(job)).decode(dict[str, Any])
    listed = client.request("GET", f"{_place(job)}/files").decode(dict[str, Any])
    click.echo(msgspec.json.format(msgspec.json.encode(found | listed)).decode())


@jobs.command()
@click.argument("job")
@_with_client
def log(client: Client, job: str) -> None:
    """Print what a job's process printed."""
    query = {"bytes": "1000000"}
    click.echo(client.request("GET", f"{_place(job)}/log", query=query).body.decode(), nl=False)


@jobs.command()
@click.argument("job")
@_with_client
def cancel(client: Client, job: str) -> None:
    """Have a job stop."""
    client.cancel_job(job)
    click.echo(f"cancelled {job}")


@jobs.command()
@click.argument("job")
@click.option("--spec", default="{}", metavar="JSON", help="Options in place of those it had.")
@_with_client
def restart(client: Client, job: str, spec: str) -> None:
    """Run a job that has ended once more, with what it was given."""
    try:
        options = msgspec.json.decode(spec, type=dict[str, Any])
    except msgspec.DecodeError:
        raise click.UsageError("--spec: expected a JSON object") from None
    client.request("POST", f"{_place(job)}/restart", {"spec": options})
    click.echo(f"restarted {job}")


@jobs.command()
@click.argument("job")
@_with_client
def rm(client: Client, job: str) -> None:
    """Remove a job that has ended, with its files."""
    client.delete_job(job)
    click.echo(f"removed {job}")


@jobs.command()
@click.argument("job")
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path), default=Path())
@_with_client
def get(client: Client, job: str, folder: Path) -> None:
    """Download the files of a job's result to FOLDER."""
    unprinted: list[OSError] = []

    def tell(path: Path) -> None:
        try:
            click.echo(path)
        except OSError as error:  # of the output, not of the folder
            unprinted.append(error)
            raise

    try:
        client.download_job(job, folder, progress=tell)
    except OSError as error:
        if error in unprinted:
            raise
        reason = error.strerror or error
        raise MataError(f"the files cannot be written to {folder}: {reason}") from None


def _jobs(client: Client, query: dict[str, str], limit: int) -> Iterator[dict[str, Any]]:
    """Yield jobs, the newest first, each once also while others come and go."""
    while limit > 0:
        query |= {"limit": str(min(limit, PAGE))}
        page = client.request("GET", "/v1/jobs", query=query).decode(dict[str, Any])
        yield from page["jobs"]
        limit -= len(page["jobs"])
        if "next_cursor" not in page:
            return
        query |= {"cursor": page["next_cursor"]}


def _place(job: str) -> str:
    return f"/v1/jobs/{quote(job, safe='')}"


def _upload(client: Client, path: Path) -> str:
    """Send a file, or a folder's files as a ZIP; return the upload's id.

    Raises ``NotFound`` for a path that is not there, ``BadRequest`` for one that cannot be sent.
    """
    if not path.exists():
        raise NotFound(f"there is no {path}; for a path of the server's machine say --on-server")
    try:
        return _send_folder(client, path) if path.is_dir() else client.send_file(path, _print_sent)
    except OSError as error:  # a pipe, which cannot be read again from where a connection broke
        reason = "it is a pipe: save it as a file" if path.is_fifo() else error.strerror or error
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            reason = f"{reason} in {tempfile.gettempdir()}, where its ZIP is made"
        raise BadRequest(f"{path} cannot be sent: {reason}") from None


def _send_folder(client: Client, path: Path) -> str:
    entries: dict[str, Path] = {}
    for each in sorted(path.iterdir()):
        if each.is_file() and not each.name.startswith("."):
            name = _entry_name(each.name)
            if entries.setdefault(name, each) != each:  # the answers name the files
                raise BadRequest(f"{path} has two files {name}, in UTF-8 and Latin-1: rename one")
    if not entries:
        raise BadRequest(f"{path} has no pictures; what is in its folders is not sent")
    with tempfile.TemporaryFile() as packed:  # without a name: it goes with this process
        # Pictures do not shrink; and a ZIP's time begins in 1980.
        with zipfile.ZipFile(packed, "w", zipfile.ZIP_STORED, strict_timestamps=False) as archive:
            for name, each in entries.items():
                archive.write(each, name)
        called = path.resolve().name or "pictures"
        return client.send_file(packed, _print_sent, name=called)


def _entry_name(name: str) -> str:
    """Return a name that can be written in UTF-8: one that is not is taken for Latin-1."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return os.fsencode(name).decode("latin-1")
    return name


def _print_sent(sent: int, size: int) -> None:
    _print_progress(f"sent {100 * sent // size}%")


def _follow(client: Client, job: str) -> None:
    """Tell how far a job is until its end. Raises ``MataError`` unless it is done."""
    told = ""
    for shown in client.follow_job(job):
        before, told = told, f"{shown.progress:3.0f}% {_first_line(shown.message)}"
        if told != before:  # else its stage is another, or its attempt
            _print_progress(told)
    if shown.state != "done":
        raise MataError(shown.error or f"the job was {shown.state}")


def _print_progress(text: str) -> None:
    click.echo(text, err=True)


def _first_line(text: str) -> str:
    return " ".join(printable(text).split())
