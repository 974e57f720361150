"""What a release is made of: the lock file against what the distributions declare."""

from __future__ import annotations

import re
import runpy
import tomllib

import pytest
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import mataserver
from fresh_environment import ROOT

RELEASE = runpy.run_path(str(ROOT / "packaging" / "release.py"))
LOCKED = RELEASE["locked"]()


def declared(folder):
    """Return what a distribution needs of others, with the extras that a release has."""
    project = tomllib.loads((ROOT / folder / "pyproject.toml").read_text())["project"]
    extras = project.get("optional-dependencies", {})
    chosen = RELEASE["EXTRAS"] if folder == "." else ()
    lines = [*project["dependencies"], *(line for name in chosen for line in extras[name])]
    found = [Requirement(line) for line in lines]
    here = default_environment()
    needed = [each for each in found if each.marker is None or each.marker.evaluate(here)]
    return [each for each in needed if not each.name.startswith("mataserver")]


@pytest.mark.parametrize("folder", RELEASE["OURS"])
def test_what_a_distribution_needs_is_locked(folder):
    """Each requirement is locked, in a version that it allows: else make lock."""
    for each in declared(folder):
        version = LOCKED[canonicalize_name(each.name)]
        assert each.specifier.contains(version, prereleases=True), f"{each}: {version} is locked"


def test_every_package_has_its_hashes():
    """No package is taken that was not looked at when the file was made; none is ours."""
    text = RELEASE["LOCK"].read_text()
    packages = re.split(r"^(?=[a-z0-9])", text, flags=re.MULTILINE)[1:]
    assert len(packages) == len(LOCKED) > 30
    assert all(re.search(r"--hash=sha256:[0-9a-f]{64}", each) for each in packages)
    assert not any(name.startswith("mataserver") for name in LOCKED)


def test_the_image_and_the_file_hold_the_same():
    """The Dockerfile, the one-file build and the lock file name the same plugins."""
    plugins = {f"./plugins/{name}" for name in RELEASE["PLUGINS"]}
    built = re.search(
        r"pip wheel.*--no-deps (.*)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE
    )
    assert set(built[1].split()) - {"--wheel-dir", "/wheels/ours"} == {
        "./clients/python",
        ".",
        *plugins,
    }
    binary = re.search(r"^BINARY := (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)[1]
    assert {f"./plugins/{name}" for name in binary.split()} == plugins


def test_all_is_published_in_one_version():
    """A release has every distribution of the repository, each in the server's version."""
    published = RELEASE["DISTRIBUTIONS"]
    found = {path.parent.relative_to(ROOT).as_posix() for path in ROOT.glob("**/pyproject.toml")}
    ours = {each for each in found if each.split("/")[0] in {".", "clients", "plugins"}}
    assert set(published) == ours
    projects = [tomllib.loads((ROOT / each / "pyproject.toml").read_text()) for each in published]
    versions = {each["project"].get("version", mataserver.__version__) for each in projects}
    assert versions == {mataserver.__version__}
