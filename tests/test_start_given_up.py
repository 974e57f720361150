"""A signal while services still start: nobody was served yet, so nothing is waited for."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import pytest

PROGRAM = """
import asyncio, importlib.metadata, json, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from mataserver import config, plugins
from mataserver.app import running
folder = Path(sys.argv[1])
settings = config.load(environ={}, directory=folder, **json.loads(sys.argv[2]))
points = [importlib.metadata.EntryPoint("hangs", "hangs", "mataserver")]
found = plugins.discover(settings, points, {})
asyncio.run(running.run(settings, lambda url, state: print("listens", flush=True), found))
print("ended", flush=True)
"""
PLUGIN = """
import asyncio
from mataserver import hookimpl

class Service:
    def __init__(self, ctx):
        pass

    def routes(self):
        return []

    async def __aenter__(self):
        print("starts", flush=True)
        while True:
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                print("was given up", flush=True)
                {then}

    async def __aexit__(self, *exc):
        pass

@hookimpl
def service(ctx):
    return Service(ctx)
"""
LONG = 120.0
"""Seconds of drain_timeout, for which nobody waits."""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize(
    ("then", "said", "code"), [("raise", ["ended"], 0), ("pass", [], 1)], ids=["yields", "clings"]
)
def test_a_signal_while_a_service_hangs(tmp_path, number, then, said, code):
    """The service is cancelled, and the server ends at once; also if the service hangs on."""
    (tmp_path / "hangs.py").write_text(PLUGIN.replace("{then}", then))
    settings = {"data_dir": str(tmp_path), "port": 0, "drain_timeout": LONG, "api_keys": ["key"]}
    command = [sys.executable, "-c", PROGRAM, str(tmp_path), json.dumps(settings)]
    environ = {**os.environ, "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environ, text=True) as process:
        try:
            assert process.stdout.readline() == "starts\n"
            process.send_signal(number)
            rest = process.communicate(timeout=LONG / 2)[0].splitlines()
        finally:
            process.kill()
    assert (rest, process.returncode) == (["was given up", *said], code)
