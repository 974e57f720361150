"""A third-party plugin, from nothing: a fresh environment, its own tests, a real server."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
RECEIPT = ROOT / "examples" / "pictures" / "receipt.jpg"


@pytest.fixture(scope="module")
def plugin(tmp_path_factory):
    """A copy of the example plugin, away from this repository's settings."""
    copy = tmp_path_factory.mktemp("author") / "own_plugin"
    shutil.copytree(ROOT / "examples" / "own_plugin", copy)
    return copy


@pytest.fixture(scope="module")
def environment(plugin, tmp_path_factory):
    """The programs of a fresh virtual environment that holds the core, the plugin and pytest."""
    folder = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    pip = [sys.executable, "-m", "pip", "--python", folder / "bin" / "python", "install"]
    subprocess.run([*pip, "--quiet", ROOT, plugin, "pytest", "pytest-asyncio"], check=True)
    return folder / "bin"


@pytest.fixture
def variables(tmp_path):
    """Environment variables of a server with a data directory of its own."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MATA_")}
    return {
        **kept,
        "MATA_SERVER_DATA_DIR": str(tmp_path / "data"),
        "MATA_SERVER_API_KEY": "of-the-test",
        "MATA_SERVER_PORT": "0",
    }


@pytest.fixture
def run(environment, variables, tmp_path):
    """Run a program of the environment in an empty directory; return what it printed."""

    def ran(program, *arguments):
        command = [environment / program, *arguments]
        return subprocess.run(
            command, env=variables, cwd=tmp_path, capture_output=True, text=True, check=True
        ).stdout

    return ran


@pytest.fixture
def url(environment, variables, tmp_path):
    """The URL of a ``mataserver serve`` of the environment."""
    command = [environment / "mataserver", "serve"]
    server = subprocess.Popen(
        command, env=variables, cwd=tmp_path, stdout=subprocess.PIPE, text=True
    )
    try:
        yield next(word for word in server.stdout.readline().split() if word.startswith("http"))
    finally:
        server.send_signal(signal.SIGTERM)
        server.stdout.read()
        assert server.wait(timeout=30) == 0
        server.stdout.close()


def ask(url, data=None, kind="application/json"):
    """Send a request with the key; return the decoded answer."""
    headers = {"Authorization": "Bearer of-the-test", "Content-Type": kind}
    with urllib.request.urlopen(urllib.request.Request(url, data, headers)) as answer:
        return json.load(answer)


def test_the_plugin_stays_small():
    """The whole distribution, configuration and code, is under 60 lines."""
    folder = ROOT / "examples" / "own_plugin"
    files = [folder / "pyproject.toml", *folder.glob("*.py")]
    assert sum(len(file.read_text().splitlines()) for file in files) < 60


def test_the_authors_tests_pass(environment, plugin):
    """The plugin's own tests pass where only the core and the plugin are installed."""
    command = [environment / "python", "-m", "pytest", "-q", "-p", "no:cacheprovider", plugin]
    ran = subprocess.run(command, cwd=plugin, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout


def test_pulled_by_the_command_line_and_served(run, url):
    """``mataserver pull`` registers the model with a running server, which then serves it."""
    assert "focus" in run("mataserver", "plugins")
    assert run("mataserver", "pull", "focus", "--task", "classify") == "Pulled focus (classify)\n"
    assert [model["model"] for model in ask(f"{url}/v1/models")] == ["focus"]
    answer = ask(f"{url}/v1/infer?model=focus", RECEIPT.read_bytes(), "image/jpeg")
    assert answer["task"] == "classify"
    assert [found["label"] for found in answer["classifications"]] == ["sharp", "blurred"]
    (plugin,) = ask(f"{url}/v1/plugins")
    assert (plugin["name"], plugin["distribution"]) == ("focus", "mataserver-focus")
