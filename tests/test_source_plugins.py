"""Sources of third parties: models from a file share, and sources that fail, hang or misbehave."""

from __future__ import annotations

import asyncio
import hashlib
import importlib.metadata
import itertools
import json
import os
import re
import textwrap

import aiohttp
import pytest

from api_answers import until
from conftest import picture
from markdown_pages import read
from mataserver.testing import FAKE, serving

_NUMBERS = itertools.count()
CONFIG = json.dumps({"model_type": "fake"}).encode()
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
        SourceSpec(name="odd", fetch=fetch, pattern="[a-z]+", stall_timeout=1.5,
                   inherit=("OUTSIDE",)),
        SourceSpec(name="empty", fetch=nothing),
        SourceSpec(name="needy", fetch=fetch, requires=("no_such_module",), packages=("no-such",)),
    ]
"""


@pytest.fixture
def plugin(tmp_path, monkeypatch):
    """Write a plugin's module; return its entry point."""
    place = tmp_path / "modules"
    place.mkdir()
    monkeypatch.syspath_prepend(place)

    def write(source, name="odd"):
        module = f"source_{next(_NUMBERS)}"
        (place / f"{module}.py").write_text(textwrap.dedent(source))
        return importlib.metadata.EntryPoint(name, module, "mataserver")

    return write


@pytest.fixture
def share(tmp_path, plugin):
    """A share with one model, and the plugin of docs/plugins.md that reads it."""
    blocks = re.findall(r"^```python\n(.*?)^```", read("plugins.md"), re.DOTALL | re.MULTILINE)
    (example,) = (each for each in blocks if "SourceSpec(" in each)
    folder = tmp_path / "share"
    offer(folder, config=CONFIG, weights=b"1" * 300_000)
    return plugin(example, "share"), folder


def offer(folder, **files):
    """Put a model on the share."""
    model = folder / "detectors" / "harbour"
    model.mkdir(parents=True, exist_ok=True)
    names = {"config": "config.json", "weights": "parts/model.safetensors"}
    sums = []
    for key, content in files.items():
        path = model / names[key]
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
        sums.append(f"{hashlib.sha256(content).hexdigest()}  {names[key]}\n")
    (model / "SHA256SUMS").write_text("".join(sums))


HARBOUR = "share:detectors/harbour"


class Asked:
    """Requests of one server."""

    def __init__(self, server, http):
        self.server, self.http = server, http

    async def pull(self, model, task="detect"):
        """Pull; return status, and the detail or status of the answer."""
        body = {"model": model, "task": task}
        async with self.http.post("/v1/models/pull", json=body) as answer:
            said = await answer.json()
            return answer.status, said.get("detail") or said["status"]

    async def json(self, path, method="GET"):
        async with self.http.request(method, path) as answer:
            return await answer.json()

    async def infer(self, model):
        headers = {"Content-Type": "image/png"}
        async with self.http.post(
            "/v1/infer", params={"model": model}, data=picture(), headers=headers
        ) as answer:
            return answer.status


@pytest.fixture
def ask(tmp_path):
    """Return a context with a server of some plugins."""

    class Context:
        def __init__(self, *points, **settings):
            self._server = serving(tmp_path / "data", entry_points=[FAKE, *points], **settings)

        async def __aenter__(self):
            server = await self._server.__aenter__()
            self._http = aiohttp.ClientSession(server.url, headers=server.headers)
            return Asked(server, self._http)

        async def __aexit__(self, *exc):
            await self._http.close()
            await self._server.__aexit__(*exc)

    return Context


def kept(tmp_path):
    """Return the files of pulled models, without the lock."""
    root = tmp_path / "data" / "pulled"
    return sorted(each.name for each in root.glob("*/*/**/*") if not each.is_dir())


async def test_a_model_comes_from_a_share(share, ask, tmp_path):
    """It is checked, registered with its source, served, and told with its progress."""
    point, folder = share
    settings = {"plugins": {"share": {"folder": str(folder)}}}
    async with ask(point, **settings) as asked:
        body = {"model": HARBOUR, "task": "detect"}
        headers = {"Accept": "text/event-stream"}
        async with asked.http.post("/v1/models/pull", json=body, headers=headers) as answer:
            events = (await answer.read()).decode().strip().split("\n\n")
        assert answer.status == 202
        assert events[-1] == f'event: result\ndata: {{"status":"pulled","model":"{HARBOUR}"}}'
        last = json.loads(events[-2].removeprefix("event: progress\ndata: "))
        size = len(CONFIG) + 300_000
        assert last == {
            "done_bytes": size, "total_bytes": size, "done_files": 2, "total_files": 2
        }  # fmt: skip
        shown = await asked.json(f"/v1/models/{HARBOUR}")
        assert (shown["source"], shown["size_mb"]) == ("share", round(size / 1e6, 1))
        assert await asked.infer(HARBOUR) == 200
    assert kept(tmp_path) == ["config.json", "model.json", "model.safetensors"]


