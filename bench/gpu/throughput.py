"""What the server gives of what the network can: images a second, beside the bare loop's best.

The bare loop decodes the JPEG with a pool of threads and runs the same loaded model on the best of
several batch sizes, in this process; the server is asked over 1 to 256 connections. ``share`` is
the server's best over the loop's best.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import simplejpeg

import networks
import options
import serving
from generator import Order, Outcome
from mataserver import ModelSpec
from mataserver_hf import backends
from mataserver_hf import options as hf

CONNECTIONS = (1, 16, 64, 256)
BATCHES = (1, 8, 32, 64)
SECONDS = 3.0


def bare(name: str, path: Path, asked: options.Options, image: bytes) -> dict[str, float]:
    """Return the loop's images a second by batch size."""
    task = networks.TASKS[name]
    found = next(b for b in backends() if _is(b.name, name, task))
    with tempfile.TemporaryDirectory() as scratch, ThreadPoolExecutor() as pool:
        context = options.context(Path(scratch), asked.device, "auto", hf.Settings())
        model: Any = found.load(ModelSpec(name, task, "local", path), context)
        params = msgspec.convert(networks.PARAMS[name], found.params)
        rates = {
            str(batch): _rate(model, params, batch, image, pool, 0.5 if asked.quick else SECONDS)
            for batch in (BATCHES[:2] if asked.quick else BATCHES)
        }
        model.close()
    return rates


def _is(backend: str, name: str, task: str) -> bool:
    return backend == ("hf-zero-shot-classify" if name == "clip" else f"hf-{task}")


def _rate(
    model: Any, params: Any, batch: int, image: bytes, pool: ThreadPoolExecutor, seconds: float
) -> float:
    """Decode the next batch while the model runs on this one."""

    def decoded() -> Any:
        return [pool.submit(simplejpeg.decode_jpeg, image, colorspace="RGB") for _ in range(batch)]

    coming, done = decoded(), 0
    model.predict([each.result() for each in coming], [params] * batch)
    coming, begun = decoded(), time.perf_counter()
    while time.perf_counter() - begun < seconds:
        images = [each.result() for each in coming]
        coming = decoded()
        model.predict(images, [params] * batch)
        done += batch
    return round(done / (time.perf_counter() - begun), 1)


def loaded(client: serving.Client, name: str, body: Path, connections: int, seconds: float) -> Any:
    """Ask over so many connections; return rate and latencies."""
    order = Order(
        url=client.url + serving.path(name, networks.PARAMS[name]),
        method="POST",
        headers={"Content-Type": "image/jpeg", "Authorization": f"Bearer {client.key}"},
        body=str(body),
        needle='"model"',
        times=1,
        connections=connections,
        seconds=seconds,
    )
    program = str(Path(sys.modules["generator"].__file__ or ""))
    ran = subprocess.run(
        [sys.executable, program], input=msgspec.json.encode(order), capture_output=True, check=True
    )
    out = msgspec.json.decode(ran.stdout, type=Outcome)
    rate = round(out.requests / out.seconds, 1)
    told = {"rate": rate, "p50_ms": round(out.p50, 2), "p99_ms": round(out.p99, 2)}
    return {**told, **({"failed": out.failed, "example": out.example} if out.failed else {})}


def network(name: str, asked: options.Options, folder: Path, body: Path) -> dict[str, Any]:
    """Return the figures of one network."""
    path, data = folder / name, folder / f"data-{name}"
    data.mkdir()
    networks.BUILDERS[name](path, quick=asked.quick)
    loop = bare(name, path, asked, body.read_bytes())
    given = {"device": asked.device, "engine": "process", "keep_alive": -1, "queue_limit": 1024}
    with serving.served(data, {name: (networks.TASKS[name], str(path))}, **given) as client:
        status, first = client.infer(name, body.read_bytes(), **networks.PARAMS[name])
        if status != 200:
            return {"wrong": first}
        seconds = 0.5 if asked.quick else SECONDS
        levels = CONNECTIONS[:1] if asked.quick else CONNECTIONS
        rates = {str(n): loaded(client, name, body, n, seconds) for n in levels}
    best = max(each["rate"] for each in rates.values())
    return {"loop": loop, "server": rates, "share": round(best / max(loop.values()), 3)}


def main() -> None:
    """Measure each network."""
    asked = options.read()
    with tempfile.TemporaryDirectory() as folder:
        body = Path(folder, "image.jpg")
        body.write_bytes(serving.jpeg())
        told: dict[str, Any] = {}
        for name in networks.BUILDERS:
            try:
                told[name] = network(name, asked, Path(folder), body)
            except Exception as error:  # noqa: BLE001 - the others are measured all the same
                told[name] = {"wrong": f"{type(error).__name__}: {error}"[:500]}
            wrong = [n for n, each in told.items() if "wrong" in each or _failed(each)]
            print(json.dumps({"networks": told, "wrong": wrong}), flush=True)


def _failed(told: dict[str, Any]) -> bool:
    return any("failed" in each for each in told["server"].values())


if __name__ == "__main__":
    main()
