"""For tests, the core's and those of plugin authors: fake models, a server, a check of a plugin.

Whoever has ``mataserver[testing]`` finds the fixtures of ``mataserver.testing.fixtures`` in pytest.
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