async def test_a_changed_model_replaces_the_former(share, ask, tmp_path):
    """Pulled again it is loaded anew; of former versions only the last one stays on disk."""
    point, folder = share
    settings = {"plugins": {"share": {"folder": str(folder)}}}
    async with ask(point, **settings) as asked:
        for number in range(3):
            offer(folder, config=CONFIG, weights=bytes([number]) * 1000)
            assert await asked.pull(HARBOUR) == (202, "pulled")
            assert await asked.infer(HARBOUR) == 200
            (slot,) = asked.server.composed.pool._slots
            weights = slot.plan.spec.path / "parts" / "model.safetensors"
            assert weights.read_bytes() == bytes([number]) * 1000
    assert kept(tmp_path).count("config.json") == 2


async def test_a_damaged_file_is_not_served(share, ask, tmp_path):
    """A wrong checksum fails the pull; the model stays what it was."""
    point, folder = share
    settings = {"plugins": {"share": {"folder": str(folder)}}}
    async with ask(point, **settings) as asked:
        assert await asked.pull(HARBOUR) == (202, "pulled")
        before = kept(tmp_path)
        (folder / "detectors/harbour/parts/model.safetensors").write_bytes(b"2" * 300_000)
        said = "parts/model.safetensors has arrived damaged"
        assert await asked.pull(HARBOUR) == (400, said)
        assert await asked.infer(HARBOUR) == 200
        assert [each["error"] for each in await asked.json("/v1/pulls")] == [said]
    assert kept(tmp_path) == before


async def test_without_the_share_an_earlier_copy_is_used(share, ask, tmp_path):
    """A share that is away fails a first pull only; removed, the model is found again."""
    point, folder = share
    settings = {"plugins": {"share": {"folder": str(folder)}}}
    away = folder.rename(folder.with_name("away"))
    async with ask(point, **settings) as asked:
        assert await asked.pull(HARBOUR) == (400, "the share is not mounted")
        away.rename(folder)
        assert await asked.pull(HARBOUR) == (202, "pulled")
        folder.rename(away)
        assert await asked.pull(HARBOUR) == (202, "pulled")
        assert (await asked.json(f"/v1/models/{HARBOUR}", "DELETE"))["status"] == "removed"
    models = [{"model": HARBOUR, "task": "detect"}]
    async with ask(point, models=models, **settings) as asked:
        assert (await asked.json("/ready"))["status"] == "ready"
        assert await asked.infer(HARBOUR) == 200


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ("odd:refused", "the registry has no such model"),
        ("odd:raised", "the pull of odd:raised has failed"),
        ("odd:exited", "the pull of odd:exited has failed"),
        ("odd:unknown", "the pull of odd:unknown has failed"),
        ("odd:killed", "the pull of odd:killed has ended unexpectedly"),
        ("odd:away", "cannot reach the source odd: Connection refused"),
        ("odd:hang", "the source odd made no progress for 1.5 seconds"),
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
        ("od:x", "unknown source 'od': one of odd, empty, needy; did you mean odd.*"),
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


async def test_a_source_without_its_package_is_503(plugin, ask):
    """With the command that installs it, and before anything starts."""
    async with ask(plugin(ODD)) as asked:
        said = "The source needy needs no_such_module: pip install 'no-such'"
        assert await asked.pull("needy:x") == (503, said)


async def test_a_model_that_nothing_serves_is_not_kept(share, ask, tmp_path):
    """The task decides, once the files are there."""
    point, folder = share
    async with ask(point, plugins={"share": {"folder": str(folder)}}) as asked:
        said = f"Task mismatch: {HARBOUR} (fake) serves detect, track, not depth"
        assert await asked.pull(HARBOUR, "depth") == (400, said)
    assert kept(tmp_path) == []


async def test_a_cancelled_pull_ends_its_process(plugin, ask, tmp_path):
    """Its process and its files are gone, and its turn is free for the next."""
    async with ask(plugin(ODD.replace("stall_timeout=1.5", "stall_timeout=600"))) as asked:
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
        slots = asked.server.composed.catalog._registrar.pulls._slots
        assert slots._free == 2
        assert await asked.pull("odd:shouts") == (202, "pulled")


async def test_what_a_killed_server_left_is_removed(plugin, ask, tmp_path):
    """A partial version that nobody holds goes at the next pull; one in progress stays."""
    place = tmp_path / "data" / "pulled" / "odd" / "a-1" / "5.partial"
    (place / "files").mkdir(parents=True)
    (place / "files" / "half").write_bytes(b"x")
    async with ask(plugin(ODD.replace("stall_timeout=1.5", "stall_timeout=600"))) as asked:
        running = asyncio.create_task(asked.pull("odd:hang"))
        held = tmp_path / "data" / "pulled"
        await until(lambda: list(held.glob("odd/hang-*/*/files/pid")), 30)
        assert not place.exists()
        assert await asked.pull("odd:shouts") == (202, "pulled")
        assert list(held.glob("odd/hang-*/*/files/pid"))
        await asked.json("/v1/pulls/odd:hang", "DELETE")
        assert (await running)[0] == 409
