"""The types that an author's checker sees: they are there, and say what the server does."""

from __future__ import annotations

import inspect
import sys
from pathlib import Path

import pytest

import mataserver
from mataserver import run_process
from mataserver.contract import service

ROOT = Path(__file__).parents[1]
PROJECTS = [ROOT, ROOT / "clients" / "python", *sorted((ROOT / "plugins").iterdir())]


@pytest.mark.parametrize("project", PROJECTS, ids=lambda each: each.name)
def test_a_distribution_says_that_it_is_typed(project):
    """Without the marker a checker takes everything that is imported from it for ``Any``."""
    packages = [each.parent for each in project.glob("mataserver*/__init__.py")]
    assert packages
    assert [each.name for each in packages if not (each / "py.typed").is_file()] == []


def test_a_child_is_given_what_there_is():
    """The context's ``run_process`` takes what that of the module does."""
    told, there = (
        [
            (each.name, each.kind, each.default)
            for each in inspect.signature(one).parameters.values()
        ]
        for one in (service.RunProcess.__call__, run_process)
    )
    assert told[1:] == there


def test_every_name_of_the_door_can_be_found():
    """Also those that are imported when they are first used: ``dir()`` and completion show them."""
    assert set(mataserver.__all__) <= set(dir(mataserver))


def test_a_name_whose_package_is_missing_says_which(monkeypatch):
    """Not every server has PyAV: its author learns what to add to the plugin's dependencies."""
    monkeypatch.setitem(sys.modules, "av", None)
    monkeypatch.delitem(sys.modules, "mataserver.media.videos", raising=False)
    with pytest.raises(ModuleNotFoundError) as failed:
        mataserver.read_video  # noqa: B018 - the import is what fails
    assert str(failed.value) == "mataserver.read_video needs a package: pip install 'av>=18.1,<20'"
    assert failed.value.name == "av"
