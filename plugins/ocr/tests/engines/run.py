"""Tests the engines that no common environment can hold, each in one of its own.

``python plugins/ocr/tests/engines/run.py [easyocr] [paddleocr] [tesserocr]``, all without a name,
with the Python of the development environment. An engine's environment is made below ``build/``
on its first run; it holds the engine and what that pins, and looks the rest up in the development
environment: PaddleOCR wants other releases of numpy and OpenCV, EasyOCR a torchvision.
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
ENGINES: dict[str, tuple[tuple[str, ...], ...]] = {
    # A torchvision without its dependencies: it would bring the torch that it was built with.
    "easyocr": (("--no-deps", "torchvision==0.28.0"), ("easyocr==1.7.2",)),
    "paddleocr": (("paddlepaddle==3.3.1", "paddleocr==3.7.0"),),
    "tesserocr": (("tesserocr==2.13.0",),),
}
"""What pip is told for each engine, a call a tuple."""


def environment(name: str) -> Path:
    """Return the Python of an engine's environment, made if need be."""
    home = ROOT / "build" / "engines" / name
    python = home / "bin" / "python"
    stamp = home / ".installed"
    if stamp.is_file() and stamp.read_text() == repr(ENGINES[name]):
        return python
    venv.create(home, clear=True, with_pip=True)
    common = sysconfig.get_paths()["purelib"]
    own = home / "lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}" / "site-packages"
    (own / "development.pth").write_text(f"import site; site.addsitedir({common!r})\n")
    for packages in ENGINES[name]:
        quiet = ("--quiet", "--disable-pip-version-check", "--no-warn-conflicts")
        pip = [str(python), "-m", "pip", "install", *quiet, *packages]
        constraints = {"PIP_CONSTRAINT": str(ROOT / "constraints.txt")}
        subprocess.run(pip, check=True, env={**os.environ, **constraints})
    stamp.write_text(repr(ENGINES[name]))
    return python


def test(name: str) -> int:
    """Run the cases of an engine; return pytest's exit status."""
    print(f"{name}: the environment", flush=True)  # noqa: T201 - this is a command
    python = environment(name)
    command = [
        *(str(python), "-m", "pytest", "-p", "no:cacheprovider"),
        *("-o", "filterwarnings=ignore"),  # the engines warn about themselves
        str(HERE / f"{name}_cases.py"),
    ]
    own = {"PYTHONPATH": str(HERE), "PADDLE_PDX_DISABLE_MODEL_SOURCE_CHECK": "True"}
    return subprocess.run(command, check=False, cwd=ROOT, env={**os.environ, **own}).returncode


if __name__ == "__main__":
    unknown = set(sys.argv[1:]) - set(ENGINES)
    if unknown:
        sys.exit(f"no such engine: {', '.join(sorted(unknown))}")
    sys.exit(max(test(name) for name in sys.argv[1:] or ENGINES))
