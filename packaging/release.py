"""What a release is made of, and that it can be made again: ``make lock``, ``make release``.

``lock`` writes ``packaging/requirements.txt``: every package of others that the image and the
one-file build hold, in the releases that the tests of this checkout ran with, each with the hashes
of its files. ``build`` makes the wheels of all our distributions twice, in two folders, and fails
unless both are the same byte for byte; then it lists what the image and the one-file build take of
others in a software bill of materials (CycloneDX). ``audit`` asks
the advisory service of the index for known faults. Tools are in an environment of their own.
"""

from __future__ import annotations

import filecmp
import os
import shutil
import subprocess
import sys
import tempfile
import venv
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

ROOT = Path(__file__).resolve().parents[1]
LOCK = ROOT / "packaging" / "requirements.txt"
TARGET = ROOT / "build" / "release"
TOOLS = ROOT / "build" / "tools"
PLUGINS = ("cameras", "console", "oip", "openai", "opencv", "ocr", "onnx")
EXTRAS = ("camera", "heic")
OURS = ("clients/python", ".", *(f"plugins/{name}" for name in PLUGINS))
"""What the image and the one-file build hold, as the Dockerfile and ``make binary`` name it."""
DISTRIBUTIONS = (
    "clients/python",
    ".",
    *sorted(f"plugins/{each.parent.name}" for each in ROOT.glob("plugins/*/pyproject.toml")),
)
"""What a release publishes."""
HEADER = """\
# The packages of others in a release, with the hashes of their files. Made by: make lock
"""


def tool(name: str, package: str) -> str:
    """Return a program of a package, installed in an environment that is for nothing else."""
    program = TOOLS / "bin" / name
    if not program.exists():
        if not (TOOLS / "bin" / "python").exists():
            venv.create(TOOLS, with_pip=True)
        pip = [str(TOOLS / "bin" / "python"), "-m", "pip", "install", "--quiet", package]
        subprocess.run(pip, check=True, env=_unconstrained())
    return str(program)


def _unconstrained() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name != "PIP_CONSTRAINT"}


def wheels(folder: Path, distributions: Sequence[str]) -> list[Path]:
    """Build our wheels from a copy of what is committed; files have the time of the commit."""
    when = _git("log", "-1", "--format=%ct")
    with tempfile.TemporaryDirectory() as copy:
        archive = subprocess.run(
            ["git", "archive", "HEAD"], cwd=ROOT, check=True, capture_output=True
        )
        subprocess.run(["tar", "-x", "-C", copy], input=archive.stdout, check=True)
        command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps"]
        command += ["--wheel-dir", str(folder), *(str(Path(copy, each)) for each in distributions)]
        subprocess.run(command, check=True, env={**os.environ, "SOURCE_DATE_EPOCH": when})
    return sorted(folder.glob("*.whl"))


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=ROOT, check=True, capture_output=True, text=True)
    return done.stdout.strip()


def lock() -> None:
    """Write the lock file."""
    frozen = [sys.executable, "-m", "pip", "freeze", "--exclude-editable"]
    versions = subprocess.run(frozen, check=True, capture_output=True, text=True).stdout
    with tempfile.TemporaryDirectory() as folder:
        made = wheels(Path(folder, "wheels"), OURS)
        wanted = [f"{_name(each)}{_extras(each)} @ {each.as_uri()}" for each in made]
        Path(folder, "in.txt").write_text("\n".join(wanted))
        Path(folder, "tested.txt").write_text(versions)
        command = [tool("uv", "uv>=0.9"), "pip", "compile", "--quiet", "--no-header"]
        command += ["--generate-hashes", "--universal", "--python-version", "3.11"]
        command += ["--no-annotate", "--constraints", str(Path(folder, "tested.txt"))]
        for each in made:
            command += ["--no-emit-package", _name(each)]
        command += [str(Path(folder, "in.txt")), "--output-file", str(Path(folder, "out.txt"))]
        subprocess.run(command, check=True, env=_unconstrained())
        LOCK.write_text(HEADER + Path(folder, "out.txt").read_text())
    print(f"{LOCK.relative_to(ROOT)}: {len(locked())} packages")


def locked() -> dict[str, str]:
    """Return the locked packages with their versions."""
    lines = LOCK.read_text().splitlines()
    pinned = (line.split(" ")[0].split("==") for line in lines if "==" in line.split(" ")[0])
    return {name: version for name, version in pinned if not name.startswith("#")}


def _name(wheel: Path) -> str:
    return wheel.name.split("-")[0].replace("_", "-")


def _extras(wheel: Path) -> str:
    return f"[{','.join(EXTRAS)}]" if _name(wheel) == "mataserver" else ""


def build() -> None:
    """Build the wheels twice and compare them; write the bill of materials."""
    shutil.rmtree(TARGET, ignore_errors=True)
    made = wheels(TARGET, DISTRIBUTIONS)
    with tempfile.TemporaryDirectory() as folder:
        again = wheels(Path(folder), DISTRIBUTIONS)
        names = [each.name for each in made]
        if names != [each.name for each in again]:
            raise SystemExit("two builds made different wheels")
        same, differing, _ = filecmp.cmpfiles(TARGET, folder, names, shallow=False)
    if differing or len(same) != len(DISTRIBUTIONS):
        raise SystemExit(f"two builds differ: {', '.join(differing)}")
    shutil.copy(LOCK, TARGET)
    bill = TARGET / "sbom.cdx.json"
    command = [tool("cyclonedx-py", "cyclonedx-bom>=7"), "requirements", str(LOCK)]
    command += ["--output-reproducible", "--of", "JSON", "-o", str(bill)]
    command += ["--pyproject", str(ROOT / "pyproject.toml")]
    subprocess.run(command, check=True)
    print(f"{len(same)} wheels, each built twice and the same; {bill.relative_to(ROOT)}")


def audit() -> None:
    """Ask for known faults of the locked packages; exits with the auditor's status."""
    command = [tool("pip-audit", "pip-audit>=2.9"), "--strict", "--require-hashes", "--disable-pip"]
    sys.exit(subprocess.run([*command, "-r", str(LOCK)], check=False).returncode)


if __name__ == "__main__":
    {"lock": lock, "build": build, "audit": audit}[sys.argv[1]]()
