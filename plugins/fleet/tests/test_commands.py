"""The commands ``mataserver fleet``, with a stand-in for a Triton."""

from __future__ import annotations

import asyncio
import datetime as dt
import subprocess
import sys

import yaml
from commands_client import client, url
from onnx_files import adding
from stand_in_fleet import until
from stand_in_triton import stand_ins
from test_models import CONFIG

from mataserver_fleet import fleet_client as fleet_client_of_commands

__all__ = ["client", "url"]


def test_a_row_is_no_terminals_command(capsys):
    """What a Triton says of a model is shown as one line, and colours nothing."""
    fleet_client_of_commands.print_row("m", 3, "cannot\tload \x1b[31m\x9b1m\u202eit\nTraceback")
    assert capsys.readouterr().out == "m\t3\tcannot load  [31m 1m it\n"


async def test_an_operators_day(run, tmp_path):
    """A Triton, a model that is pushed, changed and rolled back, an application, a consumer."""
    folder = tmp_path / "shelf"
    (folder / "1").mkdir(parents=True)
    (folder / "config.pbtxt").write_text(CONFIG)
    (folder / "labels.txt").write_text("milk\n")
    (folder / "1" / "model.onnx").write_bytes(adding(1))
    async with stand_ins(1) as (triton,):
        added = await run("tritons", "add", "gpu-1", "127.0.0.1", str(triton.port))
        assert added == (0, "registered gpu-1\n", "")
        said = "added version 1 to shelf\nshelf is loaded at gpu-1\n"
        assert await run("models", "push", str(folder), "--load") == (0, said, "")
        again = await run("models", "push", str(folder))
        assert again == (0, "shelf has version 1 already\n", "")
        (folder / "2").mkdir()
        (folder / "2" / "model.onnx").write_bytes(adding(2))
        status, out, _ = await run("models", "push", str(folder))
        assert (status, out.splitlines()[1]) == (0, "added version 2 to shelf")
        assert await run("load", "shelf") == (0, "shelf is loaded at gpu-1\n", "")
        assert triton.models["shelf"]["files"]["2/model.onnx"] == adding(2)
        rolled = await run("models", "rollback", "shelf")
        assert rolled == (0, "shelf is rolled back at gpu-1\n", "")
        assert triton.models["shelf"]["versions"] == ["1"]
        status, _, err = await run("models", "rollback", "shelf")
        assert (status, "no version before" in err) == (1, True)
        line = (await run("models", "list"))[1].split("\t")
        assert line[:3] == ["shelf", "2,1", "ready"]
        (folder / "labels.txt").unlink()
        (folder / "1").rename(tmp_path / "1")
        (folder / "2").rename(tmp_path / "2")
        (folder / "3").mkdir()
        (folder / "3" / "model.onnx").write_bytes(b"x" * 16_500_000)
        pushed = await run("models", "push", str(folder))
        assert pushed == (0, "added version 3 to shelf\n", "")
        (tmp_path / "1").rename(folder / "1")
        (folder / "1" / "model.onnx").write_bytes(adding(9))
        status, _, err = await run("models", "push", str(folder))
        assert (status, "never changes" in err) == (1, True)
        assert (await run("apps", "add", "shop", "--resend"))[0] == 0
        status, out, _ = await run("apps", "route", "shop", "shelf")
        assert (status, out.endswith("/gateway/shop/v2/models/shelf\n")) == (0, True)
        status, key, _ = await run("consumers", "add", "shop", "till", "--rate", "60")
        assert (status, key.startswith("fleet_")) == (0, True)
        assert (await run("apps", "list"))[1] == "shop\t-\tshelf\ttill\n"
        assert (await run("consumers", "list"))[1] == "till\tactive\t60\t-\t-\n"
        assert (await run("consumers", "key", "till"))[1] not in {"", key}
        assert await run("unload", "shelf") == (0, "shelf is unloaded at gpu-1\n", "")
        assert (await run("tritons", "list"))[1].split("\t")[:3:2] == ["gpu-1", "ready"]
        for command in (("consumers", "rm", "till"), ("apps", "rm", "shop"),
                        ("models", "rm", "shelf"), ("tritons", "rm", "gpu-1")):  # fmt: skip
            assert (await run(*command))[0] == 0


async def test_how_a_model_is_called(run, tmp_path):
    """A route has the protocols that it is given, and keeps its paths."""
    folder = tmp_path / "shelf"
    (folder / "1").mkdir(parents=True)
    (folder / "1" / "model.onnx").write_bytes(adding(1))
    assert (await run("models", "push", str(folder)))[0] == 0
    await run("apps", "add", "shop")
    for protocols, is_now in (((), ["http"]), (("grpc", "ws"), ["grpc", "ws"])):
        options = (word for each in protocols for word in ("--protocol", each))
        assert (await run("apps", "route", "shop", "shelf", *options))[0] == 0
        offered = yaml.safe_load((await run("export"))[1])["apps"]["shop"]["routes"]["shelf"]
        assert (offered["protocols"], offered["paths"]) == (is_now, ["/v2/models/shelf"])


async def test_a_triton_that_is_away(run):
    """The list tells it, and since when it has not answered."""
    async with stand_ins(1) as (triton,):
        await run("tritons", "add", "gpu-1", "127.0.0.1", str(triton.port))

        async def told(state):
            line = (await run("tritons", "list"))[1].rstrip("\n").split("\t")
            return line[4] if line[2] == state else None

        assert await until(lambda: told("ready")) == "-"
        await triton.die()
        why = await until(lambda: told("offline"))
        moment = dt.datetime.fromisoformat(why.partition("; it answered last at ")[2])
        assert moment <= dt.datetime.now(dt.UTC)


async def test_what_goes_wrong(client, run, tmp_path):
    """A refusal is one line and status 1, and so is a server that is not there."""
    (tmp_path / "empty").mkdir()
    status, _, err = await run("models", "push", str(tmp_path / "empty"))
    assert (status, "has no version" in err) == (1, True)

    def ran(url):
        where = ("--url", url, "--api-key", client.server.key)
        return subprocess.run(
            [sys.executable, "-m", "mataserver", "fleet", "load", "absent", *where],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            check=False,
        )

    for place, said in (
        (client.server.url, "error: Model not found: absent\n"),
        ("http://127.0.0.1:9", "error: cannot reach the server"),
    ):
        done = await asyncio.to_thread(ran, place)
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.startswith(said)


async def test_lists_longer_than_a_page(run, client, monkeypatch):
    """All things of a kind are listed, however many the server gives at a time."""
    monkeypatch.setattr(fleet_client_of_commands, "PAGE_SIZE", 2)
    for name in ("e", "c", "a", "b", "d"):
        await client.made("/api/apps", {"name": name})
    listed = (await run("apps", "list"))[1].splitlines()
    assert [line.split("\t")[0] for line in listed] == ["a", "b", "c", "d", "e"]
