"""What a model's process gets, may and holds, and that nothing that it starts outlives it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import time

import aiohttp
import psutil
import pytest

from api_answers import until
from confined_models import CONFINED
from conftest import picture, register
from mataserver import testing
from mataserver.config import ConfigError
from mataserver.processes import variables
from mataserver.processes.child import run_process

PNG = picture()
SECRETS = {
    "MATA_SERVER_API_KEY": "a-key",
    "HF_TOKEN": "hf_secret",
    "AWS_SECRET_ACCESS_KEY": "aws",
    "OPENAI_API_KEY": "sk",
    "DATABASE_URL": "postgres://user:password@host/db",
    "JWT_SECRET": "jwt",
    "CUDA_API_TOKEN": "a listed beginning, and yet a secret",
}


@contextlib.asynccontextmanager
async def confining(folder, **settings):
    """Run a server with the confined models; yield an HTTP session."""
    register(folder, {"confined": "vlm", "neighbour": "vlm"})
    async with (
        testing.serving(folder, entry_points=[CONFINED], **settings) as served,
        aiohttp.ClientSession(served.url, headers=served.headers) as http,
    ):
        yield http


async def ask(http, prompt, model="confined"):
    """Have a model do something; return the status and what it answered."""
    query, headers = {"model": model, "prompt": prompt}, {"Content-Type": "image/png"}
    async with http.post("/v1/infer", params=query, data=PNG, headers=headers) as response:
        body = await response.json()
        return response.status, json.loads(body["text"]) if response.status == 200 else body


def gone(pid):
    """Whether a process has ended."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


async def test_a_worker_gets_no_keys(tmp_path, monkeypatch):
    """Of the server's environment a model sees what models need, and what the operator lists."""
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    monkeypatch.setenv("ACME_LICENCE", "file")
    monkeypatch.setenv("ACME_TOKEN", "listed by the operator")
    async with confining(tmp_path, inherit_variables=["ACME_*"]) as http:
        status, seen = await ask(http, "environment")
    assert status == 200
    assert not set(SECRETS) & set(seen)
    assert not set(SECRETS.values()) & set(seen.values())
    assert seen["CUDA_VISIBLE_DEVICES"] == "0"
    assert (seen["ACME_LICENCE"], seen["ACME_TOKEN"]) == ("file", "listed by the operator")
    assert seen["PATH"] == os.environ["PATH"]


async def test_a_child_gets_no_keys(monkeypatch):
    """What a service starts gets no key of the server's either, but what it is given."""
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    async with run_process(["env"], environment={"GIVEN": "x"}, inherit=["JWT_*"]) as child:
        seen = dict(
            line.split("=", 1) for line in (await child.output.read()).decode().split("\n")[:-1]
        )
    assert set(SECRETS) & set(seen) == {"JWT_SECRET"}
    assert seen["GIVEN"] == "x"


def test_a_star_stands_for_the_rest_of_a_name_alone():
    """A listed name is that variable's, and one with a star begins those that it lists."""
    given = dict.fromkeys(("HOME", "HOMES", "MY_HOME", "LC_", "LC_ALL", "MY_LC_ALL", "lc_all"), "x")
    assert set(variables.for_child(environment=given)) == {"HOME", "LC_", "LC_ALL"}
    assert set(variables.for_child(["MY_*", "lc_al"], given)) == {
        "HOME",
        "LC_",
        "LC_ALL",
        "MY_HOME",
        "MY_LC_ALL",
    }


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("*_TOKEN", {"MY_TOKEN"}),
        ("A?", {"A1"}),
        ("M*N", {"MY_TOKEN"}),
        ("A[12]*", {"A1", "A2_KEY"}),
        ("*", {"MY_TOKEN", "A1", "A2_KEY", "a1"}),
    ],
)
def test_a_plugin_may_name_variables_by_any_pattern(pattern, found):
    """A source's ``inherit`` is not the operator's list: it says what the shell's patterns say."""
    given = dict.fromkeys(("MY_TOKEN", "A1", "A2_KEY", "a1"), "x")
    assert set(variables.for_child([pattern], given)) == found


