"""``mataserver jobs …`` against a running server."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import tempfile

import pytest
from click.testing import CliRunner
from films import picture, video
from serving_jobs import asking, lines

from mataserver import cli
from mataserver_jobs import commands


@pytest.fixture
async def ask(tmp_path):
    """A server whose jobs may read the folder ``roots``."""
    roots = tmp_path / "roots"
    roots.mkdir()
    async with asking(tmp_path / "data", jobs={"roots": [str(roots)]}) as asked:
        yield asked


def test_a_message_is_no_terminals_command():
    """A job's message, which has names of files in it, colours nothing, and turns nothing round."""
    assert commands._first_line("read\n\x1b[31ma\u202egnp.jpg") == "read [31ma gnp.jpg"


@pytest.fixture
def run(ask):
    """Return what runs a command; it gives status, output and errors."""
    runner = CliRunner(env={"MATA_SERVER_API_KEY": "test-key"})

    async def run(*arguments):
        given = ["jobs", *map(str, arguments), "--url", ask.served.url]
        done = await asyncio.to_thread(runner.invoke, cli.cli, given)
        return done.exit_code, done.stdout, done.stderr

    return run


async def test_a_video(run, tmp_path):
    """A video is sent, followed to its end, shown, downloaded and removed."""
    path = video(tmp_path / "v.mp4", 12)
    status, out, told = await run(
        "infer", "fake-detect", path, "-p", "confidence=0.2", "--every", 2, "--wait"
    )
    assert status == 0, told
    job = out.strip()
    assert "sent 100%" in told
    assert "100% Done." in told
    assert all(a != b for a, b in itertools.pairwise(told.splitlines()))
    _, listed, _ = await run("list", "--state", "done")
    assert listed.split("\t")[:4] == [job, "infer", "done", "100%"]
    assert (await run("list", "--state", "failed"))[1] == ""
    shown = json.loads((await run("show", job))[1])
    assert shown["spec"]["params"] == {"confidence": 0.2}
    assert (shown["result"]["items"], shown["spec"]["file"]) == (6, "v.mp4")
    names = {"results.jsonl", "summary.json", "annotated.mp4"}
    assert {each["name"] for each in shown["files"]} == names
    got = tmp_path / "got"
    status, out, _ = await run("get", job, got)
    assert (status, {*out.splitlines()}) == (0, {str(got / name) for name in names})
    assert {each.name: each.stat().st_size for each in got.iterdir()} == {
        each["name"]: each["size"] for each in shown["files"]
    }
    assert (await run("rm", job))[1] == f"removed {job}\n"
    assert (await run("show", job))[::2] == (1, f"error: Job not found: {job}\n")


async def test_a_folder_of_pictures(run, tmp_path, ask, monkeypatch):
    """A folder is sent as a ZIP, or looked at where it is when it is the server's.

    The ZIP has no name in the folder for temporary files: it would stay there after a kill.
    """
    temporary, left = tmp_path / "temporary", []
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    monkeypatch.setattr(commands, "_print_sent", lambda *_: left.append([*temporary.iterdir()]))
    for number in range(3):
        (tmp_path / "roots" / f"{number}.png").write_bytes(picture(10 + number, 8))
    (tmp_path / "roots" / ".hidden").write_bytes(b"x")
    for more in ((), ("--on-server",)):
        status, out, told = await run("infer", "fake-detect", tmp_path / "roots", *more)
        assert status == 0, told
        ended = await ask.ended(out.strip())
        assert (ended["result"]["items"], ended["spec"]["file"]) == (3, "" if more else "roots")
    assert left == [[]]


async def test_a_folder_with_odd_files(run, tmp_path, ask):
    """A file older than a ZIP's time and a name that is not UTF-8 are sent like all others."""
    names = [b"old.png", "gr\u00e4n.png".encode(), b"gr\xfcn.png", b"gr\xfan.png"]
    for name in names:
        (tmp_path / "roots" / os.fsdecode(name)).write_bytes(picture(10, 8))
    os.utime(tmp_path / "roots" / "old.png", (0, 0))
    status, out, told = await run("infer", "fake-detect", tmp_path / "roots", "--wait")
    assert status == 0, told
    found = {each["file"] for each in await lines(ask, out.strip())}
    assert found == {"old.png", "gr\u00e4n.png", "gr\u00fcn.png", "gr\u00fan.png"}


