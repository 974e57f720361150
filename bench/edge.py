"""An edge box's choices: what the engines and the threads cost on this machine, with config.yaml.

Run as ``python bench/edge.py [PROGRAM]``; PROGRAM is the server's command, such as the one file
that ``make binary`` builds. Each line is one configuration, and a server that was started for it.
"""

from __future__ import annotations

import contextlib
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from mataserver_client import Client
from tree import Tree

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[1]
PICTURES = {"rapidocr": "receipt.jpg", "opencv-faces": "astronaut.jpg", "opencv-qr": "codes.jpg"}
ROUNDS = 9
ENGINES = ("process", "thread")
THREADS = (1, 2)


@contextlib.contextmanager
def serving(program: list[str], configuration: dict[str, Any], folder: Path) -> Iterator[Any]:
    """Run a server with a configuration; yield its process and a client."""
    file = folder / "edge.yaml"
    file.write_text(yaml.safe_dump(configuration))
    own = {"MATA_SERVER_DATA_DIR": str(folder / "data"), "MATA_SERVER_API_KEY": "bench"}
    command = [*program, "serve", "--port", "0", "--config", str(file)]
    environment = {**os.environ, **own, "MATA_SERVER_LOG_LEVEL": "error"}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    try:
        said = process.stdout.readline() if process.stdout is not None else ""
        url = next(word for word in said.split() if word.startswith("http"))
        with Client(url, api_key="bench") as client:
            yield process, client
    finally:
        process.terminate()
        process.communicate()


def configuration(engine: str, threads: int) -> dict[str, Any]:
    """Return config.yaml with one engine and one number of threads for all of its models."""
    chosen: dict[str, Any] = yaml.safe_load((ROOT / "config.yaml").read_text())
    for model in chosen["models"]:
        model.pop("threads", None)
    return {**chosen, "engine": engine, "threads": threads}


def measure(program: list[str], engine: str, threads: int) -> str:
    """Return the line of one configuration."""
    with (
        tempfile.TemporaryDirectory() as folder,
        serving(program, configuration(engine, threads), Path(folder)) as (process, client),
    ):
        cells = []
        for model, picture in PICTURES.items():
            data = (ROOT / "examples" / "pictures" / picture).read_bytes()
            client.infer_raw(model, data)
            cells.append(f"{1e3 * statistics.median(_times(client, model, data)):.0f} ms")
        memory = Tree(process.pid).sample_memory()
    return f"| `{engine}` | {threads} | {memory:.0f} MB | {' | '.join(cells)} |"


def _times(client: Client, model: str, data: bytes) -> Iterator[float]:
    for _ in range(ROUNDS):
        begun = time.perf_counter()
        client.infer_raw(model, data)
        yield time.perf_counter() - begun


def main() -> None:
    """Measure every configuration."""
    program = sys.argv[1:] or [sys.executable, "-m", "mataserver"]
    print(f"| engine | threads | memory | {' | '.join(PICTURES)} |\n|---|---|---|---|---|---|")
    for engine in ENGINES:
        for threads in THREADS:
            print(measure(program, engine, threads), flush=True)


if __name__ == "__main__":
    main()
