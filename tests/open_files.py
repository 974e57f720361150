"""A process that may open few files more, or none."""

from __future__ import annotations

import contextlib
import resource
from pathlib import Path


@contextlib.contextmanager
def _limited(count):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (count, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def few_descriptors(count):
    """Let this process open about ``count`` files more."""
    last = max(int(each.name) for each in Path("/proc/self/fd").iterdir())  # with gaps below
    return _limited(last + 1 + count)


def no_descriptors():
    """Let this process open no file more."""
    return _limited(3)
