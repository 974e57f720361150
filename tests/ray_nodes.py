"""A real Ray cluster on this machine: its nodes are started, killed and stopped by their pids.

Never by ``ray stop``, which ends every Ray of the machine.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

HOST = "127.0.0.1"
QUICK = {
    "RAY_health_check_initial_delay_ms": "1000",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "2000",
    "RAY_health_check_failure_threshold": "3",
    "RAY_gcs_rpc_server_reconnect_timeout_s": "5",
    "RAY_USAGE_STATS_ENABLED": "0",
}
"""As docs/cluster.md says: a node that ended is noticed soon. Of a head that is gone Ray would
otherwise end the nodes after a minute."""
TESTS = {"PYTHONPATH": str(Path(__file__).parent)}
"""For nodes whose workers load models of the tests."""
WORKERS = 16
"""Ports for the workers of a node, each its own: on one machine they would take each other's."""
STARTED = 90.0
"""Seconds that a node may take to start on a machine with other work."""


def _ports():
    """Yield ports that nobody listens on, below those that the kernel gives away; each once."""
    for port in range(21000 + os.getpid() % 2000, 32000):
        with contextlib.suppress(OSError):
            socket.create_server((HOST, port)).close()
            yield port


PORTS = _ports()


class RayNode:
    """One node: every process that ``ray start --block`` has started."""

    def __init__(self, folder, *options, environment=()):
        # `ray start --block` ends what it started as soon as one of it has ended.
        command = [str(Path(sys.executable).with_name("ray")), "start", "--block", *options]
        command += ["--object-store-memory", "80000000", "--node-ip-address", HOST]
        workers = [str(next(PORTS)) for _ in range(WORKERS)]
        command += ["--worker-port-list", ",".join(workers)]
        command += ["--dashboard-agent-listen-port", str(next(PORTS))]
        self._path = folder / f"node-{time.monotonic_ns()}.log"
        self._log = self._path.open("wb")
        self._process = subprocess.Popen(
            command,
            env={**os.environ, **QUICK, **dict(environment)},
            stdout=self._log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self._wait_until_started()

    def _wait_until_started(self):
        """Two nodes that start at once wait for each other until they give up."""
        until = time.monotonic() + STARTED
        while b"runtime started" not in self._path.read_bytes():
            over = self._process.poll() is not None or time.monotonic() > until
            assert not over, self._path.read_text()[-2000:]
            time.sleep(0.05)

    @property
    def processes(self):
        """Everything that runs on it, its workers too."""
        try:
            whole = psutil.Process(self._process.pid)
            return [whole, *whole.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def signal(self, number):
        """Send a signal to all of it at once, as a power cut does."""
        for process in self.processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(number)

    def kill(self):
        """End it and everything on it."""
        every = self.processes
        for process in every:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(every, timeout=20)
        self._process.wait(20)
        self._log.close()


class RayNodes:
    """A head that has no room for models, and nodes that have some for ``cpu`` each.

    ``environment`` is what they have beside that of the tests.
    """

    def __init__(self, cpu=4, environment=()):
        self._cpu = cpu
        self._environment = environment
        self._folder = Path(tempfile.mkdtemp(prefix="mr"))  # sockets want a short path
        self.port = next(PORTS)
        self.head = None
        self.nodes = {}

    @property
    def address(self):
        """What ``ray_address`` is to say."""
        return f"{HOST}:{self.port}"

    def start_head(self, cpu=0):
        """Start the head, with its port as before, and the label ``head``."""
        self.head = RayNode(
            self._folder, "--head", "--port", str(self.port), "--num-cpus", str(cpu),
            "--ray-client-server-port", str(next(PORTS)), "--dashboard-port", str(next(PORTS)),
            "--include-dashboard=false", "--include-log-monitor=false", "--no-monitor",
            "--temp-dir", str(self._folder / "ray"), "--labels", "name=head",
            environment=self._environment,
        )  # fmt: skip

    def add(self, name):
        """Start a node with the label ``name``."""
        self.nodes[name] = RayNode(
            self._folder, "--address", self.address, "--num-cpus", str(self._cpu),
            "--labels", f"name={name}",
            environment=self._environment,
        )  # fmt: skip

    def kill(self, name):
        """End a node."""
        self.nodes.pop(name).kill()

    def stop(self, name):
        """Have a node fall silent."""
        self.nodes[name].signal(signal.SIGSTOP)

    def close(self):
        """End everything, what is stopped too."""
        for node in [*self.nodes.values(), *filter(None, [self.head])]:
            node.kill()
        shutil.rmtree(self._folder, ignore_errors=True)
