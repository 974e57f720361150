"""A server that may not confine its models, as of a service whose system calls are filtered."""

from __future__ import annotations

import subprocess
import sys

import pytest

from cli_terminal import Terminal

REFUSING = """
import ctypes, os, struct, sys

LOAD, EQUAL, RETURN, ALLOW, EPERM = 0x20, 0x15, 0x06, 0x7FFF0000, 0x00050001
CALLS = (444, 445, 446)  # Landlock's
code = [(LOAD, 0, 0, 0)]
code += [(EQUAL, len(CALLS) - at, 0, number) for at, number in enumerate(CALLS)]
code += [(RETURN, 0, 0, ALLOW), (RETURN, 0, 0, EPERM)]
text = b"".join(struct.pack("=HBBI", *each) for each in code)
program = struct.pack("@HP", len(code), ctypes.addressof(kept := ctypes.create_string_buffer(text)))
prctl = ctypes.CDLL(None).prctl
if prctl(38, 1, 0, 0, 0) or prctl(22, 2, program, 0, 0):
    sys.exit(77)
os.execv(sys.executable, [sys.executable, "-m", "mataserver", "serve", "--port", "0"])
"""


@pytest.mark.parametrize(
    ("settings", "warned"),
    [
        ("{}", True),
        ("confine_models: false", False),
        ("engine: thread", False),
        ("{engine: thread, models: [{model: fake-ocr, task: ocr, engine: process}]}", True),
        ("{engine: thread, models: [{model: fake-ocr, task: ocr, max_ram_mb: 900}]}", True),
    ],
)
def test_models_that_are_not_confined_are_told(tmp_path, monkeypatch, settings, warned):
    """Where Landlock is refused, the start says that models may use every file.

    Models in the server's own process are never confined, so it says nothing of them.
    """
    Terminal(tmp_path, monkeypatch)
    (tmp_path / "mataserver.yaml").write_text(settings)
    command = [sys.executable, "-c", REFUSING]
    log = tmp_path / "log"
    with (
        log.open("w") as errors,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True) as server,
    ):
        said = any(line.startswith("  models:") for line in server.stdout)
        server.terminate()
    if server.returncode == 77:
        pytest.skip("this kernel has no filters of system calls")
    assert said, log.read_text()
    assert ("models may use every file" in log.read_text()) == warned
