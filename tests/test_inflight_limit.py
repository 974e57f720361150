"""How many bytes of all requests together may be in memory, where nothing is set."""

from __future__ import annotations

import pytest

from mataserver import config
from mataserver.http import budget

MB = 1_000_000


@pytest.mark.parametrize(
    ("memory", "settings", "limit"),
    [
        (64_000 * MB, {}, 512 * MB),
        (1_000 * MB, {}, 250 * MB),
        (100 * MB, {}, 32 * MB),  # one body of any size that is permitted
        (1_000 * MB, {"max_body_mb": 300.0}, 300 * MB),
        (1_000 * MB, {"max_inflight_mb": 700.0}, 700 * MB),
    ],
)
def test_a_quarter_of_a_small_memory(monkeypatch, memory, settings, limit):
    """A small machine is not filled by clients, and what is set holds whatever its memory is."""
    monkeypatch.setattr(budget, "ram_total", lambda: memory)
    assert budget.inflight_limit(config.load(environ={}, **settings)) == limit
