"""Backends that are Python packages, installed by the real pip from wheels made here."""

from __future__ import annotations

import asyncio
import os
import tarfile
import time
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest

from mataserver.errors import BadRequest
from mataserver.sources.packages import _pins, install
from mataserver.sources.pip import Pip, _reason
from package_index import Env

if TYPE_CHECKING:
    from collections.abc import Callable

HANGING_BACKEND = """
import os, time
def build_wheel(directory, *_, **__):
    with open(os.environ["XDG_MARKER"], "w") as marker:
        marker.write(f"{os.getpid()}.")
    time.sleep(300)
def get_requires_for_build_wheel(*_):
    return []
"""
HANGING_PROJECT = """
[build-system]
requires = []
build-backend = "hanging_backend"
backend-path = ["."]
[project]
name = "hanging"
version = "1.0"
"""


def make_hanging_sdist(folder: Path) -> None:
    with tarfile.open(folder / "hanging-1.0.tar.gz", "w:gz") as archive:
        for name, text in {
            "pyproject.toml": HANGING_PROJECT,
            "hanging_backend.py": HANGING_BACKEND,
            "PKG-INFO": "Metadata-Version: 2.1\nName: hanging\nVersion: 1.0\n",
        }.items():
            entry = tarfile.TarInfo(f"hanging-1.0/{name}")
            entry.size = len(text)
            archive.addfile(entry, BytesIO(text.encode()))


@pytest.fixture(scope="module")
def env(tmp_path_factory: pytest.TempPathFactory) -> Env:
    made = Env.made(tmp_path_factory.mktemp("pip"))
    for name, version, *requires in (
        ("base", "1.0"),
        ("base", "2.0"),
        ("addon", "1.0", "base>=2"),
        ("good", "1.0", "base"),
        ("lost", "1.0", "nowhere"),
    ):
        made.add_wheel(name, version, requires=requires)
    make_hanging_sdist(made.wheels)
    made.variables["XDG_MARKER"] = str(made.root / "marker")
    asyncio.run(install(["base==1.0"], python=made.python, environment=made.variables))
    return made


async def refusal(env: Env, *packages: str) -> str:
    with pytest.raises(BadRequest) as caught:
        await install(packages, python=env.python, environment=env.variables)
    assert caught.value.status == 400
    return caught.value.detail


async def test_packages_are_installed_beside_what_is_there(env):
    """A package that fits is installed, and what it needs stays as it is."""
    lines: list[str] = []
    await install(["good>=1"], lines.append, python=env.python, environment=env.variables)
    assert (env.version("good"), env.version("base")) == ("1.0", "1.0")
    assert "Successfully installed good-1.0" in lines


async def test_package_that_would_replace_another_is_refused(env):
    """A conflict with what is installed is told in pip's words and changes nothing."""
    assert await refusal(env, "addon") == (
        "pip could not install addon: addon 1.0 depends on base>=2; this environment has base==1.0"
    )
    assert (env.version("addon"), env.version("base")) == ("absent", "1.0")


async def test_newer_version_of_what_is_installed_is_refused(env):
    """A backend that asks for another version than the installed one does not get it."""
    assert "this environment has base==1.0" in await refusal(env, "base==2.0")
    assert env.version("base") == "1.0"


async def test_package_that_is_not_found_is_told(env):
    """The errors of pip are the reason, for a package and for what it needs."""
    assert "No matching distribution found for nothing" in await refusal(env, "nothing")
    assert "No matching distribution found for nowhere" in await refusal(env, "good", "lost")


@pytest.mark.parametrize(
    "package",
    [
        *("", "-r x", "--index-url=http://x", "-e .", "./x", "/x", "x.whl/..", "x @ http://y/x"),
        *(
            "git+https://x/y",
            "x; python_version>'3'",
            "x y",
            "x\n--pre",
            "x>=",
            "x==1;",
            "é",
            "x[a",
        ),
    ],
)
async def test_only_plain_requirements_reach_pip(package):
    """Options, addresses, paths and markers are refused before any process is started."""
    with pytest.raises(BadRequest, match="is not a plain requirement"):
        await install(["fine>=1", package], python="/nonexistent")


