"""An event loop whose clock jumps: what waits seconds is tested in none, however busy a machine."""

from __future__ import annotations

import asyncio
import functools
import selectors


class _Jumping(selectors.DefaultSelector):
    """Where a loop would sleep until its next timer, the time is that timer's at once."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0

    def select(self, timeout=None):
        """Return what is ready; nobody waits, unless nothing is due at any time."""
        if timeout is None:
            return super().select(None)
        self.now += max(timeout, 0.0)
        return super().select(0)


class SimulatedLoop(asyncio.SelectorEventLoop):
    """Its time starts at 0 and passes only while every task sleeps."""

    def __init__(self) -> None:
        self._jumping = _Jumping()
        super().__init__(self._jumping)

    def time(self) -> float:
        """Return the simulated time in seconds."""
        return self._jumping.now


def simulated(test):
    """Run a coroutine function as a test in simulated time."""

    @functools.wraps(test)
    def run(*args, **kwargs):
        with asyncio.Runner(loop_factory=SimulatedLoop) as runner:
            return runner.run(test(*args, **kwargs))

    return run
