"""Sources that fail, hang or misbehave: each ends its own pull only, with a sentence."""

from __future__ import annotations

import asyncio
import functools
import json
import os
import re
import shutil
import threading

import msgspec
import pytest

from api_answers import until
from mataserver.sources.messages import FetchOrder
from mataserver.sources.meter import NoSpaceError
from mataserver.sources.source_child import FolderMeter
from source_rig import Asking, kept, plugin_writer

pytestmark = pytest.mark.long

ODD = """
import os, signal, sys, time
from pathlib import Path
from mataserver import BadRequest, SourceSpec, Unavailable, hookimpl


def store(ctx):
    (ctx.folder / "config.json").write_text('{"model_type": "fake"}')


def fetch(ctx):
    globals()["do_" + ctx.reference](ctx)
    store(ctx)


def do_refused(ctx):
    store(ctx)
    raise BadRequest("the registry has no such model")


def do_raised(ctx):
    store(ctx)
    raise RuntimeError("token=secret")


def do_exited(ctx):
    sys.exit("secret")


def do_killed(ctx):
    os.kill(os.getpid(), signal.SIGKILL)


def do_away(ctx):
    raise ConnectionRefusedError(111, "Connection refused")


def do_hang(ctx):
    store(ctx)
    (ctx.folder / "pid").write_text(str(os.getpid()))
    time.sleep(600)


def do_full(ctx):
    with open("/dev/full", "wb") as file:
        file.write(b"x")


def do_huge(ctx):
    ctx.expect(10**18)


def do_link(ctx):
    (ctx.folder / "weights").symlink_to("/etc/hostname")


def do_hard(ctx):
    os.link(os.environ["OUTSIDE"], ctx.folder / "weights")


def do_pipe(ctx):
    os.mkfifo(ctx.folder / "weights")


def do_slow(ctx):
    store(ctx)
    end = time.monotonic() + 6
    while time.monotonic() < end:
        time.sleep(0.001)
        ctx.alive()


def do_shouts(ctx):
    print("not a message")
    os.write(1, b"not a message")


def nothing(ctx):
    if ctx.reference != "nothing":
        return ctx.reference
    return None


@hookimpl
def sources():
    return [
        SourceSpec(name="odd", fetch=fetch, pattern="[a-z]+", inherit=("OUTSIDE",)),
        SourceSpec(name="stuck", fetch=fetch, stall_timeout=0.5),
        SourceSpec(name="busy", fetch=fetch, stall_timeout=4),
        SourceSpec(name="empty", fetch=nothing),
        SourceSpec(name="needy", fetch=fetch, requires=("no_such_module",), packages=("no-such",)),
    ]
"""


@pytest.fixture
def plugin(tmp_path, monkeypatch):
    """Write a plugin's module; return its entry point."""
    return plugin_writer(tmp_path, monkeypatch)


@pytest.fixture
def ask(tmp_path):
    """Return a context with a server of some plugins."""
    return functools.partial(Asking, tmp_path)


async def test_signs_of_life_keep_a_pull(plugin, ask):
    """Work without a growing file outlasts the time limit, and floods nobody with events."""
    async with ask(plugin(ODD)) as asked:
        body = {"model": "busy:slow", "task": "detect"}
        headers = {"Accept": "text/event-stream"}
        async with asked.http.post("/v1/models/pull", json=body, headers=headers) as answer:
            events = (await answer.read()).decode().strip().split("\n\n")
        assert events[-1].startswith("event: result")
        assert len(events) < 6
        totals = {"total_bytes": 0, "total_files": 0}  # nothing was announced
        assert totals.items() <= json.loads(events[-2].partition("data: ")[2]).items()


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ("odd:refused", "the registry has no such model"),
        ("odd:raised", "the pull of odd:raised has failed"),
        ("odd:exited", "the pull of odd:exited has failed"),
        ("odd:unknown", "the pull of odd:unknown has failed"),
        ("odd:killed", "the pull of odd:killed has ended unexpectedly"),
        ("odd:away", "cannot reach the source odd: Connection refused"),
        ("stuck:hang", "the source stuck made no progress for 0.5 seconds"),
        ("odd:full", "the disk is full: odd:full cannot be stored"),
        ("odd:huge", r"not enough disk space for odd:huge: 1000000000000 MB are needed, \d+ MB .*"),
        ("odd:link", "weights is a link that leads out of the model's directory"),
        ("odd:hard", "weights is a hard link to a file out of the model's directory"),
        ("odd:pipe", "weights is neither a file nor a directory"),
        ("odd:a/b", "not a reference of the source odd: expected odd:folder/model"),
        ("empty:../x", "not a reference of the source empty: expected empty:folder/model"),
        ("empty:a//b", "not a reference of the source empty: expected empty:folder/model"),
        ("empty:", "not a reference of the source empty: expected empty:folder/model"),
        ("empty:nothing", "the source stored no file"),
        ("empty:x", "the source stored no file"),
        ("od:x", "unknown source 'od': one of odd, stuck, busy, empty, needy; did you mean odd.*"),
        ("hf:org/x", "a model of the source hf is pulled by its id, org/name, alone"),
        ("D:\\x", "not a model id of the hub: expected org/name, not a URL or a path"),
    ],
)
async def test_a_pull_that_fails_says_why(plugin, ask, tmp_path, monkeypatch, model, said):
    """It is 400 with a sentence and without the source's secrets, and nothing is left of it."""
    (tmp_path / "data").mkdir(exist_ok=True)
    outside = tmp_path / "data" / "outside"
    outside.write_text("secret")
    monkeypatch.setenv("OUTSIDE", str(outside))
    models = [{"model": "fake-detect", "task": "detect"}]
    async with ask(plugin(ODD), models=models) as asked:
        status, detail = await asked.pull(model)
        assert (status, bool(re.fullmatch(said, detail))) == (400, True), detail
        assert await asked.infer("fake-detect") == 200
        assert kept(tmp_path) == []
        assert await asked.pull("odd:shouts") == (202, "pulled")


