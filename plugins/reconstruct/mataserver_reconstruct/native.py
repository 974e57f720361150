"""COLMAP's library, and the one place where it is imported.

Four things of it decide how it may be used.

The library brings a zlib of its own and exports its symbols. When it is loaded before Python's
``zlib``, Pillow's or OpenCV's decoders, the next compression takes the wrong one and aborts the
process. So those are imported first, here, and everybody else takes ``pycolmap`` from here.

It keeps its database by its own copy of SQLite. Two copies that open one file in one process break
each other's locks; the process dies of it. So nothing of this package opens that file but
``pycolmap.Database``.

Its import takes SIGTERM for itself, to print a trace and die. So the handler that was there is put
back; whoever sets one before the import, as a job does, keeps it.

A signal's Python handler runs when the main thread is in Python. So long calls run in a thread,
and the main thread waits in steps: a job that is to stop cancels the call.
"""

# isort: skip_file
from __future__ import annotations

import bz2  # noqa: F401 - before pycolmap, see above
import lzma  # noqa: F401 - the same
import signal
import threading
import zlib

import cv2
import PIL.Image
import PIL.PngImagePlugin

from concurrent.futures import ThreadPoolExecutor, wait
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

zlib.compress(b"bound before the next import")
cv2.imencode(".png", np.zeros((1, 1), np.uint8))
PIL.Image.preinit()

_handler = signal.getsignal(signal.SIGTERM)
import pycolmap  # noqa: E402 - see above

if threading.current_thread() is threading.main_thread():  # no other may
    signal.signal(signal.SIGTERM, _handler or signal.SIG_DFL)

if TYPE_CHECKING:
    from collections.abc import Callable

    from mataserver_reconstruct.job import Job

__all__ = ["Native", "pycolmap"]

_STEP = 0.05  # seconds: how soon a cancellation is noticed
pycolmap.logging.minloglevel = int(pycolmap.logging.Level.FATAL)


class Native:
    """Calls COLMAP for one job, so that the job can be stopped meanwhile."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="colmap")

    def call(
        self,
        function: Callable[..., Any],
        *arguments: Any,
        beside: Callable[[], None] = lambda: None,
        **named: Any,
    ) -> Any:
        """Return what a function that takes a ``cancellation_token`` returns.

        ``beside`` is called every now and then. Raises what the job raises when it is to stop,
        once the call has ended.
        """
        token = pycolmap.CancellationToken()
        work = partial(function, *arguments, cancellation_token=token, **named)
        return self.watched(work, token.cancel, beside)

    def watched(
        self,
        work: Callable[[], Any],
        stop: Callable[[], None],
        beside: Callable[[], None] = lambda: None,
    ) -> Any:
        """Return what ``work`` returns, which ``stop`` makes end.

        Raises what the job raises when it is to stop, once the work has ended.
        """
        future = self._pool.submit(work)
        try:
            while not wait([future], timeout=_STEP).done:
                self._job.check()
                beside()
        except BaseException:
            stop()
            wait([future])
            raise
        return future.result()
