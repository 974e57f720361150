"""What clients see stays what it was: the answers to some 300 recorded requests."""

from __future__ import annotations

import json

import pytest

import recorded_exchanges


@pytest.mark.undocumented("a stand-in answers in place of SAM, and BREW is no method")
@pytest.mark.parametrize("short_way", [True, False])
async def test_answers_are_those_that_were_recorded(short_way):
    """Status, headers and body of every recorded exchange are as they were, on both ways."""
    found = await recorded_exchanges.answers(short_way=short_way)
    recorded = json.loads(recorded_exchanges.FILE.read_text())
    changed = {
        name: (recorded.get(name), found.get(name))
        for name in recorded | found
        if recorded.get(name) != found.get(name)
    }
    assert not changed, json.dumps(changed, indent=1)[:4000]
