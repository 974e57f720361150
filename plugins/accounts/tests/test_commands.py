"""The commands ``mataserver users`` and ``mataserver keys``, on both databases."""

from __future__ import annotations

import asyncio

import pytest
from click.testing import CliRunner

from api_answers import until
from cli_terminal import log_restored
from mataserver.cli import cli
from mataserver_accounts import commands


@pytest.fixture
def run(url, tmp_path, monkeypatch):
    """Return what runs a command on the test's database; it gives status, output and errors."""
    monkeypatch.chdir(tmp_path)
    runner = CliRunner(env={"MATA_SERVER_DATA_DIR": str(tmp_path), "DATABASE_URL": url})

    async def run(*arguments, typed=""):
        with log_restored():
            done = await asyncio.to_thread(runner.invoke, cli, arguments, input=typed)
        return done.exit_code, done.stdout, done.stderr

    return run


async def refused(client, token, status):
    """Wait until the server that runs has heard that a token is no longer good."""

    async def asked():
        return (await client.ask("GET", "/v1/me", token))[0] == status

    await until(asked)


async def test_users(run, serve):
    """Users are made, listed, changed and removed; a server that runs beside it follows."""
    status, out, err = await run("users", "add", "ada", "--role", "admin", typed="correct horse\n")
    assert (status, out) == (0, "created the user ada (admin)\n"), err
    assert (await run("users", "add", "bob", "--tag", "night", typed="correct horse\n"))[0] == 0
    lines = [line.split("\t")[:4] for line in (await run("users", "list"))[1].splitlines()]
    assert lines == [["ada", "admin", "-", "-"], ["bob", "viewer", "-", "night"]]
    async with serve() as client:
        token = await client.token("bob")
        assert (await run("users", "disable", "bob"))[0] == 0
        await refused(client, token, 401)
        assert (await run("users", "enable", "bob"))[0] == 0
        assert (await run("users", "passwd", "bob", typed="new\n"))[0] == 0
        await client.token("bob", "new")
        assert (await run("users", "rm", "bob"))[0] == 0
    assert (await run("users", "rm", "ada"))[::2] == (1, "error: ada is the last administrator\n")


async def test_a_password_of_ones_own(run, serve):
    """A user gives themselves another password on the running server, with the current one."""
    async with serve() as client:
        await client.user("ada")
        command = ("passwd", "ada", "--url", client.server.url)
        status, out, err = await run(*command, typed="correct horse\nbattery staple\n")
        assert (status, out) == (0, "ada has another password\n"), err
        await client.token("ada", "battery staple")
        status, _, err = await run(*command, typed="correct horse\nx\n")
        assert (status, err) == (1, "error: Invalid credentials\n")
        status, _, err = await run(*command, typed="battery staple\n")
        assert (status, err.startswith("error: a password is needed")) == (1, True)


async def test_keys(run, serve):
    """A key is printed once, listed without its secret, and refused once it is revoked."""
    status, out, err = await run(
        "keys", "add", "door camera", "--scope", "infer", "--expires", "1h"
    )
    assert status == 0, err
    key = out.strip()
    listed = (await run("keys", "list"))[1]
    assert key not in listed
    key_id, name, owner, scopes, rate, _ = listed.strip().split("\t")
    assert (name, owner, scopes, rate) == ("door camera", "-", "infer", "-")
    async with serve() as client:
        assert (await client.ask("GET", "/v1/me", key))[0] == 200
        assert (await run("keys", "rm", key_id))[0] == 0
        await refused(client, key, 403)


def test_a_row_is_no_terminals_command(capsys):
    """A name of before such names were refused colours nothing, and turns nothing round."""
    commands._print_row("id", "do\u202eor\x1b[31m", "-")
    assert capsys.readouterr().out == "id\tdo or [31m\t-\n"


async def test_wrong_commands(run):
    """What cannot be is one line on standard error; a password is never an argument."""
    for arguments, wanted in (
        (("users", "add", "Ada"), "name: 'Ada' cannot be one"),
        (("users", "add", "ada"), "a password is needed"),
        (("users", "add", "ada", "--tag", "a\tb"), "tags: "),
        (("keys", "add", "door\u202egnp", "--scope", "infer"), "name: "),
        (("users", "passwd", "nobody"), "User not found: nobody"),
        (("keys", "add", "x", "--scope", "fly"), "there is no 'fly'"),
        (("keys", "add", "x", "--scope", "infer", "--owner", "nobody"), "User not found"),
        (("keys", "rm", "nothing"), "Key not found"),
    ):
        status, out, err = await run(*arguments)
        assert (status, out) == (1, ""), arguments
        assert err.startswith("error: "), err
        assert wanted in err
        assert err.count("\n") == 1
    assert (await run("users", "add", "ada", "secret"))[0] == 2
    assert (await run("keys", "add", "x", "--scope", "infer", "--expires", "soon"))[0] == 2
