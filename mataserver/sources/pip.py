"""Backends that are Python packages: what is missing, and its installation by pip.

Packages come from an installed plugin's ``Backend`` only. Everything that is installed already is
pinned while pip runs, so it may add to the environment but can never replace a part of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import importlib.util
import json
import os
import re
import signal
import sys
import tempfile
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, cast

from mataserver.errors import BadRequest

if TYPE_CHECKING:
    from asyncio import StreamReader
    from asyncio.subprocess import Process
    from collections.abc import AsyncIterator, Callable, Mapping, Sequence

_NAME = r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?"
_CLAUSE = r"(?:===?|>=|<=|~=|!=|<|>)\s*[A-Za-z0-9][A-Za-z0-9.*+!_-]*"
_REQUIREMENT = re.compile(
    rf"{_NAME}(?:\[{_NAME}(?:\s*,\s*{_NAME})*\])?\s*(?:{_CLAUSE}(?:\s*,\s*{_CLAUSE})*)?", re.ASCII
)
# pip stops at a constraint that it cannot parse, so an odd distribution is left out instead.
_VERSION = re.compile(r"v?(\d+!)?\d+(\.\d+)*[A-Za-z0-9._-]*(\+[A-Za-z0-9._-]+)?", re.ASCII)
_PROBE = """
import importlib.metadata, importlib.util, json
found = []
for one in importlib.metadata.distributions():
    try:
        found.append([one.metadata["Name"], one.version])
    except (ImportError, KeyError, OSError, TypeError, ValueError):
        continue
print(json.dumps([importlib.util.find_spec("pip") is not None, found]))
"""
_LINE_LIMIT = 16 * 1024 * 1024
_KEPT_LINES = 400
_REASON_LENGTH = 500
# pip undoes a half-made change when it is interrupted; it gets this long.
_INTERRUPT_SECONDS = 10.0
_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]*://\S+", re.IGNORECASE)
_PATH = re.compile(r"(?<![\w./-])(?:~|\.{1,2})?/[^\s'\",;)]+")


def missing(requires: Sequence[str]) -> tuple[str, ...]:
    """Return those of the modules that cannot be found; nothing is imported.

    Of a dotted name the top level is looked for, since finding the rest would import it.
    """
    return tuple(name for name in requires if not _is_importable(name.partition(".")[0]))


async def install(
    packages: Sequence[str],
    on_output: Callable[[str], None] | None = None,
    *,
    python: str = sys.executable,
    environment: Mapping[str, str] | None = None,
) -> None:
    """Install packages into the environment of ``python``; ``on_output`` gets pip's lines.

    ``packages`` are plain requirements ("easyocr>=1.7"): options, addresses and markers are
    refused. Cancelling interrupts pip. Raises ``BadRequest`` with pip's reason, and without
    anything changed when a package does not fit what is installed.
    """
    for package in packages:
        if not _REQUIREMENT.fullmatch(package):
            raise BadRequest("a package of this backend is not a plain requirement")
    if not packages:
        return
    env = dict(os.environ if environment is None else environment)
    with tempfile.TemporaryDirectory(prefix="mataserver-pip-") as directory:
        constraints = Path(directory, "constraints.txt")
        await asyncio.to_thread(constraints.write_text, await _pins(python, env))
        lines = await _run_pip(python, env, constraints, packages, on_output)
    importlib.invalidate_caches()
    if lines is not None:
        raise BadRequest(f"pip could not install {', '.join(packages)}: {_reason(lines)}")


async def _pins(python: str, env: dict[str, str]) -> str:
    """Return what is installed as constraints. Raises ``BadRequest`` if there is no pip."""
    async with _process(python, "-P", "-c", _PROBE, env=env) as process:
        output = await cast("StreamReader", process.stdout).read()
        if await process.wait() != 0:
            raise BadRequest("the Python environment cannot be examined")
    has_pip, found = json.loads(output)
    if not has_pip:
        raise BadRequest("this Python environment has no pip, so no package can be installed")
    pins: dict[str, str] = {}
    for name, version in found:
        if name and version and re.fullmatch(_NAME, name) and _VERSION.fullmatch(version):
            # The first is the one that is imported; a second one would contradict it.
            pins.setdefault(re.sub(r"[-_.]+", "-", name).lower(), version)
    return "".join(f"{name}=={version}\n" for name, version in pins.items())


async def _run_pip(
    python: str,
    env: dict[str, str],
    constraints: Path,
    packages: Sequence[str],
    on_output: Callable[[str], None] | None,
) -> list[str] | None:
    """Return None, or pip's last lines if it failed."""
    options = ("--disable-pip-version-check", "--no-input", "--progress-bar", "off")
    command = (python, "-P", "-m", "pip", "install", *options, "--constraint", str(constraints))
    lines: deque[str] = deque(maxlen=_KEPT_LINES)
    async with _process(*command, *packages, env={**env, "PYTHONUNBUFFERED": "1"}) as process:
        async for raw in cast("StreamReader", process.stdout):
            line = raw.decode(errors="replace").rstrip()
            lines.append(line)
            if on_output is not None:
                on_output(line)
        failed = await process.wait() != 0
    return list(lines) if failed else None


@contextlib.asynccontextmanager
async def _process(*command: str, env: dict[str, str]) -> AsyncIterator[Process]:
    """Run a command in a process group of its own; when the context ends the group is gone."""
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env=env,
        start_new_session=True,
        limit=_LINE_LIMIT,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            await _stop(process)


async def _stop(process: Process) -> None:
    try:
        _signal(process, signal.SIGINT)
        await asyncio.wait_for(process.wait(), _INTERRUPT_SECONDS)
    except TimeoutError:
        pass
    finally:
        # Also what pip has started and left behind.
        _signal(process, signal.SIGKILL)
    await process.wait()


def _signal(process: Process, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, number)


def _reason(lines: Sequence[str]) -> str:
    """Say in one line why pip failed: the conflict it found, or its errors, or its last word."""
    reasons = _conflict(lines)
    if not reasons:
        errors = [line for line in lines if line.lower().startswith("error:")]
        reasons = [line[len("error:") :].strip() for line in errors[-3:]]
    if not reasons:
        reasons = [line for line in lines if line][-1:] or ["it gave no reason"]
    text = _PATH.sub("(a file)", _ADDRESS.sub("(an address)", "; ".join(reasons)))
    return text if len(text) <= _REASON_LENGTH else text[: _REASON_LENGTH - 3] + "..."


def _conflict(lines: Sequence[str]) -> list[str]:
    heads = [i for i, line in enumerate(lines) if line.startswith("The conflict is caused by")]
    found: list[str] = []
    for line in lines[heads[-1] + 1 :] if heads else ():
        if not line.startswith(" "):
            break
        pinned = line.strip().replace("The user requested (constraint)", "this environment has")
        found.append(pinned)
    return found


def _is_importable(name: str) -> bool:
    try:
        return name in sys.modules or importlib.util.find_spec(name) is not None
    except ValueError:
        return False
