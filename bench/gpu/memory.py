"""The GPU's memory: what a model is said to take, eviction, running out of it, and a killed worker.

On the CPU only what has a meaning there is looked at: the sequence of evictions is not.
"""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

import networks
import options
import serving

if TYPE_CHECKING:
    from collections.abc import Iterator

SETTLE = 10.0
"""Seconds in which the memory of a process that ended must be free again."""
NEAR = 0.25
"""How far ``memory_mb`` may be from what the driver says, in parts of it."""


def used() -> float:
    """Return the MB of the first GPU that are in use, 0 without one."""
    try:
        import pynvml

        pynvml.nvmlInit()
        handle = pynvml.nvmlDeviceGetHandleByIndex(0)
        return float(pynvml.nvmlDeviceGetMemoryInfo(handle).used) / 1e6
    except Exception:  # noqa: BLE001 - no driver, no GPU
        return 0.0


def total() -> float:
    """Return the MB of the first GPU."""
    import pynvml

    pynvml.nvmlInit()
    return float(pynvml.nvmlDeviceGetMemoryInfo(pynvml.nvmlDeviceGetHandleByIndex(0)).total) / 1e6


def workers(client: serving.Client) -> list[psutil.Process]:
    """Return the workers: what the zygotes, the server's own children, have forked."""
    zygotes = psutil.Process(client.pid).children()
    return [worker for each in zygotes for worker in each.children()]


def figures(client: serving.Client) -> dict[str, Any]:
    """Return the state and memory of every model."""
    _, told = client.call("GET", "/v1/models")
    return {each["model"]: each for each in told}


def freed(level: float) -> bool:
    """Whether the memory in use comes back to a level in time."""
    until = time.monotonic() + SETTLE
    while time.monotonic() < until:
        if used() <= level:
            return True
        time.sleep(0.2)
    return False


def answered(client: serving.Client, model: str, image: bytes) -> bool:
    """Whether a model answers again in time; requests that a worker died with are lost."""
    until = time.monotonic() + SETTLE
    while time.monotonic() < until:
        if client.infer(model, image)[0] == 200:
            return True
        time.sleep(0.2)
    return False


def one_model(client: serving.Client, image: bytes) -> Iterator[tuple[str, Any]]:
    """Look at one model: its memory, and what a worker leaves that is killed."""
    before = used()
    status, _ = client.infer("a", image)
    holds = used() - before
    said = figures(client)["a"]["memory_mb"]
    yield "first", status
    yield "memory_mb", said
    yield "driver_mb", round(holds)
    for worker in workers(client):
        worker.kill()
    yield "freed", freed(before + 100)
    yield "after a kill", answered(client, "a", image)


def out_of_memory(client: serving.Client, image: bytes) -> Iterator[tuple[str, Any]]:
    """Ask for more than there is, then for nothing."""
    yield "all is well", client.infer("hog", image)[0]
    status, body = client.infer("hog", image, gigabytes=100_000)
    yield "too much", status
    yield "says", body
    yield "the next", client.infer("hog", image)[0]


def evictions(client: serving.Client, image: bytes, names: list[str]) -> Iterator[tuple[str, Any]]:
    """Ask three models in turn where two fit."""
    order: list[Any] = []
    for name in names * 2:
        status, _ = client.infer(name, image)
        there = [k for k, now in figures(client).items() if now["state"] != "unloaded"]
        order.append([name, status, there])
    yield "order", order


def main() -> None:
    """Look at everything."""
    asked = options.read()
    image, told = serving.jpeg(), {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "vit")
        networks.vit(path, quick=asked.quick)
        models = {name: ("classify", str(path)) for name in "abc"} | {"hog": ("detect", "")}
        given = {"device": asked.device, "engine": "process", "keep_alive": -1}
        data = Path(folder, "one")
        data.mkdir()
        with serving.served(data, models, **given) as client:
            told["one model"] = dict(one_model(client, image))
            told["out of memory"] = dict(out_of_memory(client, image))
        if asked.device == "cuda":
            holds = max(told["one model"]["driver_mb"], 1)
            fits = (used() + 2.6 * holds) / total()
            data = Path(folder, "three")
            data.mkdir()
            with serving.served(data, models, **given, max_vram_fraction=fits) as client:
                told["evictions"] = dict(evictions(client, image, list("abc")))
    print(json.dumps({**told, "wrong": list(faults(told, asked.device))}))


def faults(told: dict[str, Any], device: str) -> Iterator[str]:
    """Yield what is not as it must be."""
    one, out = told["one model"], told["out of memory"]
    if (one["first"], one["after a kill"], one["freed"]) != (200, True, True):
        yield "a killed worker"
    if (out["all is well"], out["too much"], out["the next"]) != (200, 507, 200):
        yield "out of memory"
    if device == "cuda":
        if abs(one["memory_mb"] - one["driver_mb"]) > NEAR * one["driver_mb"]:
            yield "memory_mb"
        if any(status != 200 or len(there) > 2 for _, status, there in told["evictions"]["order"]):
            yield "evictions"


if __name__ == "__main__":
    main()