async def test_a_folder_that_makes_no_job_is_refused_before_it_is_sent(run, tmp_path, ask):
    """One without pictures, and one with two files whose answers could not be told apart."""
    roots = tmp_path / "roots"
    (roots / "folder").mkdir()
    for path in (roots / "folder" / "a.png", roots / ".hidden.png"):
        path.write_bytes(picture(10, 8))
    assert await run("infer", "fake-detect", roots) == (
        1,
        "",
        f"error: {roots} has no pictures; what is in its folders is not sent\n",
    )
    for name in ("gr\u00fcn.png".encode(), b"gr\xfcn.png"):
        (roots / os.fsdecode(name)).write_bytes(picture(10, 8))
    status, out, told = await run("infer", "fake-detect", roots)
    assert (status, out, told.count("\n")) == (1, "", 1)
    assert "has two files gr\u00fcn.png, in UTF-8 and Latin-1: rename one" in told
    assert (await run("list"))[1] == ""


async def test_a_folder_that_cannot_be_used_is_told(run, tmp_path, ask, monkeypatch):
    """One for temporary files that is missing, and a place for results where a file is."""
    (tmp_path / "in the way").write_bytes(b"")
    job = await ask.count(0)
    await ask.ended(job)
    [output] = (tmp_path / "data").glob(f"**/{job}/output")
    (output / "counted.txt").write_bytes(b"1")
    status, _, told = await run("get", job, tmp_path / "in the way" / "folder")
    assert (status, told.count("\n"), "Not a directory" in told) == (1, 1, True)
    (tmp_path / "roots" / "a.png").write_bytes(picture(10, 8))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
    status, _, told = await run("infer", "fake-detect", tmp_path / "roots")
    assert (status, told.count("\n")) == (1, 1)
    assert "roots cannot be sent: No such file or directory" in told


async def test_a_list_longer_than_a_page(run, ask, monkeypatch):
    """As many jobs as are wanted are listed, however many the server gives at a time."""
    monkeypatch.setattr(commands, "PAGE", 2)
    jobs = [await ask.count(0) for _ in range(5)][::-1]
    for limit in (1, 2, 3, 5, 9):
        status, out, _ = await run("list", "--limit", str(limit))
        assert (status, [line.split("\t")[0] for line in out.splitlines()]) == (0, jobs[:limit])


async def test_what_a_job_does_meanwhile(run, ask):
    """A job is cancelled, run once more with other options, and its log read."""
    job = await ask.count(5000)
    await ask.until(job, lambda shown: shown["progress"] > 0)
    assert (await run("cancel", job))[1] == f"cancelled {job}\n"
    await ask.ended(job)
    status, out, _ = await run("restart", job, "--spec", '{"to": 3}')
    assert (status, out) == (0, f"restarted {job}\n")
    assert (await ask.ended(job))["result"]["counted"] == 3
    _, broken = await ask("POST", "/lab/misbehave", json={"how": "raise"})
    await ask.ended(broken["id"])
    assert "secret detail" in (await run("log", broken["id"]))[1]


async def test_what_is_refused(run, tmp_path):
    """What cannot be is one line and status 1; what is no such command, 2."""
    path = video(tmp_path / "v.mp4", 2)
    status, _, told = await run("infer", "fake-nothing", path)
    assert (status, told.splitlines()[-1].partition(":")[0]) == (1, "error")
    assert "fake-nothing" in told
    assert "sent" not in told
    status, _, told = await run("infer", "fake-detect", path, "-p", "confidense=0.5")
    assert (status, told) == (
        1,
        "error: confidense: unknown parameter; did you mean confidence?\n",
    )
    status, _, told = await run("infer", "fake-detect", tmp_path / "none.mp4")
    assert (status, "for a path of the server's machine say --on-server" in told) == (1, True)
    os.mkfifo(tmp_path / "pipe")
    pipe = os.open(tmp_path / "pipe", os.O_RDWR)  # without a writer, opening it to read waits
    status, _, told = await run("infer", "fake-detect", tmp_path / "pipe")
    os.close(pipe)
    assert (status, "cannot be sent: it is a pipe: save it as a file" in told) == (1, True)
    status, _, told = await run("infer", "fake-detect", path, "-p", "confidence=7", "--wait")
    assert (status, "confidence" in told.splitlines()[-1]) == (1, True)
    assert (await run("restart", "x", "--spec", "["))[0] == 2
