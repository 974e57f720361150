"""Models that are converted when they are pulled: ``runtime: auto``."""

from __future__ import annotations

import contextlib
import json
import signal
import time
from pathlib import Path
from types import SimpleNamespace

import aiohttp
import pytest

from cli_terminal import Terminal
from hub_stand_in import HubStandIn
from mataserver import testing
from mataserver.conversions.workshop import Workshop

PRESS = """
import os, signal, time
from mataserver import (
    Backend, Classification, ClassifyResult, Conversion, MataError, Unavailable, hookimpl
)

class Model:
    def __init__(self, label):
        self.label = label

    def predict(self, images, params):
        return [ClassifyResult([Classification(self.label, 1.0)]) for _ in images]

def load(spec, ctx):
    return Model("pressed" if (spec.path / "pressed").exists() else "raw")

def is_raw(files):
    path = files.path
    return files.model_type == "press" and (path is None or (path / "model.safetensors").exists())

def is_pressed(files):
    return files.path is not None and (files.path / "pressed").exists()

def wanted(files, settings):
    if files.config.get("stubborn"):
        raise Unavailable("it does not bend")
    return is_raw(files)

def make(spec, directory, settings):
    order = (spec.path / "order").read_text()
    (directory / "half").write_text("x")
    (spec.path.parent / "press.log").open("a").write(f"{os.getpid()} {directory}\\n")
    print("a library talks")
    if order == "refuse":
        raise MataError("it is worse than before")
    if order == "raise":
        raise RuntimeError("a secret")
    if order == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if order == "hang":
        time.sleep(600)
    if order != "nothing":
        (directory / "pressed").write_text(order)

def backend(name, accepts, **more):
    return Backend(name=name, task="classify", source="any", load=load, accepts=accepts, **more)

@hookimpl
def backends():
    yield backend("raw", is_raw)
    yield backend("pressed", is_pressed, conversion=Conversion(wanted, make))
    yield Backend(name="raw-ocr", task="ocr", source="any", load=load, accepts=is_raw)
"""
POINTS = {"press": "press_dist"}
PICTURE = Path(__file__).parents[1] / "examples" / "pictures" / "receipt.jpg"


@pytest.fixture
def terminal(tmp_path, monkeypatch):
    terminal = Terminal(tmp_path, monkeypatch)
    terminal.install("press-dist", PRESS, mataserver=POINTS)
    monkeypatch.setenv("MATA_SERVER_RUNTIME", "auto")
    return terminal


@pytest.fixture
def model(terminal):
    """``model(order)`` is a directory to pull; ``order`` is what becomes of its conversion."""

    def make(order="press", **config):
        path = terminal.home / "net"
        path.mkdir(exist_ok=True)
        (path / "config.json").write_text(json.dumps({"model_type": "press", **config}))
        (path / "model.safetensors").write_bytes(b"weights")
        (path / "order").write_text(order)
        return path

    return make


def pull(terminal, task="classify"):
    return terminal.run("pull", "./net", "--task", task)


def entry(terminal):
    file = terminal.data / "model_registry.json"
    return json.loads(file.read_text())["models"].get("net") if file.exists() else None


def made(terminal):
    """The directories of converted models, whole or not."""
    place = terminal.data / "converted"
    return sorted(each.name for each in place.iterdir() if each.is_dir()) if place.exists() else []


def log(terminal):
    """The process and the directory of each conversion that was begun."""
    file = terminal.home / "press.log"
    return [line.split() for line in file.read_text().splitlines()] if file.exists() else []


def wait_for(something):
    """Return what ``something()`` gives once that is true; a machine that stands still may."""
    for _ in range(1500):
        found = something()
        if found:
            return found
        time.sleep(0.02)
    raise AssertionError("it did not happen")


