"""Tests clients that cannot share a process with others, each in an environment of its own.

``python plugins/oip/tests/clients/run.py``, with the Python of the development environment.
KServe's client brings protobufs of the same names as Triton's, so the two cannot be imported
together; and it pins packages that the development environment has in other releases. Its
environment is made below ``build/`` on the first run, and looks everything else up in the
development environment.
"""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[3]
CLIENTS = {"kserve": "kserve==0.21.0"}
CASES = {
    "kserve": (
        HERE / "kserve_cases.py",
        ROOT / "plugins" / "fleet" / "tests" / "clients" / "kserve_gateway_cases.py",
    )
}
"""What a client asks: the protocol itself, and through the gateway of a fleet."""


def environment(name: str) -> Path:
    """Return the Python of a client's environment, made if need be."""
    home = ROOT / "build" / "clients" / name
    python, stamp = home / "bin" / "python", home / ".installed"
    if stamp.is_file() and stamp.read_text() == CLIENTS[name]:
        return python
    venv.create(home, clear=True, with_pip=True)
    common = sysconfig.get_paths()["purelib"]
    own = home / "lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}" / "site-packages"
    (own / "development.pth").write_text(f"import site; site.addsitedir({common!r})\n")
    quiet = ("--quiet", "--disable-pip-version-check", "--no-warn-conflicts")
    pip = [str(python), "-m", "pip", "install", *quiet, CLIENTS[name]]
    constraints = {"PIP_CONSTRAINT": str(ROOT / "constraints.txt")}
    subprocess.run(pip, check=True, env={**os.environ, **constraints})
    stamp.write_text(CLIENTS[name])
    return python


def test(name: str) -> int:
    """Run the cases of a client; return pytest's exit status."""
    print(f"{name}: the environment", flush=True)  # noqa: T201 - this is a command
    command = [
        *(str(environment(name)), "-m", "pytest", "-p", "no:cacheprovider"),
        *("-o", "filterwarnings=ignore"),  # the client warns about its own dependencies
        *map(str, CASES[name]),
    ]
    return subprocess.run(command, check=False, cwd=ROOT).returncode


if __name__ == "__main__":
    sys.exit(max(map(test, CLIENTS)))