def test_the_token_is_the_downloads():
    """The hub's token goes to the download alone, pip's settings to pip alone."""
    given = {"HF_TOKEN": "t", "HF_HOME": "/h", "PIP_INDEX_URL": "https://u:p@host", "X_KEY": "k"}
    assert set(variables.for_child(environment=given)) == {"HF_HOME"}
    assert set(variables.for_child(variables.HUB, given)) == {"HF_HOME", "HF_TOKEN"}
    assert set(variables.for_child(variables.PIP, given)) == {"HF_HOME", "PIP_INDEX_URL"}


async def test_a_worker_gains_no_rights_and_goes_first(tmp_path):
    """A worker can gain no privileges, and the kernel takes it before the server."""
    async with confining(tmp_path) as http:
        status, rights = await ask(http, "rights")
    assert (status, rights) == (200, {"no_new_privs": "1", "oom": 500})


async def test_a_child_gains_no_rights():
    """A child of a service can gain no privileges."""
    async with run_process(["grep", "NoNewPrivs", "/proc/self/status"]) as child:
        assert (await child.output.read()).split() == [b"NoNewPrivs:", b"1"]


HIDDEN = """
import ctypes, os, time
from mataserver.processes import kernel
if os.getuid() == 0:
    os.setresgid(65534, 65534, 65534)
    os.setresuid(65534, 65534, 65534)
    ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)  # a user that changed is hidden by itself
def reads(pid):
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            return bool(file.read())
    except PermissionError:
        return False
pid = os.fork()
if pid == 0:
    time.sleep(60)
print(reads(pid))
os.kill(pid, 9)
pid = os.fork()
if pid == 0:
    kernel.hide_memory()
    time.sleep(60)
while reads(pid):
    time.sleep(0.01)
print(reads(pid))
os.kill(pid, 9)
"""

ANNOUNCED = """
import asyncio, ctypes, os, signal, sys
from pathlib import Path
from mataserver import config, plugins
from mataserver.app import running
def announce(url, state):
    print(ctypes.CDLL(None).prctl(3, 0, 0, 0, 0), flush=True)
    os.kill(os.getpid(), signal.SIGTERM)
folder = Path(sys.argv[1])
settings = config.load(environ={}, directory=folder, port=0, data_dir=str(folder))
asyncio.run(running.run(settings, announce, plugins.discover(settings, [])))
"""


