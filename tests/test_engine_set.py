"""The set of engines: each is made once, and a bad one takes no other with it."""

from __future__ import annotations

import asyncio

import pytest

from mataserver.config import Settings
from mataserver.contract.engine import EngineSpec
from mataserver.errors import MataError
from mataserver.plugins.records import Plugin
from mataserver.serving.engine_set import EngineSet


class Engine:
    """An engine that does what a test says."""

    def __init__(self, opening=lambda: None, waiting=dict, closing=None):
        self._opening, self._waiting, self._closing = opening, waiting, closing
        self.closed = 0

    def open(self):
        """Open it."""
        self._opening()

    @property
    def waiting(self):
        """Tell what it waits for."""
        return self._waiting()

    async def start(self, assignment, placement):
        """Start nothing: no test comes here."""

    async def close(self):
        """Close it, which may take for ever."""
        self.closed += 1
        if self._closing is not None:
            await self._closing()


class Plugins:
    """Plugins of which one declares an engine."""

    def __init__(self, make):
        self._found = EngineSpec(name="mine", make=make), Plugin("mine")
        self.found, self.usable = [], []

    def engine(self, name):
        """Return the declaration of an engine."""
        return self._found if name == "mine" else None


def engines(make, **given):
    """Return the engines of a configuration that names ``mine``."""
    return EngineSet(Settings(engine="mine"), Plugins(make), given)


async def test_an_engine_may_build_on_another_when_it_opens():
    """``open`` may be the first to ask for the engine ``process``, and so may ``waiting``."""
    contexts = []

    def make(ctx):
        contexts.append(ctx)
        return Engine(opening=ctx.process, waiting=lambda: ctx.process() and {})

    for first in (EngineSet.open, EngineSet.waiting):
        made = engines(make)
        first(made)
        assert made.running("process") is contexts[-1].process()
        await made.close()


async def test_an_engine_is_made_once():
    """A failure is remembered, also of ``open``: the models are asked for their engine often."""
    calls = []

    def make(_ctx):
        calls.append("made")
        return Engine(opening=fail)

    def fail():
        calls.append("opened")
        raise RuntimeError("no luck")

    made = EngineSet(Settings(), Plugins(make))
    made.open()
    for _ in range(3):
        assert made.is_remote("mine") is False
        with pytest.raises(MataError, match="cannot start: RuntimeError: no luck"):
            made.get("mine")
    assert calls == ["made", "opened"]
    await made.close()
    assert made.running("mine").closed == 1


def test_an_engine_that_cannot_say_what_it_waits_for():
    """``/ready`` says so, and is no 500."""
    made = engines(lambda _ctx: Engine(waiting=lambda: 1 / 0))
    assert made.waiting() == {"engine mine": "it does not say what it waits for"}


async def test_an_engine_that_hangs_keeps_no_other_open():
    """Whoever gives up waiting for it has closed the server's own engines nevertheless."""
    own = Engine()
    made = engines(lambda _ctx: Engine(closing=asyncio.Event().wait), process=own)
    closing = asyncio.create_task(made.close())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert own.closed == 0
    closing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await closing
    assert own.closed == 1


@pytest.mark.parametrize(
    "own_end", [RuntimeError("no luck"), SystemExit(1), BaseException("panic")]
)
async def test_an_engine_that_fails_to_close(own_end, caplog):
    """Whatever ends it, a library's panic too: it is logged, and the others are closed."""

    async def end():
        raise own_end

    own = Engine()
    await engines(lambda _ctx: Engine(closing=end), process=own).close()
    assert own.closed == 1
    assert "the engine mine did not stop" in caplog.text


async def test_an_engine_whose_end_waits_for_something_cancelled(caplog):
    """That is its failure, and no cancellation of the server's own end."""

    async def end():
        lost = asyncio.get_running_loop().create_future()
        lost.cancel()
        await lost

    own = Engine()
    await asyncio.create_task(engines(lambda _ctx: Engine(closing=end), process=own).close())
    assert own.closed == 1
    assert "the engine mine did not stop" in caplog.text
