"""A user's terminal for the tests of the command line: its own home, plugins made of text."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from click.testing import CliRunner

from mataserver.cli import cli

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pytest
    from click.testing import Result

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Terminal:
    """An empty home directory, which is the working directory, and nothing set."""

    def __init__(self, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.home = home
        self.data = home / "data"
        self.site = home / "site"
        self.site.mkdir()
        self._monkeypatch = monkeypatch
        for name in list(os.environ):
            if name.startswith(("MATA_SERVER_", "HF_", "HUGGINGFACE_")):
                monkeypatch.delenv(name)
        monkeypatch.setenv("MATA_SERVER_DATA_DIR", str(self.data))
        monkeypatch.setenv("HF_HOME", str(home / "hf"))
        monkeypatch.setenv("PYTHONPATH", str(self.site))
        monkeypatch.chdir(home)

    def run(self, *arguments: str) -> Result:
        """Run a command in this process."""
        with log_restored():
            return CliRunner().invoke(cli, arguments, prog_name="mataserver")

    def start(self, *arguments: str, **options) -> subprocess.Popen[str]:
        """Start a command in a process and a process group of its own."""
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | options
        command = [sys.executable, "-m", "mataserver", *arguments]
        return subprocess.Popen(command, text=True, start_new_session=True, **pipes)

    def finish(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a command in a process of its own to its end."""
        command = [sys.executable, "-m", "mataserver", *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    def cache(self, repo_id: str, *, megabytes: float, accessed: float) -> None:
        """Put a model into the hub's cache, in its documented layout; the weights are a hole."""
        repository = self.home / "hf" / "hub" / "--".join(("models", *repo_id.split("/")))
        snapshot = repository / "snapshots" / COMMIT
        snapshot.mkdir(parents=True)
        (repository / "refs").mkdir()
        (repository / "refs" / "main").write_text(COMMIT)
        (repository / "blobs").mkdir()
        config = b'{"model_type": "fake"}'
        for name, size in {
            "config.json": len(config),
            "model.safetensors": round(megabytes * 1e6) - len(config),
        }.items():
            blob = repository / "blobs" / name.partition(".")[0]
            blob.write_bytes(config if name == "config.json" else b"")
            os.truncate(blob, size)
            os.utime(blob, (accessed, 1.0))
            (snapshot / name).symlink_to(Path("..", "..", "blobs", blob.name))

    def install(self, distribution: str, source: str = "", **groups: dict[str, str]) -> None:
        """Install a distribution with entry points; ``source`` becomes its module."""
        module = distribution.replace("-", "_")
        named = {group.replace("_", "."): points for group, points in groups.items()}
        write_distribution(self.site, distribution, named)
        (self.site / f"{module}.py").write_text(source)
        self._monkeypatch.syspath_prepend(str(self.site))
        self._monkeypatch.delitem(sys.modules, module, raising=False)


def write_distribution(site: Path, name: str, groups: dict[str, dict[str, str]]) -> None:
    """Write what the installer would of a distribution of version 1.0 with these entry points."""
    info = site / f"{name.replace('-', '_')}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    lines = []
    for group, points in groups.items():
        lines.append(f"[{group}]")
        lines += [f"{point} = {value}" for point, value in points.items()]
    (info / "entry_points.txt").write_text("\n".join(lines))


@contextlib.contextmanager
def log_restored() -> Iterator[None]:
    """The commands send the log to their own stderr; take that back."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    try:
        yield
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)


class Server:
    """``mataserver serve`` in a process; ``said`` are the lines it printed when it was ready."""

    def __init__(self, terminal: Terminal, *arguments: str) -> None:
        self._log = terminal.home / "serve.log"
        with self._log.open("w") as log:
            self.process = terminal.start("serve", "--port", "0", *arguments, stderr=log)
        self.said: list[str] = []
        for line in self.process.stdout:
            self.said.append(line.rstrip("\n"))
            if line.startswith("  models:"):
                break
        if not self.said:
            self.end()
            raise AssertionError(f"the server did not start: {self.log}")
        self.url = self.said[0].split()[4]

    @property
    def log(self) -> str:
        """What it has logged so far."""
        return self._log.read_text()

    def value(self, label: str) -> str | None:
        """Return what the line of that label says."""
        start = f"  {label}:"
        found = [line for line in self.said if line.startswith(start)]
        return found[0][len(start) :].strip() if found else None

    def family(self) -> list[int]:
        """Return the processes that descend from it."""
        parents = {int(each.name): _parent(each) for each in Path("/proc").glob("[0-9]*")}
        found = [self.process.pid]
        for pid in found:
            found += [child for child, parent in parents.items() if parent == pid]
        return found[1:]

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Signal it and return its exit code."""
        self.process.send_signal(number)
        code = self.process.wait(timeout=30)
        self.process.stdout.close()
        return code


@contextlib.contextmanager
def serving(terminal: Terminal, *arguments: str) -> Iterator[Server]:
    """Run a server until the context ends."""
    server = Server(terminal, *arguments)
    try:
        yield server
    finally:
        if server.process.poll() is None:
            server.end()


def said(server: Server, words: str) -> None:
    """Wait until a server has logged something."""
    until = time.monotonic() + 30
    while words not in server.log:
        assert time.monotonic() < until, server.log
        time.sleep(0.05)


def all_gone(pids: list[int], seconds: float = 10.0) -> bool:
    """Whether the processes have ended, or end soon."""
    until = time.monotonic() + seconds
    while any(Path(f"/proc/{pid}").exists() for pid in pids):
        if time.monotonic() > until:
            return False
        time.sleep(0.02)
    return True


def _parent(process: Path) -> int:
    try:
        return int((process / "stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0
