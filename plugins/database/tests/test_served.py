"""The database as a service of a real server."""

from __future__ import annotations

import asyncio
import errno
import os
import stat
import subprocess
import sys

import aiohttp
import pytest

from mataserver import MataError
from mataserver.testing import FAKE, check_plugin, installed, serving
from mataserver_database import Database, lifetime
from mataserver_database.testing import new_database


def test_the_plugin_is_sound():
    """Its hooks are well formed and import no framework."""
    assert check_plugin("database") == []


async def test_sqlite(tmp_path):
    """Without a setting it is a file of the data directory, which nobody else may read."""
    async with serving(tmp_path, entry_points=installed("database")) as server:
        assert stat.S_IMODE((tmp_path / "mataserver.db").stat().st_mode) == 0o600
        async with aiohttp.ClientSession() as http, http.get(f"{server.url}/ready") as response:
            assert response.status == 200


def test_a_first_start_is_quiet(tmp_path, schema):
    """Migrations log which version there is now, and nothing of the library that runs them."""
    code = (
        "import asyncio, logging, sys; sys.path.insert(0, sys.argv[2])\n"
        "from pathlib import Path; from mataserver_database import Database, Schema\n"
        "logging.basicConfig(level=logging.INFO, format='%(name)s: %(message)s')\n"
        "async def main():\n"
        "    database = Database(Path(sys.argv[1]))\n"
        "    await database.migrate(Schema('guest', 'guest_tables'))\n"
        "    await database.close()\n"
        "asyncio.run(main())"
    )
    command = [sys.executable, "-c", code, str(tmp_path), str(schema.folder.parent.parent)]
    ran = subprocess.run(command, capture_output=True, text=True, check=True)
    assert ran.stderr == "mataserver.plugin.database: schema guest is at version 0002\n"


async def test_the_environment(tmp_path, postgres):
    """DATABASE_URL names the database."""
    url = await new_database(postgres, "environment")
    (tmp_path / ".env").write_text(f"DATABASE_URL={url}\n")
    async with serving(tmp_path, entry_points=installed("database")):
        assert not (tmp_path / "mataserver.db").exists()


@pytest.mark.parametrize("url", ["postgresql://mata@127.0.0.1:1/none", "mysql://127.0.0.1/x"])
async def test_a_wrong_database(tmp_path, url):
    """A server whose database does not answer, or is of another kind, does not start."""
    with pytest.raises(MataError, match=r"does not answer|plugins\.database\.url"):
        async with serving(
            tmp_path,
            entry_points=[FAKE, *installed("database")],
            plugins={"database": {"url": url}},
        ):
            pass


async def test_a_url_that_is_wrong_for_a_while(tmp_path, monkeypatch):
    """``GET /ready`` tells that the database does not answer, and notices when it does again."""
    monkeypatch.setattr(lifetime, "PROBE_SECONDS", 0.01)
    async with (
        serving(tmp_path, entry_points=installed("database")) as server,
        aiohttp.ClientSession() as http,
    ):

        async def wait_for(status):
            async with asyncio.timeout(20):
                while True:
                    async with http.get(f"{server.url}/ready") as response:
                        if response.status == status:
                            return await response.text()

        async def wrong(_self):
            raise MataError("plugins.database.url: a certificate that is no certificate")

        with monkeypatch.context() as patch:
            patch.setattr(Database, "check", wrong)
            told = await wait_for(503)
        assert "does not answer" in told
        assert "certificate" not in told
        await wait_for(200)


async def test_a_database_that_goes_away(tmp_path, postgres):
    """``GET /ready`` tells that it does not answer, and forgets it when it does again."""
    url = await new_database(postgres, "leaving")
    plugins = {"database": {"url": url, "timeout": 1.0}}
    async with (
        serving(tmp_path, entry_points=installed("database"), plugins=plugins) as server,
        aiohttp.ClientSession() as http,
    ):
        await _execute(postgres, 'ALTER DATABASE "leaving" ALLOW_CONNECTIONS false')
        await _execute(
            postgres,
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'leaving'",
        )
        assert "database: The database does not answer now" in await _ready(http, server, 503)
        await _execute(postgres, 'ALTER DATABASE "leaving" ALLOW_CONNECTIONS true')
        await _ready(http, server, 200)


async def test_a_newer_server_migrates_the_database(tmp_path, postgres):
    """``GET /ready`` tells so: its tables may not be those that this server knows any more."""
    url = await new_database(postgres, "newer")
    points = installed("database", "accounts")
    async with (
        serving(tmp_path, entry_points=points, plugins={"database": {"url": url}}) as server,
        aiohttp.ClientSession() as http,
    ):
        await _ready(http, server, 200)
        await _execute(url, "UPDATE accounts_version SET version_num = '0099'")
        assert "The database holds accounts 0099, newer than" in await _ready(http, server, 503)


async def test_a_file_that_is_removed(tmp_path):
    """``GET /ready`` tells that SQLite's file is gone, and forgets it when it is back."""
    async with (
        serving(tmp_path, entry_points=installed("database")) as server,
        aiohttp.ClientSession() as http,
    ):
        (tmp_path / "mataserver.db").rename(tmp_path / "away")
        assert "database: The database's file was removed" in await _ready(http, server, 503)
        (tmp_path / "away").rename(tmp_path / "mataserver.db")
        await _ready(http, server, 200)


async def _execute(server, statement):
    import asyncpg

    connection = await asyncpg.connect(server)
    await connection.execute(statement)
    await connection.close()


async def _ready(http, server, wanted):
    """Ask until the answer has a status; return it."""
    async with asyncio.timeout(15):
        while True:
            async with http.get(f"{server.url}/ready") as response:
                if response.status == wanted:
                    return await response.text()
            await asyncio.sleep(0.1)


@pytest.mark.parametrize(("number", "said"), [(errno.EROFS, "Read-only"), (None, "Is a dir")])
async def test_a_file_that_cannot_be_written_is_named(tmp_path, monkeypatch, number, said):
    """Who starts the server learns which file it is and what is wrong; a client does not."""
    (tmp_path / "mataserver.db").mkdir()
    opening = os.open

    def opened(path, *given):
        if number and str(path).endswith("mataserver.db"):
            raise OSError(number, os.strerror(number))
        return opening(path, *given)

    monkeypatch.setattr("mataserver_database.file.os.open", opened)
    with pytest.raises(MataError) as caught:
        async with serving(tmp_path, entry_points=installed("database")):
            pass
    assert caught.value.hint.startswith(f"{tmp_path / 'mataserver.db'}: {said}")
    assert "data_dir" in caught.value.detail
    assert str(tmp_path) not in caught.value.detail
