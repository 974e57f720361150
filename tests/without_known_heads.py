"""A plugin of pytest: servers of tests go by aiohttp's own way, as with ``short_way: false``.

``PYTHONPATH=tests python -m pytest -p without_known_heads`` asks the tests whether they can tell.
"""

from __future__ import annotations

from mataserver.testing.serving import DEFAULTS


def pytest_configure() -> None:
    """Have every server that a test starts in its process without the short way."""
    DEFAULTS["short_way"] = False
