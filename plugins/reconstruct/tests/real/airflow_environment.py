"""A real Airflow in an environment of its own: its database, one DAG, and its API server.

It brings 130 packages in releases that the development environment has not. No scheduler runs: a
run that is begun stays queued, which is all that a trigger sees of it.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[4]
HOME = ROOT / "build" / "reconstruct" / "airflow"
PACKAGE = "apache-airflow==3.3.2"
DAG = "experiment_pipeline_dag"
_DAG_FILE = f"""
from airflow.sdk import dag, task


@dag(dag_id="{DAG}", schedule=None, catchup=False)
def pipeline():
    @task
    def train():
        return 1

    train()


pipeline()
"""
_START_SECONDS = 180


def programs() -> Path:
    """Return the folder of Airflow's programs, installed if need be."""
    stamp = HOME / ".installed"
    if not (stamp.is_file() and stamp.read_text() == PACKAGE):
        venv.create(HOME, clear=True, with_pip=True)
        pip = [HOME / "bin" / "python", "-m", "pip", "install", "--quiet"]
        alone = {name: each for name, each in os.environ.items() if name != "PIP_CONSTRAINT"}
        subprocess.run([*pip, "--disable-pip-version-check", PACKAGE], check=True, env=alone)
        stamp.write_text(PACKAGE)
    return HOME / "bin"


class RealAirflow:
    """An Airflow below ``folder``. ``secret`` signs its tokens: another makes them void."""

    def __init__(self, folder):
        self._folder = folder
        self._program = programs() / "airflow"
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self._port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{self._port}"
        self._process = None
        (folder / "dags").mkdir()
        (folder / "dags" / "experiment.py").write_text(_DAG_FILE)
        self._run("db", "migrate")
        self._run("dags", "reserialize")

    @property
    def password(self):
        """What Airflow drew for ``admin``."""
        file = self._folder / "simple_auth_manager_passwords.json.generated"
        return json.loads(file.read_text())["admin"]

    def _environment(self, secret="first"):
        return {
            "PATH": os.environ["PATH"],
            "HOME": str(self._folder),
            "AIRFLOW_HOME": str(self._folder),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW__CORE__DAGS_FOLDER": str(self._folder / "dags"),
            "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS": "admin:admin",
            "AIRFLOW__API_AUTH__JWT_SECRET": f"{secret} secret of sixty-four characters".ljust(
                64, "."
            ),
        }

    def _run(self, *arguments):
        ran = subprocess.run(
            [self._program, *arguments],
            env=self._environment(),
            capture_output=True,
            text=True,
            check=False,
        )
        assert ran.returncode == 0, ran.stdout + ran.stderr

    @contextlib.contextmanager
    def serving(self, secret="first"):
        """Run the API server."""
        log = (self._folder / "server.log").open("ab")
        program = [self._program, "api-server", "--workers", "1", "--host", "127.0.0.1"]
        server = subprocess.Popen(
            [*program, "--port", str(self._port)],
            env=self._environment(secret),
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            self._until_ready(server)
            yield self
        finally:
            os.killpg(server.pid, signal.SIGKILL)
            server.wait()
            log.close()

    def _until_ready(self, server):
        end = time.monotonic() + _START_SECONDS
        while time.monotonic() < end and server.poll() is None:
            try:
                self.ask("GET", "/api/v2/monitor/health")
            except urllib.error.URLError:
                time.sleep(0.2)
            else:
                return
        raise AssertionError((self._folder / "server.log").read_text()[-4000:])

    def ask(self, method, path, body=None, token=None):
        """Return its decoded answer."""
        headers = {"Content-Type": "application/json"}
        if token:
            headers["Authorization"] = f"Bearer {token}"
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, headers, method=method)
        with urllib.request.urlopen(request, timeout=30) as response:
            return json.load(response)

    def runs(self):
        """Return the DAG's runs by their ids."""
        who = {"username": "admin", "password": self.password}
        token = self.ask("POST", "/auth/token", who)["access_token"]
        found = self.ask("GET", f"/api/v2/dags/{DAG}/dagRuns", token=token)
        return {run["dag_run_id"]: run for run in found["dag_runs"]}
