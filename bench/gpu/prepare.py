"""Gathers what a machine with a GPU and no network needs: ``python bench/gpu/prepare.py [FOLDER]``.

The folder (``build/gpu``) then holds wheels of this project and of what it stands on, and the
programs of this suite with the tiny checkpoints' builders of the tests. The machine there has
Python 3.12 on x86-64, torch with CUDA, numpy, scipy, Pillow and OpenCV of its own. Then, there:
``python3 build/gpu/run.py``.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from importlib.metadata import requires, version
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "build" / "gpu"
PYTHON, PLATFORM = "3.12", "manylinux_2_28_x86_64"
LIMIT = 60e6
"""Bytes that everything together may take."""
OWN = {
    "mataserver": ".",
    "mataserver-client": "clients/python",
    "mataserver-hf": "plugins/hf",
    "mataserver-sam": "plugins/sam",
}
THERE = frozenset({"numpy", "opencv-python-headless", "pillow", "scipy", "torch"})
"""What the machine has of its own, with all that these need."""
PROBES = frozenset({"psutil"})
"""What the suite itself uses beside them."""
LEFT_OUT = frozenset({"av", "mataserver-console", "mataserver-openai"})
"""What no part of the suite uses: it reads no video files and opens no page."""
PROGRAMS = ("bench/gpu/*.py", "bench/generator.py", "plugins/hf/tests/tiny*.py")


def pip(*arguments: str) -> None:
    """Run pip."""
    subprocess.run([sys.executable, "-m", "pip", *arguments, "--quiet"], check=True, cwd=ROOT)


def carried() -> set[str]:
    """Return the packages of others that ours need there, with all that these need in turn.

    They come along in the versions that are installed here.
    """
    found = set(PROBES)
    markers = {"python_version": PYTHON, "python_full_version": f"{PYTHON}.0"}
    waiting = [*OWN]
    while waiting:
        for line in requires(waiting.pop()) or ():
            needed = Requirement(line)
            name = canonicalize_name(needed.name)
            if name in found | THERE | LEFT_OUT | OWN.keys():
                continue
            if needed.marker is None or needed.marker.evaluate(markers):
                found.add(name)
                waiting.append(name)
    return found


def main() -> None:
    """Fill the folder."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER
    shutil.rmtree(folder, ignore_errors=True)
    wheels = folder / "wheels"
    for own in OWN.values():
        pip("wheel", "--no-deps", "--wheel-dir", str(wheels), f"{ROOT}/{own}")
    pinned = [f"{name}=={version(name)}" for name in sorted(carried())]
    there = [
        "--python-version",
        PYTHON,
        "--platform",
        PLATFORM,
        "--platform",
        "manylinux2014_x86_64",
    ]
    pip("download", "--no-deps", "--only-binary=:all:", *there, "--dest", str(wheels), *pinned)
    for pattern in PROGRAMS:
        for path in ROOT.glob(pattern):
            shutil.copy2(path, folder)
    shutil.copy2(ROOT / "plugins/sam/tests/tiny.py", folder / "tiny_sam.py")  # the name is taken
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    print(f"{folder}: {size / 1e6:.0f} MB")
    if size > LIMIT:
        sys.exit(f"over {LIMIT / 1e6:.0f} MB")


if __name__ == "__main__":
    main()
