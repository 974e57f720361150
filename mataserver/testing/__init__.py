"""Test support for the core and plugin authors: fake models, a server, plugin checks.

With ``mataserver[testing]`` installed, pytest has the fixtures of ``mataserver.testing.fixtures``.
"""

from mataserver.testing.checks import FRAMEWORKS, check_plugin, imported_frameworks, installed
from mataserver.testing.fakes import (
    FAKE,
    FakeModel,
    FakeParams,
    FakePlugin,
    FakeSettings,
    FakeTracker,
    fake,
)
from mataserver.testing.serving import Served, serving

__all__ = [
    "FAKE",
    "FRAMEWORKS",
    "FakeModel",
    "FakeParams",
    "FakePlugin",
    "FakeSettings",
    "FakeTracker",
    "Served",
    "check_plugin",
    "fake",
    "imported_frameworks",
    "installed",
    "serving",
]
