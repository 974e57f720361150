"""Exhausted resources of the machine: clients get an error, and the shutdown stays in time."""

from __future__ import annotations

import errno
import signal
import subprocess
import sys

import pytest
from aiohttp.test_utils import make_mocked_request

from mataserver.engines import zygote_handle
from mataserver.engines.work import Placement
from mataserver.errors import Unavailable, shortage_error
from mataserver.http.middleware import RequestMiddleware

NO_THREADS = """
import resource, threading, time
from mataserver.app.deadline import exit_after
from mataserver.errors import shortage_error

used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 4_000_000,) * 2)
threading.stack_size(64 << 20)  # whatever this machine's own is: more than is left
try:
    threading.Thread(target=print).start()
except RuntimeError as error:
    print(shortage_error(error).status, flush=True)
exit_after(0.2)
time.sleep(30)
"""


def test_a_process_that_can_start_no_thread_ends_in_time():
    """A thread that cannot be started is 503 to a client; the end of the server is bounded too."""
    done = subprocess.run(
        [sys.executable, "-c", NO_THREADS], capture_output=True, text=True, check=False, timeout=20
    )
    assert (done.returncode, done.stdout) == (-signal.SIGALRM, "503\n"), done.stderr


THREAD_DIES = """
import _thread, threading, time
from mataserver.app.deadline import exit_after

threading._start_new_thread = _thread.start_new_thread = lambda *_: 0
exit_after(0.2)
time.sleep(30)
"""


def test_a_process_whose_threads_die_at_once_ends_in_time():
    """Without memory a thread may end before it says that it began: nobody waits for that."""
    done = subprocess.run(
        [sys.executable, "-c", THREAD_DIES], capture_output=True, text=True, check=False, timeout=20
    )
    assert done.returncode == -signal.SIGALRM, done.stderr


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (MemoryError(), 507),
        (OSError(errno.ENOMEM, ""), 507),
        (OSError(errno.ENOSPC, ""), 507),
        (OSError(errno.EAGAIN, ""), None),  # such as a socket that is not ready
        (RuntimeError("can't start new thread"), 503),
        (OSError(errno.EMFILE, ""), 503),
        (OSError(errno.ENOENT, ""), None),
        (RuntimeError("a bug"), None),
    ],
)
def test_what_is_scarce_is_told(error, status):
    """What runs out is no bug of the server's; everything else stays one."""
    found = shortage_error(error)
    assert (found and found.status) == status


@pytest.mark.parametrize(
    ("error", "status", "shown"),
    [
        (MemoryError(), 507, True),
        (OSError(errno.ENOSPC, ""), 507, True),
        (OSError(errno.EMFILE, ""), 503, False),
    ],
)
async def test_where_something_was_scarce_is_logged(caplog, error, status, shown):
    """A handler that asks for too much is a bug that only its traceback shows.

    Descriptors are taken by all connections: where the last one was missing says nothing.
    """
    request = make_mocked_request("GET", "/v1/greedy")
    assert RequestMiddleware(*[None] * 5).refuse(request, error).status == status
    (record,) = caplog.records
    assert (record.exc_info and record.exc_info[1]) is (error if shown else None)


async def test_a_process_that_may_not_be_started_is_told(monkeypatch):
    """The limit on processes, which has the number that other errors have too."""

    def popen(*_, **__):
        raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")

    monkeypatch.setattr(zygote_handle.subprocess, "Popen", popen)
    zygote = zygote_handle.ZygoteHandle(Placement("lab", (), (), confined=False), "info", "text")
    with pytest.raises(Unavailable, match="can start no more processes"):
        zygote.start()
