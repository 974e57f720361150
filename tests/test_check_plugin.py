"""What a plugin's author is told by ``mataserver.testing``: frameworks, names, faults."""

from __future__ import annotations

import importlib.metadata
import sys
from pathlib import Path

import pytest

from mataserver import config, testing
from mataserver import plugins as plugin_host
from mataserver.plugins import discover
from mataserver.testing import check_plugin, installed
from plugin_sources import (
    HOOKS,
    plugin_fixture,  # noqa: F401 - fixtures
)

pytestmark = pytest.mark.long

PROVIDED = sorted(importlib.metadata.entry_points(group=plugin_host.GROUP).names)


@pytest.mark.parametrize("name", PROVIDED)
def test_installed_plugins_are_sound(name):
    """Neither the entry module of an installed plugin nor its hooks import a framework."""
    assert check_plugin(name) == []


def test_this_repositorys_plugins_are_installed():
    """The tests see every plugin of this repository."""
    assert {"detect", "hf_ocr", "ocr", "opencv"} <= set(PROVIDED)


def test_check_plugin_tells_what_is_not_there():
    """A name that nothing declares is a problem, and ``installed`` raises for it."""
    (problem,) = check_plugin("nobody-has-this")
    assert "is it installed?" in problem
    with pytest.raises(LookupError, match="nobody-has-this"):
        installed("nobody-has-this")


HEAVY = """
@hookimpl
def backends():
    import cv2
    return [backend()]
"""


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        (HOOKS, []),
        (HEAVY, ["its import or its hooks import cv2"]),
        ("import cv2" + HOOKS, ["its import or its hooks import cv2"]),
        ("raise RuntimeError('no luck')", ["tried: RuntimeError: no luck"]),
    ],
)
def test_check_plugin_finds_what_is_wrong(plugin, monkeypatch, source, problem):
    """A framework that the import or a hook brings in is a problem, and so is a broken plugin."""
    point = plugin(source, name="tried")
    folder = Path(sys.path[0])
    monkeypatch.setenv("PYTHONPATH", str(folder))
    about = folder / "tried-1.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: tried\nVersion: 1\n")
    (about / "entry_points.txt").write_text(f"[{point.group}]\n{point.name} = {point.value}\n")
    importlib.invalidate_caches()
    assert [each.partition(" (plugin_under_test_")[0] for each in check_plugin("tried")] == problem


def test_imported_frameworks_sees_a_framework():
    """A module that imports a framework is found out in a fresh interpreter."""
    assert testing.imported_frameworks("cv2") == ["cv2"]
    assert testing.imported_frameworks("mataserver.testing") == []


def test_the_fake_plugin_is_sound():
    """The fake plugin passes the same checks as any other."""
    found = discover(config.Settings(), [testing.FAKE])
    assert found.found[0].error is None
    assert len(found.provided) == 11
