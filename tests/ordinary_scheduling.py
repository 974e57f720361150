"""No test leaves a thread of its process under real-time scheduling: all that follows inherits it.

SVT-AV1, as root, puts the thread that opens it under SCHED_FIFO with the highest priority, and says
nothing of it. A browser that such a process starts takes all cores from everything else.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import pytest


@contextlib.contextmanager
def kept():
    """Give the calling thread its scheduling back at the end."""
    if not hasattr(os, "sched_getscheduler"):  # as on macOS, whose encoder changes nothing
        yield
        return
    policy, parameters = os.sched_getscheduler(0), os.sched_getparam(0)
    try:
        yield
    finally:
        os.sched_setscheduler(0, policy, parameters)


def changed():
    """Return the threads of this process under another scheduling than the usual; reset them."""
    tasks, found = Path("/proc/self/task"), []
    for entry in tasks.iterdir() if tasks.is_dir() else []:
        with contextlib.suppress(ProcessLookupError):  # it has ended
            if os.sched_getscheduler(int(entry.name)) in {os.SCHED_FIFO, os.SCHED_RR}:
                os.sched_setscheduler(int(entry.name), os.SCHED_OTHER, os.sched_param(0))
                found.append(int(entry.name))
    return found


class OrdinaryScheduling:
    """A plugin of pytest: a test after which a thread is under real-time scheduling fails."""

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_teardown(self):
        """Look at the threads once all of a test's own fixtures have ended."""
        try:
            yield
        finally:
            assert not changed(), (
                "the test left real-time scheduling on, which its children inherit"
            )
