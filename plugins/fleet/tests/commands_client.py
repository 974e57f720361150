"""Fixtures of tests of commands: a server on one kind of database, that looks often."""

from __future__ import annotations

import pytest


@pytest.fixture
def url():
    """The commands know no database: one kind is enough."""
    return


@pytest.fixture
async def client(serve):
    """A client of a server that looks at its Tritons often."""
    async with serve(fleet={"probe": 0.1}) as made:
        yield made
