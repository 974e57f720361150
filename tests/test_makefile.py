"""The Makefile: which Python it takes, and what it says where there is none."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import pytest

from fresh_environment import ROOT

TOOLS = ("make", "bash", "awk")
GOOD = f'#!/bin/sh\nexec {sys.executable} "$@"\n'
OLD = f"""#!/bin/sh
exec {sys.executable} -c 'import sys
sys.version_info = (3, 10, 13)
exec(sys.argv[1])' "$2"
"""
# As a version manager's stand-in for a version that is not chosen.
SHIM = "#!/bin/sh\nexit 127\n"
BARE = f"""#!/bin/sh
exec {sys.executable} -c 'import sys
sys.modules["ensurepip"] = None
exec(sys.argv[1])' "$2"
"""


def make(folder, pythons, *arguments):
    """Run make with a PATH that holds these interpreters and nothing else."""
    path = folder / "bin"
    path.mkdir()
    for tool in TOOLS:
        (path / tool).symlink_to(shutil.which(tool))
    for name, script in pythons.items():
        (path / name).write_text(script)
        (path / name).chmod(0o755)
    kept = {name: value for name, value in os.environ.items() if name not in {"PYTHON", "VENV"}}
    command = ["make", "--no-print-directory", "-C", ROOT, f"VENV={folder / 'venv'}", *arguments]
    environment = {**kept, "PATH": str(path)}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("pythons", "chosen"),
    [
        ({"python3.11": GOOD, "python3.12": GOOD}, "python3.11"),
        ({"python3.12": GOOD}, "python3.12"),
        ({"python3.13": GOOD}, "python3.13"),
        ({"python3": GOOD}, "python3"),
        ({"python3.11": SHIM, "python3.12": GOOD}, "python3.12"),
        ({"python3.11": BARE, "python3.13": GOOD}, "python3.13"),
        ({"python3": OLD, "python": GOOD}, "python"),
    ],
)
def test_the_first_python_that_suits_is_taken(tmp_path, pythons, chosen):
    """3.11 to 3.13 under any usual name; one that fails, is older or lacks ensurepip is not."""
    done = make(tmp_path, pythons, "--dry-run", "demo")
    assert done.returncode == 0, done.stderr
    assert f"{chosen} -m venv {tmp_path / 'venv'}" in done.stdout.splitlines()


def test_a_python_that_is_named_is_taken(tmp_path):
    """``PYTHON=`` has its way."""
    done = make(tmp_path, {"python3.11": GOOD}, "--dry-run", "PYTHON=/opt/mine", "demo")
    assert f"/opt/mine -m venv {tmp_path / 'venv'}" in done.stdout.splitlines()


@pytest.mark.parametrize("target", ["demo", "test", "serve"])
def test_no_python_that_suits_is_told(tmp_path, target):
    """Without a Python that suits, one sentence says what is needed, and nothing is made."""
    done = make(tmp_path, {"python3": OLD}, target)
    assert done.returncode == 2
    first = done.stderr.splitlines()[0]
    assert first.startswith("No Python 3.11, 3.12 or 3.13 that can make environments was found")
    assert "make PYTHON=/path/to/python3.12" in first
    assert not (tmp_path / "venv").exists()
