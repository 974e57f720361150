"""The peers' environments: made at the first use, outside the tree."""

from __future__ import annotations

import os
import subprocess
import venv
from pathlib import Path

HERE = Path(__file__).resolve().parent
SHARED = ("simplejpeg", "numpy", "pillow")
NETS = ("torch==2.13.0", "transformers")
PACKAGES: dict[str, tuple[tuple[str, ...], ...]] = {
    "fastapi": (
        (
            *("fastapi", "uvicorn", "uvloop", "httptools", "pydantic", "python-multipart"),
            *("websockets", "msgpack", *SHARED, *NETS),
        ),
    ),
    "litserve": (("litserve", "uvloop", "httptools", "python-multipart", *SHARED, *NETS),),
    "triton": (
        ("--no-deps", "nvidia-pytriton==0.7.0"),  # Triton 2.51, which knows numpy 1 alone
        ("numpy<2", "simplejpeg", "pillow"),
    ),
}
"""What pip is told, a call a tuple."""
TOLD = (
    *("fastapi", "uvicorn", "uvloop", "httptools", "pydantic", "litserve", "nvidia-pytriton"),
    *("simplejpeg", "torch"),
)


def folder() -> Path:
    """Return where the environments are: ``BENCH_ENVS`` or a folder of the user's cache."""
    return Path(os.environ.get("BENCH_ENVS", Path.home() / ".cache" / "mataserver-bench"))


def python(peer: str) -> str:
    """Return the interpreter of a peer's environment, which is made and filled if need be."""
    path = folder() / peer
    wanted = "\n\n".join("\n".join(call) for call in PACKAGES[peer])
    note = path / "bench-packages.txt"
    if not note.exists() or note.read_text() != wanted:
        print(f"making an environment for {peer} in {path}", flush=True)
        if not (path / "bin" / "python").exists():
            venv.create(path, with_pip=True)
        command = [str(path / "bin" / "python"), "-m", "pip", "install", "--quiet"]
        for call in PACKAGES[peer]:
            subprocess.run([*command, *call], check=True)
        note.write_text(wanted)
    return str(path / "bin" / "python")


def versions(peer: str) -> str:
    """Return the versions of what matters in a peer's environment."""
    code = (
        "import importlib.metadata as m, sys\n"
        "for n in sys.argv[1:]:\n"
        "    try: print(n, m.version(n))\n"
        "    except m.PackageNotFoundError: pass"
    )
    command = [python(peer), "-c", code, *TOLD]
    told = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return ", ".join(told.split("\n")[:-1])
