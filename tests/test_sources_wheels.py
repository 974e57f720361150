"""A pull never changes or hides an installed module: the real pip, wheels made here."""

from __future__ import annotations

import asyncio

import pytest

from mataserver.errors import BadRequest
from mataserver.plugins.records import mismatched
from mataserver.sources.packages import install
from package_index import Env

pytestmark = pytest.mark.long

SCRIPT = "[console_scripts]\ntool = {0}:main\n"


@pytest.fixture(scope="module")
def env(tmp_path_factory) -> Env:
    """An environment with cv_headless, which owns the module cv, a text file and a program."""
    made = Env.made(tmp_path_factory.mktemp("wheels"))
    made.add_wheel(
        "cv_headless",
        files={
            "cv/__init__.py": "kind = 'headless'\n",
            "cv/data.xml": "of headless\n",
            "cv/shared.py": "same = True\n",
            "LICENSE": "of headless\n",
            "cv_headless-1.0.dist-info/entry_points.txt": SCRIPT.format("cv"),
        },
    )
    asyncio.run(install(["cv_headless"], python=made.python, environment=made.variables))
    return made


async def pull(env: Env, *packages: str) -> None:
    await install(packages, python=env.python, environment=env.variables)


async def refusal(env: Env, *packages: str) -> str:
    """Return why a pull fails; it must leave the environment as it was."""
    before = env.state()
    with pytest.raises(BadRequest) as caught:
        await pull(env, *packages)
    assert env.state() == before
    return caught.value.detail


async def test_module_of_another_distribution_is_not_overwritten(env):
    """Two distributions of one module: the second is refused by name, nothing is changed."""
    env.add_wheel("cv_contrib", files={"cv/__init__.py": "kind = 'contrib'\n"})
    env.add_wheel("engine", requires=["cv_contrib"])
    assert await refusal(env, "engine>=1") == (
        "pip could not install engine>=1: cv-contrib 1.0 would overwrite the module cv of "
        "cv_headless; nothing was changed: install it into an environment of its own"
    )
    assert (env.version("engine"), env.version("cv_contrib")) == ("absent", "absent")
    assert env.run("import cv; print(cv.kind)") == "headless"


@pytest.mark.parametrize("file", ["cv.py", "cv.abi3.so"])
async def test_second_home_of_a_module_is_refused(env, file):
    """A module that would be found instead of the installed package hides it."""
    env.add_wheel("flat", files={file: "kind = 'flat'\n"})
    assert "flat 1.0 would hide the module cv of cv_headless" in await refusal(env, "flat")


async def test_module_elsewhere_on_the_path_is_not_hidden(env, tmp_path):
    """What lies in another folder of the path, as an editable one, counts as installed."""
    (tmp_path / "elsewhere" / "tool").mkdir(parents=True)
    (tmp_path / "elsewhere" / "tool" / "__init__.py").write_text("kind = 'mine'\n")
    (env.site / "mine.pth").write_text(f"{tmp_path / 'elsewhere'}\n")
    env.add_wheel("tool")
    assert "tool 1.0 would hide the module tool" in await refusal(env, "tool")
    assert env.run("import tool; print(tool.kind)") == "mine"


async def test_namespaces_grow_and_are_not_closed(env):
    """A part may join a namespace; an ``__init__`` that would make it a package is refused."""
    env.add_wheel("space_a", files={"space/a.py": ""})
    env.add_wheel("space_b", files={"space/b.py": ""})
    env.add_wheel("space_c", files={"space/__init__.py": "", "space/c.py": ""})
    await pull(env, "space_a")
    await pull(env, "space_b")
    assert env.run("import space.a, space.b; print('both')") == "both"
    assert "would hide the module space of space_a, space_b" in await refusal(env, "space_c")


async def test_what_is_no_code_is_put_back(env):
    """Texts, data and programs of another distribution keep their content; modules may agree."""
    before = env.state()
    env.add_wheel(
        "guest",
        files={
            "guest.py": "kind = 'guest'\n",
            "LICENSE": "of guest\n",
            "cv/data.xml": "of guest\n",
            "cv/shared.py": "same = True\n",
            "guest-1.0.data/purelib/guest_more.py": "",
            "guest-1.0.dist-info/entry_points.txt": SCRIPT.format("guest"),
        },
    )
    await pull(env, "guest")
    assert {name: env.state()[name] for name in before} == before
    assert env.run("import guest, guest_more; print(guest.kind)") == "guest"


async def test_code_in_a_data_folder_is_looked_at(env):
    """A wheel's ``.data`` folders are compared where pip puts them."""
    env.add_wheel("sly", files={"sly-1.0.data/platlib/cv/__init__.py": "kind = 'sly'\n"})
    assert "sly 1.0 would overwrite the module cv" in await refusal(env, "sly")


async def test_failure_halfway_leaves_nothing(env):
    """When the second wheel cannot be written, the first is taken away and what it wrote over."""
    (env.site / "late").write_text("a file where a folder should be")
    env.add_wheel("late", files={"late/module.py": ""}, requires=["early"])
    files = {"early.py": "", "early_parts/one.py": "", "cv/data.xml": "x", "cv/early.py": ""}
    env.add_wheel("early", files=files)
    await refusal(env, "late")
    assert (env.version("early"), env.version("late")) == ("absent", "absent")
    assert list(env.site.rglob("*early*")) == []


async def test_installed_package_of_an_odd_version_is_not_replaced(env):
    """A version that no constraint can hold keeps its package from being replaced all the same."""
    odd = env.site / "odd-1.dist-info"
    odd.mkdir()
    (odd / "METADATA").write_text("Metadata-Version: 2.1\nName: odd\nVersion: about one\n")
    (odd / "RECORD").write_text("odd-1.dist-info/METADATA,,\n")
    env.add_wheel("odd", "2.0")
    assert "it would replace odd, which is installed" in await refusal(env, "odd>=2")


def test_versions_that_do_not_suit_are_named():
    """Installed distributions outside of what is needed are told; absent ones are not."""
    assert mismatched(["pytest>=1", "pytest<1", "nobody-has-this>=3", "not a requirement"]) == (
        f"pytest {pytest.__version__}",
    )
