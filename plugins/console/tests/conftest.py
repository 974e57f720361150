"""Puts the helpers of these tests where they can import them; ends their browsers."""

from __future__ import annotations

import sys
from pathlib import Path

from browser_pages import Browser

HERE = str(Path(__file__).parent)
if HERE not in sys.path:  # behind all others, whose tests have a conftest too
    sys.path.append(HERE)


def pytest_sessionfinish():
    """End the browsers that tests share."""
    Browser.end()
