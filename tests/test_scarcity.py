"""A machine or a limit that gives no more: clients are told so, and the end comes in time."""

from __future__ import annotations

import errno
import signal
import subprocess
import sys

import pytest

from mataserver.errors import scarcity

NO_THREADS = """
import resource, threading, time
from mataserver.app.deadline import end_after
from mataserver.errors import scarcity

used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 4_000_000,) * 2)
try:
    threading.Thread(target=print).start()
except RuntimeError as error:
    print(scarcity(error).status, flush=True)
end_after(0.2)
time.sleep(30)
"""


def test_a_process_that_can_start_no_thread_ends_in_time():
    """A thread that cannot be started is 503 to a client; the end of the server is bounded too."""
    done = subprocess.run(
        [sys.executable, "-c", NO_THREADS], capture_output=True, text=True, check=False, timeout=20
    )
    assert (done.returncode, done.stdout) == (-signal.SIGALRM, "503\n"), done.stderr


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (MemoryError(), 507),
        (OSError(errno.ENOMEM, ""), 507),
        (OSError(errno.ENOSPC, ""), 507),
        (OSError(errno.EAGAIN, ""), 503),
        (OSError(errno.EMFILE, ""), 503),
        (OSError(errno.ENOENT, ""), None),
        (RuntimeError("a bug"), None),
    ],
)
def test_what_is_scarce_is_told(error, status):
    """What runs out is no bug of the server's; everything else stays one."""
    found = scarcity(error)
    assert (found and found.status) == status
