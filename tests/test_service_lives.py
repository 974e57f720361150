"""How services start and end, one after the other, and what a failed start leaves: nothing."""

from __future__ import annotations

import pytest

from mataserver.testing import FAKE, serving
from own_processes import descendants
from service_plugins import folder, plugin

__all__ = ["folder", "plugin"]


ORDERED = """
class Service(Base):
    async def __aenter__(self):
        self.note("+NAME")

    async def __aexit__(self, *exc):
        self.note("-NAME")
"""


async def test_services_end_in_the_reverse_order(plugin, folder):
    """Services are entered by plugin name and left in the opposite order."""
    points = [plugin(ORDERED.replace("NAME", name), name=name) for name in "bca"]
    async with serving(folder, entry_points=points):
        assert (folder / "events").read_text().split() == ["+a", "+b", "+c"]
    assert (folder / "events").read_text().split() == ["+a", "+b", "+c", "-c", "-b", "-a"]


HOLDER = """
import contextlib

class Service(Base):
    async def __aenter__(self):
        self.note("+holder")
        async with contextlib.AsyncExitStack() as stack:
            model = await stack.enter_async_context(self.ctx.models.acquire("fake-detect"))
            self.note(await model.call("echo", "loaded"))
            self.stack = stack.pop_all()

    async def __aexit__(self, *exc):
        await self.stack.aclose()
        self.note("-holder")
"""

FAILING = """
class Service(Base):
    async def __aenter__(self):
        raise RuntimeError("cannot start")

    async def __aexit__(self, *exc):
        self.note("never")
"""


async def test_a_failed_start_is_cleaned_up(plugin, folder):
    """When a service cannot start, it is named, those before it end and no worker is left."""
    before = descendants()
    points = [FAKE, plugin(HOLDER, name="a"), plugin(FAILING, name="b")]
    with pytest.raises(RuntimeError, match="cannot start") as failed:
        async with serving(folder, entry_points=points, engine="process"):
            pass
    assert "the service of b failed" in failed.value.__notes__[0]
    assert (folder / "events").read_text().split() == ["+holder", "loaded", "-holder"]
    assert descendants() == before


async def test_a_held_model_is_let_go_at_the_end(plugin, folder):
    """A service that holds a model while the server runs leaves no worker process behind."""
    before = descendants()
    points = [FAKE, plugin(HOLDER)]
    async with serving(folder, entry_points=points, engine="process"):
        assert len(descendants()) > len(before)
    assert descendants() == before
