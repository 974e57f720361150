"""Plugins installed with the core and nothing else: a third party's, and one of ours."""

from __future__ import annotations

import shutil

import pytest

from fresh_environment import ROOT, Environment, ask
from mataserver.testing import FRAMEWORKS

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
        (plugin,) = ask(f"{url}/v1/plugins")
        assert (plugin["name"], plugin["distribution"]) == ("focus", "mataserver-focus")


def test_a_plugin_of_ours_is_served_alone(tmp_path, tmp_path_factory):
    """The core and mataserver-opencv by themselves: no other framework, and real detections."""
    folder = tmp_path_factory.mktemp("alone")
    alone = Environment.made(folder, ROOT / "plugins" / "opencv")
    looked = f"import importlib.util as u; print([n for n in {FRAMEWORKS} if u.find_spec(n)])"
    assert alone.run("python", "-c", looked, directory=tmp_path) == "['cv2']\n"
    assert alone.run("mataserver", "check", directory=tmp_path).endswith("ok\n")
    with alone.serving(tmp_path) as url:
        (plugin,) = ask(f"{url}/v1/plugins")
        assert (plugin["distribution"], "error" in plugin) == ("mataserver-opencv", False)
        models = [model["model"] for model in ask(f"{url}/v1/models")]
        assert models == ["opencv-faces", "opencv-qr"]
        codes = (PICTURES / "codes.jpg").read_bytes()
        found = ask(f"{url}/v1/infer?model=opencv-qr", codes, "image/jpeg")["detections"]
        assert len({each["label"] for each in found}) == 3
        astronaut = (PICTURES / "astronaut.jpg").read_bytes()
        (face,) = ask(f"{url}/v1/infer?model=opencv-faces", astronaut, "image/jpeg")["detections"]
        assert face["label"] == "face"