def printed(script, *arguments):
    """Run a script; return what it prints."""
    path = os.pathsep.join(each for each in sys.path if each)
    ran = subprocess.run(
        [sys.executable, "-c", script, *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
        env={**os.environ, "PYTHONPATH": path},
    )
    return ran.stdout.split()


def test_the_memory_of_a_server_is_its_own(tmp_path):
    """No process of the same user reads the environment of a server, which may hold keys."""
    assert printed(HIDDEN) == ["True", "False"]
    assert printed(ANNOUNCED, str(tmp_path)) == ["0"]


# memory


@pytest.fixture
def limited():
    """Settings that let the model hold 150 MB."""
    return {"models": [{"model": "confined", "max_ram_mb": 150}]}


async def test_a_worker_that_grows_is_replaced(tmp_path, limited):
    """Its request is 507; what waits behind goes to the next worker, and no death is counted."""
    async with confining(tmp_path, **limited) as http:
        assert (await ask(http, "wait"))[0] == 200
        for _ in range(4):  # three deaths that count would hold the next load back
            growing = asyncio.create_task(ask(http, "grow"))
            await asyncio.sleep(0.1)
            waiting = [asyncio.create_task(ask(http, "rights")) for _ in range(3)]
            status, body = await growing
            assert (status, body["detail"]) == (
                507,
                "The model needed more memory than its max_ram_mb",
            )
            assert [(await each)[0] for each in waiting] == [200] * 3


async def test_a_load_that_grows_fails(tmp_path, limited):
    """A model that holds more than it may before it is ready is 507."""
    (tmp_path / "grows-at-load").touch()
    async with confining(tmp_path, **limited) as http:
        status, body = await ask(http, "rights")
        assert (status, body["detail"]) == (507, "The model needed more memory than its max_ram_mb")
        (tmp_path / "grows-at-load").unlink()
        assert (await ask(http, "rights"))[0] == 200


async def test_a_limit_needs_a_process(tmp_path):
    """A limit gives the model a process whatever the server's engine; ``thread`` is refused."""
    chosen = {"engine": "thread", "models": [{"model": "confined", "max_ram_mb": 150}]}
    async with confining(tmp_path, **chosen) as http:
        assert (await ask(http, "grow"))[0] == 507
    chosen["models"][0]["engine"] = "thread"
    with pytest.raises(ConfigError, match=r"models\[0\].max_ram_mb: needs the engine process"):
        async with confining(tmp_path, **chosen):
            pass


# what a model started


async def test_what_a_model_started_ends_with_it(tmp_path):
    """An unloaded model leaves no process, also no daemon; a neighbour's go on."""
    async with confining(tmp_path) as http:
        _, pids = await ask(http, "family")
        _, others = await ask(http, "family", "neighbour")
        assert not any(map(gone, [*pids, *others]))
        async with http.post("/v1/models/unload", json={"model": "confined"}) as response:
            assert response.status == 200
        await until(lambda: all(map(gone, pids)))
        assert not any(map(gone, others))
    assert all(map(gone, others))


async def test_what_a_model_started_ends_when_it_dies(tmp_path):
    """A worker that is killed leaves no process."""
    async with confining(tmp_path) as http:
        _, pids = await ask(http, "family")
        parent = psutil.Process(pids[0]).ppid()
        os.kill(parent, signal.SIGKILL)
        await until(lambda: all(map(gone, pids)))


SERVER = """
import asyncio, sys
from pathlib import Path
from confined_models import CONFINED
from mataserver import testing
async def main():
    async with testing.serving(Path(sys.argv[1]), entry_points=[CONFINED]) as served:
        print(served.url, flush=True)
        await asyncio.Event().wait()
asyncio.run(main())
"""


def descendants(pid):
    """Return the processes that descend from one."""
    return [each.pid for each in psutil.Process(pid).children(recursive=True)]


@pytest.mark.parametrize("moment", ["import", "load", "started", "inference", "unload"])
async def test_a_killed_server_leaves_nothing(tmp_path, moment):
    """After kill -9 no process of the server or of a model is left for two seconds."""
    register(tmp_path, {"confined": "vlm"})
    if moment == "load":
        (tmp_path / "starts-at-load").touch()
        (tmp_path / "grows-at-load").touch()
    path = os.pathsep.join(each for each in sys.path if each)
    with subprocess.Popen(
        [sys.executable, "-c", SERVER, str(tmp_path)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
    ) as server:
        url = server.stdout.readline().strip()
        headers = {"Authorization": "Bearer test-key"}
        pids = []
        async with aiohttp.ClientSession(url, headers=headers) as http:
            asked = asyncio.create_task(ask(http, "hang" if moment == "inference" else "family"))
            if moment == "import":
                await until(lambda: descendants(server.pid))
            elif moment == "load":
                await until(lambda: len(descendants(server.pid)) >= 5, 20)
            elif moment == "inference":
                await until(lambda: len(descendants(server.pid)) >= 2, 20)
            else:
                await asked
            if moment == "unload":
                unload = http.post("/v1/models/unload", json={"model": "confined"})
                task = asyncio.ensure_future(unload)
                await asyncio.sleep(0.01)
            pids = descendants(server.pid)
            started = tmp_path / "confined" / "started"
            if started.exists():
                pids += [int(line) for line in started.read_text().split()]
            server.kill()
            begun = time.monotonic()
            await until(lambda: all(map(gone, pids)), 2.0)
            assert time.monotonic() - begun < 2.0
            if moment == "unload":
                task.cancel()
            await asyncio.wait([asked])
            asked.exception()
