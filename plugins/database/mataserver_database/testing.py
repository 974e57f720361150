"""For the tests of plugins that keep something: a real PostgreSQL in a folder of its own."""

from __future__ import annotations

import contextlib
import os
import pwd
import random
import shutil
import socket
import subprocess
import tempfile
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

from mataserver_database.database import FILE, Database

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mataserver_database.schema import Schema

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


async def new_database(server: str, name: str, template: str = "template1") -> str:
    """Make a database on a server, an empty one or the copy of another; return its URL."""
    import asyncpg

    connection = await asyncpg.connect(server)
    try:
        await connection.execute(f'CREATE DATABASE "{name}" TEMPLATE "{template}"')
    finally:
        await connection.close()
    return server.rpartition("/")[0] + f"/{name}"


class Template:
    """A database of each kind with the tables of some plugins: made once, and copied for tests.

    ``folder`` is empty.
    """

    def __init__(self, folder: Path, *schemas: Schema) -> None:
        self._folder = folder
        self._schemas = schemas
        self._name = ""

    async def file(self, data_dir: Path) -> None:
        """Have a data directory hold SQLite's, unless it holds one."""
        kept = self._folder / FILE
        if not kept.exists():
            await self._make(None)
        _copied(kept, data_dir / FILE)

    async def database(self, server: str, name: str) -> str:
        """Make a copy on a PostgreSQL server, always the same one; return its URL."""
        if not self._name:
            self._name = f"template_{uuid.uuid4().hex}"
            await self._make(await new_database(server, self._name))
        return await new_database(server, name, self._name)

    async def _make(self, url: str | None) -> None:
        made = Database(self._folder, url)
        for schema in self._schemas:
            await made.migrate(schema)
        await made.close()


class Postgres:
    """A server in a folder of its own, which can be stopped and started again at its address."""

    def __init__(self, folder: Path) -> None:
        if os.geteuid() == 0:
            account = pwd.getpwnam("postgres")
            os.chown(folder, account.pw_uid, account.pw_gid)
        self._folder = folder
        self._port = _free_port()
        self._control = [_binaries() / "pg_ctl", "-D", folder / "data", "-w"]
        self._runs = False
        _run(_binaries() / "initdb", "-D", folder / "data", "-A", "trust", "-U", USER, "--no-sync")

    @property
    def url(self) -> str:
        """The URL of its database ``postgres``."""
        return f"postgresql://{USER}@127.0.0.1:{self._port}/postgres"

    def start(self) -> None:
        """Run it; return when it takes connections."""
        options = f"-p {self._port} -k {self._folder} -c listen_addresses=127.0.0.1 -c fsync=off"
        _run(*self._control, "-o", options, "-l", self._folder / "log", "start")
        self._runs = True

    def stop(self) -> None:
        """End it at once, as a crash does, if it runs."""
        if self._runs:
            _run(*self._control, "-m", "immediate", "stop")
        self._runs = False


def _copied(kept: Path, wanted: Path) -> None:
    if not wanted.exists():
        wanted.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(kept, wanted)


@contextlib.contextmanager
def postgres_server() -> Iterator[Postgres]:
    """Run a server until the context ends.

    Needs Debian's ``postgresql``. Raises ``FileNotFoundError`` without it.
    """
    folder = Path(tempfile.mkdtemp(prefix="postgres-"))
    try:
        server = Postgres(folder)
        try:
            server.start()
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def running_postgres() -> Iterator[str]:
    """Run a server until the context ends; give the URL of its ``postgres`` database.

    Needs Debian's ``postgresql``. Raises ``FileNotFoundError`` without it.
    """
    with postgres_server() as server:
        yield server.url


def _free_port() -> int:
    """Return a port that nobody has, below those that the system gives to clients.

    One of those might be a client's when a server that was stopped is started again.
    """
    while True:
        port = random.randrange(20_000, 30_000)  # noqa: S311 - no secret
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            return port
