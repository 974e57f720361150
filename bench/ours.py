"""Our server with the models of the benchmarks.

Run as ``python bench/ours.py PORT ENGINE REPLICAS``; it serves until it gets SIGTERM.
"""

from __future__ import annotations

import asyncio
import importlib.metadata
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import uvloop

import nets
import noop
import real
import stub
from mataserver import config
from mataserver import plugins as plugin_host
from mataserver.app import running

PLUGINS = ("noop", "real", "faulty")
NETS = [name + suffix for name in nets.SIDES for suffix in ("", real.SUFFIX)]
TASKS = {**noop.TASKS, **dict.fromkeys(NETS, "detect"), "faulty": "detect"}
MODULES = {"noop": "noop_stubbed"} if stub.asked() else {}
"""Plugins of another module than their name's."""
POINTS = [
    importlib.metadata.EntryPoint(name, MODULES.get(name, name), plugin_host.GROUP)
    for name in PLUGINS
]


def settings(data_dir: str, port: int, engine: str, replicas: int) -> config.Settings:
    """Return the settings: the defaults but for the engine, the key and the time to live.

    With ``ray`` a worker asks for the processors that ``$BENCH_CPU`` says, and decodes on no more.
    """
    asked = os.environ.get("BENCH_CPU", "") if engine == "ray" else ""
    others = [{"model": name, "needs": {"cpu": int(asked)}} for name in noop.TASKS] if asked else []
    values: dict[str, Any] = {
        "port": port,
        "auth_mode": "none",
        "data_dir": data_dir,
        "engine": engine,
        "keep_alive": -1,
        "log_level": "warning",
        "models": [
            *({"model": name, "replicas": replicas} for name in [*NETS, "faulty"]),
            *others,
        ],
    }
    return config.load(environ={}, directory=Path(data_dir), **values)


def main() -> None:
    """Serve."""
    port, engine, replicas = int(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    with tempfile.TemporaryDirectory() as data_dir:
        models = {
            n: {"task": t, "source": "pip", "pulled_at": time.time()} for n, t in TASKS.items()
        }
        registry = Path(data_dir, "model_registry.json")
        registry.write_text(json.dumps({"version": 1, "models": models}))
        chosen = settings(data_dir, port, engine, replicas)
        plugins = plugin_host.discover(chosen, POINTS)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(running.run(chosen, lambda url, _: print(url, flush=True), plugins))


if __name__ == "__main__":
    main()