def test_a_folder_that_is_replaced_is_measured_on(tmp_path, monkeypatch):
    """A plugin may remove its folder, and let another program create it."""
    folder, sent, looked = tmp_path / "files", [], threading.Event()
    usage = shutil.disk_usage

    def looking(path):
        try:
            return usage(path)
        finally:
            looked.set()

    monkeypatch.setattr(shutil, "disk_usage", looking)
    order = FetchOrder("m:f", "odd", "odd:x", "x", str(folder), msgspec.Raw(b"null"), None)
    with FolderMeter(order, sent.append):
        assert looked.wait(30)  # and found nothing there
        folder.mkdir()
        (folder / "weights").write_bytes(b"12345")
    assert sent[-1].done_bytes == 5


def test_announcing_more_than_the_disk_holds_raises(tmp_path, monkeypatch):
    """A plugin may catch it, and fetch something smaller: its process goes on."""
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "weights").write_bytes(b"x" * 1_000_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(1, 1, 50_000_000))
    folder = str(tmp_path / "files")
    order = FetchOrder("m:f", "odd", "odd:x", "x", folder, msgspec.Raw(b"null"), None)
    meter = FolderMeter(order, [].append)
    with pytest.raises(NoSpaceError, match="for odd:x: 20 MB are needed, 50 MB are free"):
        meter.expect(21_000_000)
    assert meter.measure().total_bytes == 0
    meter.expect(5_000_000)
    assert meter.measure().total_bytes == 5_000_000


async def test_a_source_without_its_package_is_503(plugin, ask):
    """With the command that installs it, and before anything starts."""
    async with ask(plugin(ODD)) as asked:
        said = "The source needy needs no_such_module: pip install 'no-such'"
        assert await asked.pull("needy:x") == (503, said)


async def test_a_cancelled_pull_ends_its_process(plugin, ask, tmp_path):
    """Its process and its files are gone, and its turn is free for the next."""
    async with ask(plugin(ODD)) as asked:
        pulling = asyncio.create_task(asked.pull("odd:hang"))
        root = tmp_path / "data" / "pulled"
        await until(lambda: list(root.glob("odd/*/*/files/pid")), 30)
        (path,) = root.glob("odd/*/*/files/pid")
        await until(path.read_text, 30)
        pid = int(path.read_text())
        assert (await asked.json("/v1/pulls"))[0]["state"] == "pulling"
        await asked.json("/v1/pulls/odd:hang", "DELETE")
        assert await pulling == (409, "The pull of odd:hang was cancelled")
        assert kept(tmp_path) == []
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
        pulls = asked.server.composed.catalog._registrar.pulls
        told = []
        with pulls.register("one", told.append) as one, pulls.register("two", told.append) as two:
            async with pulls.slot(one), pulls.slot(two):
                assert told == []  # both are free
        assert await asked.pull("odd:shouts") == (202, "pulled")


async def test_what_a_killed_server_left_is_removed(plugin, ask, tmp_path):
    """A partial version that nobody holds goes at the next pull; one in progress stays."""
    place = tmp_path / "data" / "pulled" / "odd" / "a-1" / "5.partial"
    (place / "files").mkdir(parents=True)
    (place / "files" / "half").write_bytes(b"x")
    async with ask(plugin(ODD)) as asked:
        running = asyncio.create_task(asked.pull("odd:hang"))
        held = tmp_path / "data" / "pulled"
        await until(lambda: list(held.glob("odd/hang-*/*/files/pid")), 30)
        assert not place.exists()
        assert await asked.pull("odd:shouts") == (202, "pulled")
        assert list(held.glob("odd/hang-*/*/files/pid"))
        await asked.json("/v1/pulls/odd:hang", "DELETE")
        assert (await running)[0] == 409
