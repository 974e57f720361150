"""Plugins installed with the core and what it brings: a third party's, and one of ours."""

from __future__ import annotations

import shutil
import time
import urllib.error

import pytest

from fresh_environment import ROOT, Environment, ask
from mataserver.testing import FRAMEWORKS

pytestmark = pytest.mark.long
PICTURES = ROOT / "examples" / "pictures"


@pytest.fixture(scope="module")
def plugin(tmp_path_factory):
    """A copy of the example plugin, away from this repository's settings."""
    copy = tmp_path_factory.mktemp("author") / "own_plugin"
    shutil.copytree(ROOT / "examples" / "own_plugin", copy)
    return copy


@pytest.fixture(scope="module")
def authors(plugin, tmp_path_factory):
    """A fresh environment with the core, the example plugin and pytest."""
    folder = tmp_path_factory.mktemp("environment")
    return Environment.made(folder, plugin, "pytest", "pytest-asyncio")


def test_the_plugin_stays_small():
    """The whole distribution, configuration and code, is under 60 lines."""
    folder = ROOT / "examples" / "own_plugin"
    files = [folder / "pyproject.toml", *folder.glob("*.py")]
    assert sum(len(file.read_text().splitlines()) for file in files) < 60


def test_the_authors_tests_pass(authors, plugin):
    """The plugin's own tests pass where only the core and the plugin are installed."""
    said = authors.run("pytest", "-q", "-p", "no:cacheprovider", plugin, directory=plugin)
    assert " passed" in said


def test_pulled_by_the_command_line_and_served(authors, tmp_path):
    """``mataserver pull`` registers the model with a running server, which then serves it."""
    with authors.serving(tmp_path) as url:
        assert "focus" in authors.run("mataserver", "plugins", directory=tmp_path)
        said = authors.run("mataserver", "pull", "focus", "--task", "classify", directory=tmp_path)
        assert said == "Pulled focus (classify)\n"
        assert [model["model"] for model in ask(f"{url}/v1/models")] == ["focus"]
        receipt = (PICTURES / "receipt.jpg").read_bytes()
        answer = ask(f"{url}/v1/infer?model=focus", receipt, "image/jpeg")
        assert answer["task"] == "classify"
        assert [found["label"] for found in answer["classifications"]] == ["sharp", "blurred"]
        assert plugin_of(url, "focus")["distribution"] == "mataserver-focus"


BELL = """
from aiohttp import web
from mataserver import hookimpl

class Bell:
    def routes(self):
        return [web.get("/bell", self.ring)]

    async def ring(self, request):
        return web.json_response({"rings": True})

    async def __aenter__(self):
        return self

    async def __aexit__(self, *exc):
        return None

@hookimpl
def service(ctx):
    return Bell()
"""
PROJECT = """
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[project]
name = "mataserver-bell"
version = "1.0"

[project.entry-points.mataserver]
bell = "mataserver_bell"

[tool.hatch.build.targets.wheel]
include = ["mataserver_bell.py"]
"""


def plugin_of(url, name):
    """Return what ``GET /v1/plugins`` says of a plugin, or None."""
    return next((each for each in ask(f"{url}/v1/plugins") if each["name"] == name), None)


def wait_for(url, name):
    """Return what the server says of a plugin once it has found it; it looks every 2 seconds."""
    until = time.monotonic() + 30
    while (found := plugin_of(url, name)) is None:
        assert time.monotonic() < until
        time.sleep(0.2)
    return found


@pytest.mark.timeout(300)
def test_installed_beside_a_running_server(plugin, tmp_path, tmp_path_factory):
    """A server that runs serves a backend that pip installs; of a service it says: restart."""
    bare = Environment.made(tmp_path_factory.mktemp("bare"))
    author = tmp_path_factory.mktemp("bell")
    (author / "mataserver_bell.py").write_text(BELL)
    (author / "pyproject.toml").write_text(PROJECT)
    receipt = (PICTURES / "receipt.jpg").read_bytes()
    with bare.serving(tmp_path) as url:
        assert [each["name"] for each in ask(f"{url}/v1/plugins")] == ["console", "openai"]
        bare.install(plugin)
        said = bare.run("mataserver", "pull", "focus", "--task", "classify", directory=tmp_path)
        assert said == "Pulled focus (classify)\n"
        answer = ask(f"{url}/v1/infer?model=focus", receipt, "image/jpeg")
        assert [found["label"] for found in answer["classifications"]] == ["sharp", "blurred"]
        bare.install("--editable", author)
        waiting = "its routes begin with the next start of the server"
        assert wait_for(url, "bell")["note"] == waiting
        with pytest.raises(urllib.error.HTTPError, match="404"):
            ask(f"{url}/bell")
    with bare.serving(tmp_path) as url:
        assert ask(f"{url}/bell") == {"rings": True}
        assert "note" not in plugin_of(url, "bell")


def test_a_plugin_of_ours_is_served_alone(tmp_path, tmp_path_factory):
    """The core and mataserver-opencv by themselves: no other framework, and real detections."""
    folder = tmp_path_factory.mktemp("alone")
    alone = Environment.made(folder, ROOT / "plugins" / "opencv")
    looked = f"import importlib.util as u; print([n for n in {FRAMEWORKS} if u.find_spec(n)])"
    assert alone.run("python", "-c", looked, directory=tmp_path) == "['cv2']\n"
    assert alone.run("mataserver", "check", directory=tmp_path).endswith("ok\n")
    with alone.serving(tmp_path) as url:
        plugin = plugin_of(url, "opencv")
        assert (plugin["distribution"], "error" in plugin) == ("mataserver-opencv", False)
        models = [model["model"] for model in ask(f"{url}/v1/models")]
        assert models == ["opencv-faces", "opencv-qr"]
        codes = (PICTURES / "codes.jpg").read_bytes()
        found = ask(f"{url}/v1/infer?model=opencv-qr", codes, "image/jpeg")["detections"]
        assert len({each["label"] for each in found}) == 3
        astronaut = (PICTURES / "astronaut.jpg").read_bytes()
        (face,) = ask(f"{url}/v1/infer?model=opencv-faces", astronaut, "image/jpeg")["detections"]
        assert face["label"] == "face"
