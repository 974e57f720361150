"""COLMAP's library; the only module that imports it.

Four properties of it decide how it may be used.

The library contains its own zlib and exports its symbols. When it is loaded before Python's
``zlib``, Pillow's or OpenCV's decoders, the next compression calls the wrong one and aborts the
process. So those are imported first, here, and all other modules import ``pycolmap`` from here.

It accesses its database with its own copy of SQLite. Two copies that open one file in one process
break each other's locks, which crashes the process. So nothing in this package opens that file
except ``pycolmap.Database``.

Its import installs a SIGTERM handler that prints a trace and exits. So the previous handler is
restored; one that is set before the import, as a job does, stays.

A signal's Python handler only runs when the main thread executes Python code. So long calls run in
a thread, and the main thread waits in steps: a job that is to stop cancels the call.
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

_STEP = 0.05  # seconds until a cancellation is noticed
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
        poll: Callable[[], None] = lambda: None,
        **named: Any,
    ) -> Any:
        """Return the result of a function that takes a ``cancellation_token``.

        ``poll`` is called periodically. Raises what the job raises when it is to stop, once the
        call has ended.
        """
        token = pycolmap.CancellationToken()
        work = partial(function, *arguments, cancellation_token=token, **named)
        return self.run_cancellable(work, token.cancel, poll)

    def run_cancellable(
        self,
        work: Callable[[], Any],
        stop: Callable[[], None],
        poll: Callable[[], None] = lambda: None,
    ) -> Any:
        """Return the result of ``work``, which ``stop`` cancels.

        Raises what the job raises when it is to stop, once the work has ended.
        """
        future = self._pool.submit(work)
        try:
            while not wait([future], timeout=_STEP).done:
                self._job.check()
                poll()
        except BaseException:
            stop()
            wait([future])
            raise
        return future.result()
