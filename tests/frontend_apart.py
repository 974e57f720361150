"""Front-ends in processes of their own, each with its own view of the shared directory."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

import aiohttp
import psutil

if TYPE_CHECKING:
    from pathlib import Path

SERVER = """
import asyncio, json, sys
from pathlib import Path
from mataserver import MataError, config, logs, plugins, testing
from mataserver.app import running
folder = Path(sys.argv[1])
settings = config.load(environ={}, directory=folder, **json.loads(sys.argv[2]))
found = plugins.discover(settings, [testing.FAKE], {})
logs.configure("info", "text")
try:
    asyncio.run(running.run(settings, lambda url, state: print(url, flush=True), found))
except MataError as error:
    sys.exit(f"error: {error.told}")
"""
SHARED = 'mount --bind "$0" "$0" && exec "$@"'
"""The directory as the others have it, which can be made read-only for this one."""
SMALL = """
cp -r "$0" "$0.copy" && mount -t tmpfs -o size=64k none "$0" && cp -r "$0.copy/." "$0" && exec "$@"
"""
"""A disk of 64 KB, which can be filled."""


def namespace():
    """Return the command that gives a process mounts of its own, as root or as anybody."""
    return ["unshare", "--mount"] if os.geteuid() == 0 else ["unshare", "-Urm"]


def can_mount():
    """Whether this system lets a process have mounts of its own."""
    command = [*namespace(), "mount", "-t", "tmpfs", "-o", "size=64k", "none", "/mnt"]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


@dataclass(frozen=True, slots=True)
class Apart:
    """A front-end in a process of its own, and an HTTP session of a client of it."""

    url: str
    process: psutil.Process
    http: aiohttp.ClientSession
    shared: Path

    async def inside(self, *command):
        """Run a command where the front-end's mounts are; return its status and what it printed."""
        who = [] if os.geteuid() == 0 else ["--user", "--preserve-credentials"]
        running = await asyncio.create_subprocess_exec(
            *("nsenter", *who, "--mount", "--target", str(self.process.pid), *command),
            stdout=asyncio.subprocess.PIPE,
        )
        printed, _ = await running.communicate()
        return running.returncode, printed.decode()

    async def remount(self, how):
        """Make the shared directory read-only (``ro``) or not (``rw``), for this one alone."""
        async with asyncio.timeout(20):
            while (await self.inside("mount", "-o", f"remount,bind,{how}", str(self.shared)))[0]:
                await asyncio.sleep(0.05)  # a file is being written


async def started(folder, shared, mounts="", **settings):
    """Start a front-end; return its process, its address, and what it said where it has none."""
    folder.mkdir(exist_ok=True)
    chosen = {"port": 0, "api_keys": ["test-key"], "data_dir": str(folder), "drain_timeout": 2.0}
    options = json.dumps(chosen | {"shared_dir": str(shared)} | settings)
    command = [sys.executable, "-c", SERVER, str(folder), options]
    if mounts:
        command = [*namespace(), "sh", "-c", mounts, str(shared), *command]
    with (folder / "log").open("ab") as log:
        process = await asyncio.create_subprocess_exec(
            *command, stdout=asyncio.subprocess.PIPE, stderr=log
        )
    url = (await process.stdout.readline()).decode().strip()
    return process, url, "" if url else (folder / "log").read_text()


@contextlib.asynccontextmanager
async def apart(folder, shared, mounts="", **settings):
    """Run a front-end until the context ends, or it was killed."""
    process, url, said = await started(folder, shared, mounts, **settings)
    try:
        assert url, said
        headers = {"Authorization": "Bearer test-key"}
        async with aiohttp.ClientSession(url, headers=headers) as http:
            yield Apart(url, psutil.Process(process.pid), http, shared)
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
    assert "Traceback" not in (folder / "log").read_text(), (folder / "log").read_text()
