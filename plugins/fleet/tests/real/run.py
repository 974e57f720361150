"""Tests the fleet over real Tritons, which live in an environment of their own.

``python plugins/fleet/tests/real/run.py``, with the Python of the development environment. The
Tritons' environment is made below ``build/`` on the first run: the wheel of PyTriton holds Triton
2.51 with its Python backend, and onnxruntime stands in for the backend of that name.
"""

from __future__ import annotations

import importlib.util
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


CASES = tuple(HERE / f"{name}_cases.py" for name in ("real", "day", "bad", "triton_client"))
KSERVE_CASES = (HERE / "kserve_client_cases.py",)


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


def kserve() -> Path:
    """Return the Python of the environment that has KServe's client: see there."""
    path = ROOT / "plugins" / "oip" / "tests" / "clients" / "run.py"
    spec = importlib.util.spec_from_file_location("kserve_clients", path)
    assert spec is not None
    assert spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    python: Path = made.environment("kserve")
    return python


def main() -> int:
    """Run the cases; return the first of pytest's exit statuses that tells of a failure."""
    print("the environment of the Tritons", flush=True)  # noqa: T201 - this is a command
    own = {**os.environ, "FLEET_TRITON_PYTHON": str(environment())}
    quiet = ("-o", "filterwarnings=ignore")  # the client warns about its own dependencies
    each = (Path(sys.executable), *CASES), (kserve(), *quiet, *KSERVE_CASES)
    for python, *cases in each:  # the two clients' protobufs cannot be in one process
        command = [str(python), "-m", "pytest", "-p", "no:cacheprovider", *map(str, cases)]
        status = subprocess.run(command, check=False, cwd=ROOT, env=own).returncode
        if status:
            return status
    return 0


if __name__ == "__main__":
    sys.exit(main())
