"""Tests the fleet over real Tritons, which live in an environment of their own.

``python plugins/fleet/tests/real/run.py``, with the Python of the development environment. The
Tritons' environment is made below ``build/`` on the first run: the wheel of PyTriton holds Triton
2.51 with its Python backend, and onnxruntime stands in for the backend of that name.
"""

from __future__ import annotations

import os
import subprocess
import sys
import venv
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[3]
HOME = ROOT / "build" / "fleet" / "triton"
PACKAGES = (
    ("--no-deps", "nvidia-pytriton==0.7.0"),  # its server alone: nothing of its Python is used
    ("numpy==1.26.4", "onnxruntime==1.22.1"),  # the server's own Python knows numpy 1 alone
)
"""What pip is told, a call a tuple."""


def environment() -> Path:
    """Return the Python of the Tritons' environment, made if need be."""
    python, stamp = HOME / "bin" / "python", HOME / ".installed"
    if stamp.is_file() and stamp.read_text() == repr(PACKAGES):
        return python
    venv.create(HOME, clear=True, with_pip=True)
    for packages in PACKAGES:
        pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        alone = {name: each for name, each in os.environ.items() if name != "PIP_CONSTRAINT"}
        subprocess.run([*pip, *packages], check=True, env=alone)
    stamp.write_text(repr(PACKAGES))
    return python


def main() -> int:
    """Run the cases; return pytest's exit status."""
    print("the environment of the Tritons", flush=True)  # noqa: T201 - this is a command
    own = {"FLEET_TRITON_PYTHON": str(environment())}
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-p",
        "no:cacheprovider",
        str(HERE / "real_cases.py"),
        str(HERE / "day_cases.py"),
        str(HERE / "bad_cases.py"),
    ]
    return subprocess.run(command, check=False, cwd=ROOT, env={**os.environ, **own}).returncode


if __name__ == "__main__":
    sys.exit(main())
