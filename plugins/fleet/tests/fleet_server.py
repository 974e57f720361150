"""A server with a fleet in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys


class FleetServer:
    """It runs as a context; ``fleet`` and ``plugins`` are its settings, ``home`` its folder."""

    key = "test-key"

    def __init__(self, home, fleet, **plugins):
        home.mkdir()
        given = {"port": 0, "data_dir": str(home), "outbound_hosts": ["127.0.0.1"]}
        self.config = home / "mataserver.yaml"
        self.config.write_text(json.dumps({**given, "plugins": {"fleet": fleet, **plugins}}))

    def __enter__(self):
        own = {"MATA_SERVER_API_KEY": self.key, "MATA_SERVER_LOG_LEVEL": "error"}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "mataserver", "serve", "--config", str(self.config)],
            env={**os.environ, **own}, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        for line in self._process.stdout:
            if found := [word for word in line.split() if word.startswith("http://")]:
                self.url = found[0].rstrip("/")
                return self
        raise RuntimeError("the server did not start")

    def __exit__(self, *exc):
        self.kill()
        self._process.stdout.close()

    @property
    def pid(self):
        """The id of its process."""
        return self._process.pid

    def kill(self):
        """End it as by kill -9."""
        self._process.kill()
        self._process.wait()