@contextlib.contextmanager
def pulling(terminal):
    """A pull in a process of its own, ended with the context."""
    process = terminal.start("pull", "./net", "--task", "classify")
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def test_a_pull_converts_for_who_wants_it(terminal, model):
    """With ``runtime: auto`` the converted model is registered beside the one it was made of."""
    path = model()
    done = pull(terminal)
    assert (done.exit_code, done.stdout) == (
        0,
        "Registered net (classify), converted for pressed\n",
    )
    known = entry(terminal)
    assert (known["source"], known["path"]) == ("local", str(path))
    assert (Path(known["converted"]) / "pressed").read_text() == "press"
    assert made(terminal) == [Path(known["converted"]).name]
    assert known["converted"] in terminal.run("show", "net").stdout
    assert terminal.data.stat().st_mode & 0o777 == 0o700


def test_nothing_is_converted_unasked(terminal, model, monkeypatch):
    """The default keeps models as they are; so does an entry of the model over the server's."""
    model()
    settings = "runtime: auto\nmodels:\n  - {model: net, task: classify, runtime: native}\n"
    (terminal.home / "mataserver.yaml").write_text(settings)
    monkeypatch.delenv("MATA_SERVER_RUNTIME")
    assert pull(terminal).stdout == "Registered net (classify)\n"
    (terminal.home / "mataserver.yaml").write_text("")
    assert pull(terminal).stdout == "Registered net (classify)\n"
    assert (log(terminal), made(terminal)) == ([], [])


@pytest.mark.parametrize(
    ("order", "said"),
    [
        ("refuse", "net is not converted: it is worse than before"),
        ("raise", "net is not converted: its conversion has failed; the log says why"),
        ("die", "net is not converted: its conversion was killed, perhaps for want of memory"),
        ("nothing", "net is not converted: pressed does not serve what it has made"),
    ],
)
def test_a_conversion_that_fails(terminal, model, order, said):
    """The model is registered as it was pulled, a warning says why, nothing is left behind."""
    model(order)
    done = pull(terminal)
    assert (done.exit_code, done.stdout) == (0, "Registered net (classify)\n")
    assert f"warning: {said}\n" in done.stderr
    assert "converted" not in entry(terminal)
    assert len(log(terminal)) == 1
    assert made(terminal) == []


def test_a_model_that_nothing_converts(terminal, model):
    """The sentence is the backend's, or says that there is none."""
    model(stubborn=True)
    assert "warning: net is not converted: it does not bend\n" in pull(terminal).stderr
    done = pull(terminal, "ocr")
    assert done.stdout == "Registered net (ocr)\n"
    assert "no installed plugin converts models for the task ocr" in done.stderr
    assert log(terminal) == []


def test_a_conversion_has_a_deadline(terminal, model, monkeypatch):
    """One that takes longer than ``load_timeout`` is ended."""
    model("hang")
    monkeypatch.setenv("MATA_SERVER_LOAD_TIMEOUT", "5")
    assert "not converted: it took longer than 5 s (load_timeout)" in pull(terminal).stderr
    [[pid, _]] = log(terminal)
    assert not Path("/proc", pid).exists()
    assert made(terminal) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_pull_that_is_ended(terminal, model, number):
    """It registers nothing; the child ends with it, and what even SIGKILL left is swept later."""
    model("hang")
    with pulling(terminal) as process:
        [[pid, _]] = wait_for(lambda: log(terminal))
        process.send_signal(number)
        process.wait(50)
    wait_for(lambda: not _running(pid))
    assert entry(terminal) is None
    assert len(made(terminal)) == (number == signal.SIGKILL)
    model("refuse")
    pull(terminal)
    assert made(terminal) == []


