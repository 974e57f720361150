"""``make binary``: the one file, copied to an empty folder, where nothing is but a Python.

Run by ``make test-binary``, which builds it first; building takes too long for every test run.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from fresh_environment import ROOT, ask
from mataserver import __version__
from packaged_server import running, variables

BUILT = ROOT / "build" / "mataserver"
# The interpreter that the development environment was made from, and so one that is no part of it.
PYTHON = Path(sys.base_prefix, "bin", f"python{sysconfig.get_python_version()}")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """An empty folder with the file, and ``python/`` with a link to a Python."""
    folder = tmp_path_factory.mktemp("box")
    shutil.copy(BUILT, folder)
    (folder / "python").mkdir()
    (folder / "python" / PYTHON.name).symlink_to(PYTHON)
    return folder


@pytest.fixture(scope="module")
def environment(folder):
    """A PATH with that Python alone, and the cache that the file unpacks itself to."""
    return variables(folder, str(folder / "python"), PEX_ROOT=str(folder / "cache"))


def run(folder, environment, *arguments):
    """Run the file to its end."""
    command = [folder / BUILT.name, *arguments]
    return subprocess.run(
        command, env=environment, cwd=folder, capture_output=True, text=True, check=False
    )


def test_a_second_build_is_the_same():
    """Whoever builds it of the same sources and packages has the same bytes."""
    first = hashlib.sha256(BUILT.read_bytes()).hexdigest()
    subprocess.run(["make", "binary"], cwd=ROOT, check=True, capture_output=True)
    assert hashlib.sha256(BUILT.read_bytes()).hexdigest() == first


def test_it_is_one_executable_file(folder, environment):
    """It tells its version, and unpacks itself to the folder that PEX_ROOT names, nowhere else."""
    assert os.access(folder / BUILT.name, os.X_OK)
    before = {path.name for path in folder.iterdir()}
    ran = run(folder, environment, "--version")
    assert (ran.returncode, ran.stdout) == (0, f"mataserver {__version__}\n"), ran.stderr
    assert {path.name for path in folder.iterdir()} - before <= {"cache"}
    assert any((folder / "cache").rglob("site-packages/onnxruntime"))
    assert not any((folder / "cache").rglob("site-packages/torch"))


def test_it_serves(folder, environment):
    """It finds its plugins and reads a receipt in a worker; SIGTERM ends it and its children."""
    with running([folder / BUILT.name, "serve"], environment, folder) as server:
        assert server.health()["version"] == __version__
        found = {plugin["name"]: plugin for plugin in ask(f"{server.url}/v1/plugins")}
        held = ["cameras", "console", "ocr", "oip", "onnx", "openai", "opencv"]
        assert sorted(found) == held
        assert not any("error" in plugin for plugin in found.values())
        assert "HARBOUR CAFE" in server.read_receipt()
        assert server.family()


def test_nothing_is_installed_into_the_systems_python(folder, environment):
    """A backend whose packages are not inside is refused: there is no pip to install it with."""
    ran = run(folder, environment, "pull", "tesseract", "--task", "ocr")
    assert ran.returncode == 1
    said = "error: this Python environment has no pip, so no package can be installed"
    assert ran.stderr.splitlines()[-1] == said
