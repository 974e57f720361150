"""Models that are served from what a plugin's command made of them, and those that a pull made."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from pathlib import Path

import aiohttp
import pytest

from cli_terminal import Terminal
from hub_stand_in import HubStandIn
from mataserver import BadRequest, Conflict, NotFound, read_configuration, testing

PRESS = """
from pathlib import Path
import click
from mataserver import (
    Backend, Classification, ClassifyResult, MataError, hookimpl, read_configuration
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

def backend(name, accepts, **more):
    return Backend(name=name, task="classify", source="any", load=load, accepts=accepts, **more)

@hookimpl
def backends():
    yield backend("raw", is_raw)
    yield backend("pressed", is_pressed)
    yield Backend(name="stamp", task="classify", source="pip", load=load)

@click.command()
@click.argument("model")
@click.argument("place")
@click.option("--into")
@click.option("--file", default="pressed")
def press(model, place, into, file):
    configured = read_configuration()
    directory = configured.data_dir / "converted" / place
    directory.mkdir(parents=True, exist_ok=True)
    (directory / file).write_text("made")
    path = Path(model).resolve() if model.startswith(".") else None
    name = path.name if path else model
    if into:
        configured.add_model(directory, "classify", into)
    else:
        configured.convert_model(name, "classify", directory, path)
"""
POINTS = {"press": "press_dist"}
COMMANDS = {"mataserver": POINTS, "mataserver_commands": {"press": "press_dist:press"}}
PICTURE = Path(__file__).parents[1] / "examples" / "pictures" / "receipt.jpg"
CONVERTS = "`mataserver export net --register` converts it"


@pytest.fixture
def terminal(tmp_path, monkeypatch):
    terminal = Terminal(tmp_path, monkeypatch)
    terminal.install("press-dist", PRESS, **COMMANDS)
    path = terminal.home / "net"
    path.mkdir()
    (path / "config.json").write_text(json.dumps({"model_type": "press"}))
    (path / "model.safetensors").write_bytes(b"weights")
    return terminal


def pull(terminal, *more):
    return terminal.run("pull", "./net", "--task", "classify", *more)


def entry(terminal, name="net"):
    file = terminal.data / "model_registry.json"
    return json.loads(file.read_text())["models"].get(name) if file.exists() else None


def made(terminal):
    """The directories of converted models."""
    place = terminal.data / "converted"
    return sorted(each.name for each in place.iterdir()) if place.exists() else []


async def label(http, model):
    """What a model says about a picture: as what it is served."""
    headers = {"Content-Type": "image/jpeg"}
    async with http.post(
        "/v1/infer", params={"model": model}, data=PICTURE.read_bytes(), headers=headers
    ) as answer:
        assert answer.status == 200, await answer.text()
        return (await answer.json())["classifications"][0]["label"]


@contextlib.asynccontextmanager
async def asking(terminal, **settings):
    async with (
        testing.serving(
            terminal.data, entry_points=testing.installed("press"), **settings
        ) as server,
        aiohttp.ClientSession(server.url, headers=server.headers) as http,
    ):
        yield http


def test_a_command_converts_a_model(terminal):
    """What was made of it is registered beside the one it was made of, under the same name."""
    pull(terminal)
    assert terminal.run("press", "net", "net-1").exit_code == 0
    known = entry(terminal)
    assert (known["source"], known["path"]) == ("local", str(terminal.home / "net"))
    assert known["converted"] == str(terminal.data / "converted" / "net-1")
    assert known["converted"] in terminal.run("show", "net").stdout
    [(name, model)] = read_configuration().models().items()
    assert (name, model.task, model.source) == ("net", "classify", "local")
    assert (model.path, model.converted) == (terminal.home / "net", Path(known["converted"]))


def test_what_is_not_registered_yet(terminal):
    """A directory, and a model of the hub's cache, are registered with what was made of them."""
    terminal.cache("org/net", megabytes=0.1, accessed=1.0)
    assert terminal.run("press", "./net", "net-1").exit_code == 0
    assert terminal.run("press", "org/net", "net-2").exit_code == 0
    local, hub = entry(terminal), entry(terminal, "org/net")
    assert (local["source"], local["path"]) == ("local", str(terminal.home / "net"))
    assert (hub["source"], hub["task"], "path" in hub) == ("hf", "classify", False)
    assert made(terminal) == ["net-1", "net-2"]


def test_what_was_made_under_a_name_of_its_own(terminal):
    """It is a model beside the one that it was made of, and goes with its name."""
    pull(terminal)
    assert terminal.run("press", "net", "net-1", "--into", "small").exit_code == 0
    assert "converted" not in entry(terminal)
    assert entry(terminal, "small")["path"] == str(terminal.data / "converted" / "net-1")
    assert "Removed" in terminal.run("rm", "small").stdout
    assert made(terminal) == []
    assert (terminal.home / "net" / "model.safetensors").exists()


def test_what_nothing_serves_is_not_registered(terminal):
    """The model stays as it was."""
    pull(terminal)
    before = entry(terminal)
    done = terminal.run("press", "net", "net-1", "--file", "nothing")
    assert done.exit_code == 1
    assert "and no installed plugin serves one without it" in done.stderr
    assert entry(terminal) == before


@pytest.mark.parametrize(
    ("model", "place", "kind", "said"),
    [
        ("nobody", None, NotFound, "Model not found: nobody"),
        ("stamp", None, BadRequest, "its weights come with its package"),
        ("net", "other", Conflict, "the name 'net' is in use"),
    ],
)
def test_what_cannot_be_converted(terminal, model, place, kind, said):
    """A model that is not here, one without files, and a name that another directory has."""
    pull(terminal)
    terminal.run("pull", "stamp", "--task", "classify")
    directory = terminal.data / "converted" / "net-1"
    directory.mkdir(parents=True)
    (directory / "pressed").write_text("made")
    path = None if place is None else terminal.home / place
    if path is not None:
        path.mkdir()
    with pytest.raises(kind, match=said):
        read_configuration().convert_model(model, "classify", directory, path)


def test_what_nobody_is_served_from_goes(terminal):
    """Converted again, removed, or pulled anew, a model's old directory is deleted; others stay."""
    pull(terminal)
    for place in ("net-1", "net-2"):
        terminal.run("press", "net", place)
    (terminal.data / "converted" / "other").mkdir()
    assert made(terminal) == ["net-2", "other"]
    done = pull(terminal)
    assert done.stdout == "Registered net (classify)\n"
    assert f"warning: net is served as it was pulled again: {CONVERTS}\n" in done.stderr
    assert ("converted" in entry(terminal), made(terminal)) == (False, ["other"])
    terminal.run("press", "net", "net-3")
    assert "Removed" in terminal.run("rm", "net").stdout
    assert made(terminal) == ["other"]


def test_what_a_process_holds_stays(terminal):
    """A directory that is locked, since it is about to be registered, outlives its model."""
    pull(terminal)
    terminal.run("press", "net", "net-1")
    descriptor = os.open(terminal.data / "converted" / "net-1", os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    assert "Removed" in terminal.run("rm", "net").stdout
    os.close(descriptor)
    assert made(terminal) == ["net-1"]


def test_what_two_models_are_served_from_stays(terminal):
    """It goes with the last of them, by whichever way the data directory was named."""
    pull(terminal)
    terminal.run("press", "net", "net-1")
    (terminal.home / "link").symlink_to(terminal.data)
    file = terminal.data / "model_registry.json"
    kept = json.loads(file.read_text())
    way = str(terminal.home / "link" / "converted" / "net-1")
    kept["models"]["twin"] = kept["models"]["net"] | {"converted": way}
    file.write_text(json.dumps(kept))
    assert "Removed" in terminal.run("rm", "net").stdout
    assert made(terminal) == ["net-1"]
    assert "Removed" in terminal.run("rm", "twin").stdout
    assert made(terminal) == []


@pytest.mark.parametrize(
    "settings",
    ["runtime: auto\n", "models:\n  - {model: net, task: classify, runtime: auto}\n"],
)
def test_the_old_setting_is_told(terminal, settings, caplog):
    """``runtime: auto`` converts nothing: the configuration and each pull say what does."""
    (terminal.home / "mataserver.yaml").write_text(settings)
    done = pull(terminal)
    assert (done.exit_code, done.stdout) == (0, "Registered net (classify)\n")
    said = f"warning: net is not converted, `runtime: auto` is no more: {CONVERTS}\n"
    assert said in done.stderr
    assert "runtime: auto no longer converts a model when it is pulled" in caplog.text
    assert "converted" not in entry(terminal)
    (terminal.home / "net" / "model.safetensors").unlink()
    done = pull(terminal)
    assert f"{CONVERTS}, `runtime: auto` does not any more" in done.stderr


def test_who_asks_for_nothing_hears_nothing(terminal, caplog):
    """The default, and an entry of the model over the server's, warn of nothing at a pull."""
    settings = "runtime: auto\nmodels:\n  - {model: net, task: classify, runtime: native}\n"
    (terminal.home / "mataserver.yaml").write_text(settings)
    assert pull(terminal).stderr.count("is not converted") == 0
    caplog.clear()
    (terminal.home / "mataserver.yaml").write_text("runtime: native\n")
    done = pull(terminal)
    assert done.stdout == "Registered net (classify)\n"
    assert ("warning" in done.stderr, caplog.text) == (False, "")


async def test_a_server_says_that_nothing_is_converted(terminal, monkeypatch):
    """Over REST the answer of a pull names the command; its result is served at once."""
    with HubStandIn() as hub:
        config = b'{"model_type": "press"}'
        hub.add("org/net", {"config.json": config, "model.safetensors": b"w" * 100})
        for name, value in hub.environment(terminal.home / "hf").items():
            if name.startswith(("HF_", "NO_")):
                monkeypatch.setenv(name, value)
        async with asking(terminal, runtime="auto") as http:
            body = {"model": "org/net", "task": "classify"}
            async with http.post("/v1/models/pull", json=body) as answer:
                status, said = answer.status, await answer.json()
            first = await label(http, "org/net")
            done = terminal.finish("press", "org/net", "net-1")
            second = await label(http, "org/net")
            async with http.get("/v1/models/org/net") as answer:
                source = (await answer.json())["source"]
    assert (status, said["status"]) == (202, "pulled")
    [warning] = said["warnings"]
    assert warning.startswith("org/net is not converted, `runtime: auto` is no more: `mataserver")
    assert warning.endswith("export org/net --register` converts it")
    assert done.returncode == 0, done.stderr
    assert (first, second, source) == ("raw", "pressed", "hf")


@pytest.mark.parametrize("there", [True, False])
async def test_what_an_older_version_converted(terminal, there):
    """It is served as it was; where its directory was deleted, from the model's own files."""
    place = terminal.data / "converted" / "net-0123456789abcdef"
    place.mkdir(parents=True)
    (place / "pressed").write_text("made")
    known = {"task": "classify", "source": "local", "pulled_at": 1.0}
    known |= {"path": str(terminal.home / "net"), "converted": str(place)}
    file = terminal.data / "model_registry.json"
    file.write_text(json.dumps({"version": 1, "models": {"net": known}}))
    if not there:
        (place / "pressed").unlink()
        place.rmdir()
    async with asking(terminal) as http:
        assert await label(http, "net") == ("pressed" if there else "raw")
    assert entry(terminal) == known
