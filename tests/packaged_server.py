"""A packaged server in a process of its own: an empty folder, and no variables but its own."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import urllib.request
from dataclasses import dataclass
from typing import TYPE_CHECKING

import psutil

from cli_terminal import all_gone
from fresh_environment import KEY, ROOT, ask

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

RECEIPT = ROOT / "examples" / "pictures" / "receipt.jpg"


@dataclass(frozen=True, slots=True)
class Packaged:
    """A server that runs: what it was started as, and where it listens."""

    process: subprocess.Popen[str]
    url: str

    def family(self) -> list[int]:
        """Return the processes that descend from it."""
        children = psutil.Process(self.process.pid).children(recursive=True)
        return [child.pid for child in children]

    def read_receipt(self) -> str:
        """Have the receipt read; return its text."""
        answer = ask(f"{self.url}/v1/infer?model=rapidocr", RECEIPT.read_bytes(), "image/jpeg")
        return str(answer["text"])

    def health(self) -> dict[str, object]:
        """Ask for its health, without a key."""
        with urllib.request.urlopen(f"{self.url}/health") as answer:
            return dict(json.load(answer))


def variables(folder: Path, path: str, **more: str) -> dict[str, str]:
    """Return every variable of a server that lives in ``folder``; ``path`` is its PATH."""
    own = {"MATA_SERVER_DATA_DIR": str(folder / "data"), "MATA_SERVER_PORT": "0"}
    return {"PATH": path, "HOME": str(folder), "MATA_SERVER_API_KEY": KEY} | own | more


@contextlib.contextmanager
def running(
    command: Sequence[str | Path], environment: Mapping[str, str], folder: Path
) -> Iterator[Packaged]:
    """Run a server until the context ends: on SIGTERM it exits with 0 and leaves no process."""
    process = subprocess.Popen(
        command, env=environment, cwd=folder, stdout=subprocess.PIPE, text=True
    )
    with process:
        try:
            words = process.stdout.readline().split()
            server = Packaged(process, next(word for word in words if word.startswith("http")))
            yield server
            family = server.family()
        finally:
            process.send_signal(signal.SIGTERM)
            process.stdout.read()
            code = process.wait(timeout=30)
    assert code == 0
    assert all_gone(family)
