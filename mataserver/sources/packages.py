"""Backends that are Python packages: their installation by pip.

Packages are named only by an installed plugin's ``Backend``. pip resolves with everything installed
pinned; the chosen wheels are downloaded and inspected, and installed only if every installed module
remains unchanged: a pull adds to the environment or changes nothing.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import InvalidName, canonicalize_name
from packaging.version import InvalidVersion, Version

from mataserver.errors import BadRequest
from mataserver.processes import variables
from mataserver.sources.pip import Pip
from mataserver.sources.wheels import Installation, Wheel

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from mataserver.sources.wheels import PipEnvironment


async def install(
    packages: Sequence[str],
    on_output: Callable[[str], None] | None = None,
    *,
    python: str = sys.executable,
    environment: Mapping[str, str] | None = None,
) -> None:
    """Install packages into the environment of ``python``; ``on_output`` receives pip's lines.

    ``packages`` are plain requirements ("easyocr>=1.7"): options, URLs and markers are rejected.
    Raises ``BadRequest`` with pip's reason, or with the module that a package would overwrite or
    hide; then, and if cancelled, the environment is restored.
    """
    if not all(map(_is_plain, packages)):
        raise BadRequest("a package of this backend is not a plain requirement")
    if not packages:
        return
    env = variables.for_child(variables.PIP, environment)
    pip = Pip(python, env, on_output)
    home = await pip.inspect()
    with tempfile.TemporaryDirectory(prefix="mataserver-pip-") as directory:
        try:
            await _install(pip, home, packages, Path(directory))
        except BadRequest as error:
            raise BadRequest(
                f"pip could not install {', '.join(packages)}: {error.detail}"
            ) from None
    importlib.invalidate_caches()


async def _install(pip: Pip, home: PipEnvironment, packages: Sequence[str], folder: Path) -> None:
    """Resolve, download, inspect, install. Raises ``BadRequest`` with the reason."""
    constraints, report, wheels = (folder / name for name in ("pins.txt", "report.json", "wheels"))
    await asyncio.to_thread(constraints.write_text, _pins(home))
    await pip.run(
        *("install", "--dry-run", "--report", str(report), "--constraint", str(constraints)),
        *packages,
    )
    chosen = _resolved(await asyncio.to_thread(report.read_bytes), home)
    if not chosen:
        return
    await pip.run("wheel", "--no-deps", "--wheel-dir", str(wheels), *chosen)
    await _install_wheels(pip, home, sorted(wheels.glob("*.whl")), folder)


async def _install_wheels(
    pip: Pip, home: PipEnvironment, files: Sequence[Path], folder: Path
) -> None:
    """Install wheels, all or none. Raises ``BadRequest`` with the reason."""
    found = await asyncio.to_thread(lambda: [Wheel(file, home) for file in files])
    modules = await pip.modules({name for wheel in found for name in wheel.modules})
    installation = Installation(found, folder)
    await asyncio.to_thread(installation.check, modules)
    await asyncio.to_thread(installation.back_up)
    where = "--user" if home.user else "--no-user"
    try:
        await pip.run("install", "--no-deps", "--no-index", where, *map(str, files))
        await asyncio.to_thread(installation.restore)
    except BaseException:
        await asyncio.to_thread(installation.roll_back)
        raise


def _is_plain(package: str) -> bool:
    """Whether pip takes a text for a name, with extras and versions, and nothing else."""
    try:
        requirement = Requirement(package)
    except InvalidRequirement:
        return False
    return requirement.url is None and requirement.marker is None


def _pins(home: PipEnvironment) -> str:
    """Return the installed distributions as constraints."""
    pins: dict[str, str] = {}
    for name, version in home.installed:
        try:  # pip fails on a constraint that it cannot parse
            known = canonicalize_name(name or "", validate=True)
            Version(version or "")
        except (InvalidName, InvalidVersion):
            continue
        # The first one is imported; a second one would contradict it.
        pins.setdefault(known, version or "")
    return "".join(f"{name}=={version}\n" for name, version in pins.items())


def _resolved(report: bytes, home: PipEnvironment) -> list[str]:
    """Return what pip would install, with versions.

    Raises ``BadRequest`` for a distribution that is installed: its version could not be pinned.
    """
    installed = {canonicalize_name(name) for name, _ in home.installed if name}
    chosen = [each["metadata"] for each in json.loads(report)["install"]]
    for each in chosen:
        if canonicalize_name(each["name"]) in installed:
            raise BadRequest(f"it would replace {each['name']}, which is installed")
    return [f"{each['name']}=={each['version']}" for each in chosen]
