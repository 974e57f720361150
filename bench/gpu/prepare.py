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
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "build" / "gpu"
PYTHON, PLATFORM = "3.12", "manylinux_2_28_x86_64"
LIMIT = 60e6
"""Bytes that everything together may take."""
OWN = (".", "plugins/hf", "plugins/sam")
CARRIED = (
    *("aiohttp", "aiosignal", "attrs", "frozenlist", "multidict", "propcache", "yarl", "idna"),
    *("aiohappyeyeballs", "msgspec", "multipart", "nvidia-ml-py", "pluggy", "prometheus_client"),
    *("pybase64", "python-dotenv", "simplejpeg", "uvloop", "zlib-ng", "psutil", "packaging"),
    *("transformers", "tokenizers", "safetensors", "huggingface_hub"),
)
"""Packages that come along in the versions that are installed here."""
PROGRAMS = ("bench/gpu/*.py", "bench/generator.py", "plugins/hf/tests/tiny*.py")


def pip(*arguments: str) -> None:
    """Run pip."""
    subprocess.run([sys.executable, "-m", "pip", *arguments, "--quiet"], check=True, cwd=ROOT)


def main() -> None:
    """Fill the folder."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER
    shutil.rmtree(folder, ignore_errors=True)
    wheels = folder / "wheels"
    for own in OWN:
        pip("wheel", "--no-deps", "--wheel-dir", str(wheels), f"{ROOT}/{own}")
    pinned = [f"{name}=={version(name)}" for name in CARRIED]
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
