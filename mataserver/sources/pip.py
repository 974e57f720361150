"""pip, run as a child process, and its failure reasons."""

from __future__ import annotations

import asyncio
import contextlib
import re
import signal
from collections import deque
from typing import TYPE_CHECKING

import msgspec

from mataserver.errors import BadRequest
from mataserver.processes.child import replace_environment, run_process
from mataserver.sources.wheels import InstalledModule, PipEnvironment

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Sequence

    from mataserver.processes.child import Child

_INSPECT = """
import importlib.metadata, importlib.util, json, os, site, sys, sysconfig
found = []
for one in importlib.metadata.distributions():
    try:
        found.append([one.metadata.get("Name"), one.metadata.get("Version")])
    except (ImportError, KeyError, OSError, TypeError, ValueError):
        continue
paths = sysconfig.get_paths()
own = sys.prefix != sys.base_prefix or os.access(paths["purelib"], os.W_OK)
user = not own and bool(site.ENABLE_USER_SITE)
if user:
    paths = sysconfig.get_paths(sysconfig.get_preferred_scheme("user"))
has_pip = importlib.util.find_spec("pip") is not None
paths["headers"] = paths["include"]
print(json.dumps({"paths": paths, "installed": found, "has_pip": has_pip, "user": user}))
"""
_MODULES = """
import importlib.metadata, importlib.util, json, sys
owners, found = importlib.metadata.packages_distributions(), {}
for name in sys.argv[1:]:
    try:
        spec = None if name in sys.stdlib_module_names else importlib.util.find_spec(name)
    except (ImportError, ValueError):
        spec = None
    if spec is not None:
        folders = list(spec.submodule_search_locations or ())
        origin = spec.origin if spec.has_location else None
        whose = sorted(set(owners.get(name, ())))
        found[name] = {"origin": origin, "folders": folders, "owners": whose}
print(json.dumps(found))
"""
_LINE_LIMIT = 16 * 1024 * 1024
_MAX_LINES = 400
_REASON_LENGTH = 500
# pip rolls back an incomplete change when interrupted; this is its timeout.
_INTERRUPT_SECONDS = 10.0
_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]*://\S+", re.IGNORECASE)
_PATH = re.compile(r"(?<![\w./-])(?:~|\.{1,2})?/[^\s'\",;)]+")


class Pip:
    """The pip of ``python``, run with the variables ``env``."""

    def __init__(
        self, python: str, env: dict[str, str], on_output: Callable[[str], None] | None
    ) -> None:
        self._python = python
        self._env = env
        self._on_output = on_output

    async def inspect(self) -> PipEnvironment:
        """Return the installed distributions and paths. Raises ``BadRequest`` without pip."""
        home = msgspec.json.decode(await self._run_script(_INSPECT), type=PipEnvironment)
        if not home.has_pip:
            raise BadRequest("this Python environment has no pip, so no package can be installed")
        return home

    async def modules(self, names: Iterable[str]) -> dict[str, InstalledModule]:
        """Return those of the top-level modules that are installed, without importing any."""
        return msgspec.json.decode(
            await self._run_script(_MODULES, *names), type=dict[str, InstalledModule]
        )

    async def run(self, command: str, *arguments: str) -> None:
        """Run a pip command. Raises ``BadRequest`` with pip's reason."""
        options = ("--disable-pip-version-check", "--no-input", "--progress-bar", "off")
        whole = (self._python, "-P", "-m", "pip", command, *options, *arguments)
        lines: deque[str] = deque(maxlen=_MAX_LINES)
        async with _process(*whole, env={**self._env, "PYTHONUNBUFFERED": "1"}) as child:
            async for raw in child.output:
                line = raw.decode(errors="replace").rstrip()
                lines.append(line)
                if self._on_output is not None:
                    self._on_output(line)
            if await child.wait() != 0:
                raise BadRequest(_reason(list(lines)))

    async def _run_script(self, script: str, *arguments: str) -> bytes:
        command = (self._python, "-P", "-W", "ignore", "-c", script, *arguments)
        async with _process(*command, env=self._env) as child:
            output = await child.output.read()
            if await child.wait() != 0:
                raise BadRequest("the Python environment cannot be examined")
        return output


@contextlib.asynccontextmanager
async def _process(*command: str, env: dict[str, str]) -> AsyncIterator[Child]:
    """Run a command without input; its process group is gone when the context ends."""
    async with run_process(
        command,
        environment=replace_environment(env),
        line_limit=_LINE_LIMIT,
        log="output",
    ) as child:
        child.close_input()
        try:
            yield child
        finally:
            await asyncio.shield(child.end(_INTERRUPT_SECONDS, signal.SIGINT))


def _reason(lines: Sequence[str]) -> str:
    """Return the reason of pip's failure in one line: conflict, errors, or last line."""
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
    return list(dict.fromkeys(found))  # repeated for each release that pip tried