async def test_plain_requirements_are_taken(env):
    """Names, extras and versions pass, and pip understands them."""
    packages = ("nowhere", "x>=1.0,<2", "x[a,b-c]~=1.2", "x == 1.*", "a.b_c!=2", "x==1!2.0+cpu")
    reason = await refusal(env, *packages)
    assert "No matching distribution found for nowhere" in reason


async def test_nothing_to_install_starts_nothing():
    """An empty list needs no pip."""
    await install([], python="/nonexistent")


async def test_environment_without_pip_is_told(env):
    """An environment made without pip cannot install, and says so."""
    bare = Env(env.root, {k: v for k, v in env.variables.items() if k != "PYTHONPATH"})
    assert await refusal(bare, "good") == (
        "this Python environment has no pip, so no package can be installed"
    )


async def test_first_of_two_installed_versions_is_pinned(env, tmp_path):
    """A distribution that is there twice is pinned once, as the one that is imported."""
    for folder, name in (("Odd.Name-3.0.dist-info", "Odd.Name"), ("base-9.dist-info", "Base")):
        (tmp_path / folder).mkdir()
        version = "not a version" if "Odd" in name else "9"
        (tmp_path / folder / "METADATA").write_text(f"Name: {name}\nVersion: {version}\n")
    (tmp_path / "broken-1.dist-info").mkdir()
    paths = os.pathsep.join((str(tmp_path), env.variables["PYTHONPATH"]))
    pins = _pins(await Pip(env.python, env.variables | {"PYTHONPATH": paths}, None).inspect())
    assert "base==9\n" in pins
    assert "1.0" not in "".join(line for line in pins.splitlines() if line.startswith("base"))
    assert "odd" not in pins


@pytest.mark.parametrize(
    ("version", "pinned"),
    [
        *((each, True) for each in ("1", "v1.0", "1!2.0rc1.post2", "2.1.0+cu118")),
        *((each, False) for each in ("", "v", "a1", "1!", "1+", "1 0", "1;0", "1+a+b", "1.0a-b_c")),
        ("1." * 200_000 + "!", False),  # which took as many steps as the square of that
    ],
)
def test_versions_that_pip_can_read(version, pinned):
    """A constraint that pip cannot read would end every pull."""
    home = SimpleNamespace(installed=[("some", version)])
    assert _pins(home) == (f"some=={version}\n" if pinned else "")


def poll(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "it has not happened"
        time.sleep(0.02)


def is_gone(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return True
    return state == "Z"


async def test_cancelled_installation_leaves_no_process(env):
    """Cancelling ends pip and what pip has started."""
    marker = Path(env.variables["XDG_MARKER"])

    def is_building() -> bool:
        return marker.exists() and marker.read_text().endswith(".")

    task = asyncio.create_task(install(["hanging"], python=env.python, environment=env.variables))
    await asyncio.to_thread(poll, is_building)
    pid = int((await asyncio.to_thread(marker.read_text))[:-1])
    assert not is_gone(pid)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.to_thread(poll, lambda: is_gone(pid))
    assert env.version("hanging") == "absent"


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        (["ERROR: no: https://user:secret@host/simple/"], "no: (an address)"),
        (["error: externally-managed-environment"], "externally-managed-environment"),
        (
            ["ERROR: Could not open /home/me/x.whl, ./y or '~/z'"],
            "Could not open (a file), (a file) or '(a file)'",
        ),
        (["Collecting x", "Killed", ""], "Killed"),
        ([], "it gave no reason"),
        (["ERROR: " + "x" * 1000], "x" * 497 + "..."),
        ([f"ERROR: {i}" for i in range(9)], "6; 7; 8"),
    ],
)
def test_reason_is_short_and_names_no_place(lines, reason):
    """The last errors of pip are told without addresses, credentials and paths."""
    assert _reason(lines) == reason
