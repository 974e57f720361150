"""Puts the helpers of these tests where they can import them; ends their browsers."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from browser_pages import Browser
from openapi_watch import documented_answers

__all__ = ["documented_answers"]

HERE = str(Path(__file__).parent)
if HERE not in sys.path:  # behind all others, whose tests have a conftest too
    sys.path.append(HERE)


@pytest.fixture(scope="module", autouse=True)
def _browsers():
    """Tests of a module share a browser; those of others count the children of their process."""
    yield
    Browser.end()