def _running(pid):
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return Path("/proc", pid, "stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def test_two_processes_do_not_convert_the_same(terminal, model):
    """The second is refused, and leaves the first one's directory alone."""
    model("hang")
    with pulling(terminal):
        [[_, directory]] = wait_for(lambda: log(terminal))
        done = pull(terminal)
        assert (done.exit_code, len(log(terminal))) == (1, 1)
        assert "the same model is being converted by another process" in done.stderr
        assert (Path(directory) / "half").exists()


def test_the_same_again(terminal, model, monkeypatch):
    """A model that has not changed is not converted again; one that has takes the old one's place.

    Removed, or pulled with ``runtime: native``, its directory goes.
    """
    model()
    pull(terminal)
    [first] = made(terminal)
    assert pull(terminal).stdout == "Registered net (classify), converted for pressed\n"
    assert (len(log(terminal)), made(terminal)) == (1, [first])
    model("harder")
    pull(terminal)
    [second] = made(terminal)
    assert (len(log(terminal)), second != first) == (2, True)
    assert "Removed" in terminal.run("rm", "net").stdout
    assert made(terminal) == []
    pull(terminal)
    monkeypatch.setenv("MATA_SERVER_RUNTIME", "native")
    assert pull(terminal).stdout == "Registered net (classify)\n"
    assert "converted" not in entry(terminal)


async def test_a_server_converts_and_says_why_not(terminal, monkeypatch):
    """Over REST: the converted model answers; of the other the answer says why; both are ``hf``."""
    files = {"model.safetensors": b"w" * 100, "order": b"press"}
    with HubStandIn() as hub:
        hub.add("org/soft", {"config.json": b'{"model_type": "press"}', **files})
        hub.add("org/hard", {"config.json": b'{"model_type": "press", "stubborn": 1}', **files})
        for name, value in hub.environment(terminal.home / "hf").items():
            if name.startswith(("HF_", "NO_")):
                monkeypatch.setenv(name, value)
        async with (
            testing.serving(
                terminal.data, entry_points=testing.installed("press"), runtime="auto"
            ) as server,
            aiohttp.ClientSession(server.url, headers=server.headers) as http,
        ):
            said, labels = [], []
            for name in ("org/soft", "org/hard"):
                body = {"model": name, "task": "classify"}
                async with http.post("/v1/models/pull", json=body) as answer:
                    said.append((answer.status, await answer.json()))
                async with http.post(
                    "/v1/infer",
                    params={"model": name},
                    data=PICTURE.read_bytes(),
                    headers={"Content-Type": "image/jpeg"},
                ) as answer:
                    labels.append((await answer.json())["classifications"][0]["label"])
            async with http.get("/v1/models") as answer:
                sources = {each["model"]: each["source"] for each in await answer.json()}
    assert said[0] == (202, {"status": "pulled", "model": "org/soft"})
    assert said[1][0] == 202
    assert said[1][1]["warnings"] == ["org/hard is not converted: it does not bend"]
    assert labels == ["pressed", "raw"]
    assert sources["org/soft"] == sources["org/hard"] == "hf"


async def test_a_converted_model_that_was_deleted(terminal, model):
    """Without its converted form a model is served as it was pulled."""
    model()
    terminal.finish("pull", "./net", "--task", "classify")
    for file in Path(entry(terminal)["converted"]).iterdir():
        file.unlink()
    Path(entry(terminal)["converted"]).rmdir()
    async with (
        testing.serving(terminal.data, entry_points=testing.installed("press")) as server,
        aiohttp.ClientSession(server.url, headers=server.headers) as http,
        http.post(
            "/v1/infer",
            params={"model": "net"},
            data=PICTURE.read_bytes(),
            headers={"Content-Type": "image/jpeg"},
        ) as answer,
    ):
        assert (await answer.json())["classifications"][0]["label"] == "raw"


@pytest.mark.parametrize(
    ("conversion", "said"),
    [
        ("'press'", "conversion must be a Conversion of two functions"),
        ("Conversion(wanted, lambda *a: None)", "conversion: make must stand at the top level"),
    ],
)
def test_a_wrong_conversion_is_refused(terminal, conversion, said):
    """A plugin's conversion is checked at the start."""
    source = PRESS.replace("Conversion(wanted, make)", conversion)
    terminal.install("bad-press", source, mataserver={"bad": "bad_press"})
    assert said in terminal.run("plugins").output


def test_the_same_directory_by_another_way(tmp_path):
    """What was registered through a symbolic link, or from where it leads, is not swept away."""
    place = tmp_path / "real" / "converted" / "net-1"
    place.mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "real")
    entries = {"net": SimpleNamespace(converted=str(place))}
    registry = SimpleNamespace(entries=lambda: entries)
    workshop = Workshop(tmp_path / "link" / "converted", registry)
    workshop.sweep()
    assert place.is_dir()
    entries.clear()
    workshop.sweep()
    assert not place.is_dir()
