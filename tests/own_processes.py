"""The zygotes and workers of the servers of this process, and nothing else that runs below it.

A test that takes every child for a worker fails as soon as somebody else's is there: a database's,
a browser's, or what a test before it could not end.
"""

from __future__ import annotations

import contextlib

import psutil

ZYGOTE = "mataserver.engines.zygote"


def zygotes() -> list[psutil.Process]:
    """Return the zygotes that live."""
    return [each for each in psutil.Process().children() if _is_zygote(each)]


def workers() -> list[psutil.Process]:
    """Return the workers that live: what the zygotes forked."""
    found = []
    for zygote in zygotes():
        with contextlib.suppress(psutil.NoSuchProcess):
            found += [each for each in zygote.children() if _lives(each)]
    return found


def descendants() -> list[psutil.Process]:
    """Return the zygotes and workers that live."""
    return [*zygotes(), *workers()]


def _is_zygote(process):
    with contextlib.suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
        return ZYGOTE in process.cmdline()
    return False


def _lives(process):
    with contextlib.suppress(psutil.NoSuchProcess):
        return process.status() != psutil.STATUS_ZOMBIE
    return False
