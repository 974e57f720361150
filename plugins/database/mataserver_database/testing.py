"""For the tests of plugins that keep something: a real PostgreSQL in a folder of its own."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

USER = "mata"


def _binaries() -> Path:
    """Return the newest installation. Raises ``FileNotFoundError`` without one."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if not found:
        raise FileNotFoundError("PostgreSQL is not installed: apt install postgresql")
    return found[-1].parent


def _run(*command: object) -> None:
    """Run as another user than root, whom PostgreSQL refuses."""
    prefix = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
    subprocess.run([*prefix, *map(str, command)], check=True, capture_output=True, cwd="/")  # noqa: S603 - fixed programs


async def new_database(server: str, name: str) -> str:
    """Make an empty database on a server; return its URL."""
    import asyncpg

    connection = await asyncpg.connect(server)
    try:
        await connection.execute(f'CREATE DATABASE "{name}"')
    finally:
        await connection.close()
    return server.rpartition("/")[0] + f"/{name}"


@contextlib.contextmanager
def running_postgres() -> Iterator[str]:
    """Run a server until the context ends; give the URL of its ``postgres`` database.

    Needs Debian's ``postgresql``. Raises ``FileNotFoundError`` without it.
    """
    folder = Path(tempfile.mkdtemp(prefix="postgres-"))
    if os.geteuid() == 0:
        account = pwd.getpwnam("postgres")
        os.chown(folder, account.pw_uid, account.pw_gid)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    options = f"-p {port} -k {folder} -c listen_addresses=127.0.0.1 -c fsync=off"
    control = [_binaries() / "pg_ctl", "-D", folder / "data", "-w"]
    try:
        _run(_binaries() / "initdb", "-D", folder / "data", "-A", "trust", "-U", USER, "--no-sync")
        _run(*control, "-o", options, "-l", folder / "log", "start")
        yield f"postgresql://{USER}@127.0.0.1:{port}/postgres"
        _run(*control, "-m", "immediate", "stop")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
