"""A model that tells what its process may do, starts others and grows: run as a plugin."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import importlib.metadata
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

from mataserver import Backend, Params, hookimpl, plugins
from mataserver.results import VlmResult

SLEEP = [sys.executable, "-c", "import time; time.sleep(600)"]
DAEMON = """
import os, subprocess, sys, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        print(os.getpid(), flush=True)
        time.sleep(600)
    os._exit(0)
os.wait()
"""
STUBBORN = """
import os, signal, subprocess, sys, time
for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
    signal.signal(number, signal.SIG_IGN)
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
time.sleep(600)
"""


class Asked(Params, frozen=True, kw_only=True):
    """What to do: ``prompt``."""

    prompt: str = ""


class Confined:
    """Does what it is asked."""

    def __init__(self, context):
        self._held = []
        self._data_dir = context.data_dir
        self._hangs_at_close = (context.data_dir / "hangs-at-close").exists()
        self._started = context.data_dir / "confined" / "started"
        if (context.data_dir / "starts-at-load").exists():
            self.family()
        if (context.data_dir / "grows-at-load").exists():
            self.grow()
        if (context.data_dir / "hangs-at-load").exists():
            self.hang()

    def predict(self, images, params):
        """Do it for each image."""
        return [VlmResult(json.dumps(getattr(self, each.prompt)())) for each in params]

    def environment(self):
        """Return the variables of this process."""
        return dict(os.environ)

    def rights(self):
        """Return what the kernel lets this process become, and when it goes."""
        status = Path("/proc/self/status").read_text()
        fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
        score = Path("/proc/self/oom_score_adj").read_text()
        return {"no_new_privs": fields["NoNewPrivs"], "oom": int(score)}

    def files(self):
        """Return what it can read of the data directory and around it, and where it can write."""
        own, beside = self._data_dir / "confined", self._data_dir.parent
        paths = [*self._data_dir.rglob("*"), *beside.glob("*.txt")]
        readable = [path for path in paths if path.is_file() and _can(path.read_bytes)]
        places = {
            "data": self._data_dir,
            "own": own,
            "temporary": Path(tempfile.gettempdir()),
            "beside": beside,
            "neighbour": self._data_dir / "neighbour",
        }
        return {
            "reads": sorted(str(path.relative_to(beside)) for path in readable),
            "writes": sorted(name for name, place in places.items() if _can(_changes(place))),
            "temporary": tempfile.gettempdir(),
        }

    def calls(self):
        """Return the errors of calls that a model has no use for, and of a signal to the server."""
        libc = ctypes.CDLL(None, use_errno=True)
        attach, pid = 0x4206, os.getppid()
        nice = os.getpriority(os.PRIO_PROCESS, pid)
        asked = {
            "ptrace": lambda: libc.ptrace(attach, pid, 0, 0),
            # What they would change they leave as it is: where they are permitted nothing happens.
            "mount": lambda: libc.mount(b"none", b"/not there", b"tmpfs", 0, 0),
            "limit": lambda: libc.prlimit(pid, resource.RLIMIT_CPU, 0, (ctypes.c_ulong * 2)()),
            "own limit": lambda: libc.prlimit(0, resource.RLIMIT_CPU, 0, (ctypes.c_ulong * 2)()),
            "priority": lambda: libc.setpriority(os.PRIO_PROCESS, pid, nice),
            "affinity": lambda: os.sched_setaffinity(pid, os.sched_getaffinity(pid)),
            "namespace": lambda: libc.unshare(0x10000000),
        }
        found = {}
        for name, call in asked.items():
            ctypes.set_errno(0)
            try:
                call()
            except OSError as error:
                ctypes.set_errno(error.errno)
            found[name] = errno.errorcode.get(ctypes.get_errno(), "")
        found["signal"] = _can(lambda: os.kill(pid, 0))
        return found

    def others(self):
        """Return which processes of the server there are, and what of them can be opened."""
        server = psutil.Process(int((self._data_dir / "confined" / "server").read_text()))
        others = [server, *server.children(recursive=True)]
        opened = []
        for process in (Path("/proc", str(each.pid)) for each in others if each.pid != os.getpid()):
            tried = [process / "mem", process / "root" / "etc"]
            with contextlib.suppress(PermissionError):
                tried += (process / "fd").iterdir()  # memory that is shared is there, too
            opened += [str(path) for path in tried if _opens(path)]
        return {"others": len(others) - 1, "opened": opened}

    def family(self):
        """Start a process, one in a session of its own, a daemon, and one that takes no signal."""
        # It keeps the pipe open, so its end is not waited for.
        daemon = subprocess.Popen([sys.executable, "-c", DAEMON], stdout=subprocess.PIPE, text=True)
        pids = [
            subprocess.Popen(SLEEP).pid,
            subprocess.Popen(SLEEP, start_new_session=True).pid,
            subprocess.Popen([sys.executable, "-c", STUBBORN]).pid,
            int(daemon.stdout.readline()),
        ]
        with self._started.open("a") as file:
            file.write("".join(f"{pid}\n" for pid in pids))
        return pids

    def grow(self):
        """Hold 200 MB more, and stay at it for a while."""
        self._held.append(b"\1" * 200_000_000)
        time.sleep(5)
        return len(self._held)

    def wait(self):
        """Take a second."""
        time.sleep(1)
        return True

    def hang(self):
        """Never answer."""
        time.sleep(3600)

    def close(self):
        """End, or hang where the data directory says so."""
        if self._hangs_at_close:
            self.hang()


def _opens(path):
    try:
        os.close(os.open(path, os.O_RDONLY | os.O_NONBLOCK))
    except PermissionError:
        return False
    except OSError:  # a socket cannot be opened so, whoever may
        return True
    return True


def _can(act):
    try:
        act()
    except PermissionError:
        return False
    return True


def _changes(folder):
    """Return what makes, fills, moves and removes a file in a folder."""

    def act():
        file = folder / "made"
        file.write_text("x")
        file.rename(folder / "moved").unlink()

    return act


def load(spec, context):
    """Load it."""
    return Confined(context)


class ConfinedPlugin:
    """Two backends of it."""

    @hookimpl
    def backends(self):
        """Return the backends."""
        return [
            Backend(name=name, task="vlm", source="pip", load=load, params=Asked)
            for name in ("confined", "neighbour")
        ]


confined = ConfinedPlugin()
CONFINED = importlib.metadata.EntryPoint("confined", "confined_models:confined", plugins.GROUP)
