"""What might make a forward pass cheaper: compiling the network, and pinned memory for its input.

ViT-B as the plugin hf serves it, compiled and not, by batch size; and a batch's pixels copied to
the device from pageable and from pinned memory. Compiled confidences must be those of the network
as it is. Copies are told, not judged: the server copies from pageable memory.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

import networks
import options
from mataserver import ModelSpec
from mataserver_hf import backends
from mataserver_hf import options as hf

if TYPE_CHECKING:
    from collections.abc import Callable

BATCHES = (1, 16, 64)
TIMES = 20
NEAR = 0.1
"""How far a compiled confidence may be from the other, in parts of it: 16 bits round elsewhere."""


def model(path: Path, folder: Path, asked: options.Options, *, compiled: bool) -> tuple[Any, Any]:
    """Load ViT-B; return it and its backend. Raises what compiling raises."""
    found = next(each for each in backends() if each.name == "hf-classify")
    context = options.context(
        folder, asked.device, "auto", hf.Settings(), compile=compiled, max_batch=BATCHES[-1]
    )
    return found.load(ModelSpec("vit", "classify", "local", path), context), found


def timed(device: str, work: Callable[[], Any], times: int) -> float:
    """Return the milliseconds of a call, the device's work included."""
    import torch

    def once() -> float:
        begun = time.perf_counter()
        work()
        if device == "cuda":
            torch.cuda.synchronize()
        return (time.perf_counter() - begun) * 1e3

    once()
    return round(statistics.median(once() for _ in range(times)), 3)


def passes(asked: options.Options, folder: Path) -> dict[str, Any]:
    """Return milliseconds by batch size, of the network as it is and compiled."""
    path = folder / "vit"
    networks.vit(path, quick=asked.quick)
    batches, times = (BATCHES[:1], 3) if asked.quick else (BATCHES, TIMES)
    picture = np.random.default_rng(0).integers(0, 256, (224, 224, 3), dtype=np.uint8)
    told: dict[str, Any] = {}
    answers = []
    for name in ("eager", "compiled"):
        begun = time.perf_counter()
        loaded, found = model(path, folder, asked, compiled=name == "compiled")
        params = msgspec.convert(networks.PARAMS["vit"], found.params)
        rates = {
            str(batch): timed(
                asked.device, partial(loaded.predict, [picture] * batch, [params] * batch), times
            )
            for batch in batches
        }
        answers.append(loaded.predict([picture], [params])[0])
        loaded.close()
        told[name] = {"ms": rates, "seconds_in_all": round(time.perf_counter() - begun, 1)}
    pairs = zip(
        *([each.confidence for each in one.classifications] for one in answers), strict=True
    )
    return {**told, "difference": max(abs(a - b) / a for a, b in pairs)}


def copies(asked: options.Options) -> dict[str, Any]:
    """Return milliseconds to copy a batch of 224x224 to the device, by kind of memory."""
    import torch

    told: dict[str, Any] = {}
    for batch in BATCHES:
        pixels = torch.zeros((batch, 3, 224, 224))
        kinds = {"pageable": pixels}
        if asked.device == "cuda":
            kinds["pinned"] = pixels.pin_memory()
        told[str(batch)] = {
            name: timed(asked.device, partial(tensor.to, asked.device, copy=True), TIMES)
            for name, tensor in kinds.items()
        }
        if asked.device == "cuda":  # what staging would be: into memory that is pinned once
            room = kinds["pinned"]
            staged = partial(_staged, pixels, room, asked.device)
            told[str(batch)]["staged"] = timed(asked.device, staged, TIMES)
    return told


def _staged(pixels: Any, room: Any, device: str) -> Any:
    """Copy pixels into memory that is pinned, and from there to the device."""
    return room.copy_(pixels).to(device, non_blocking=True)


def main() -> None:
    """Measure both."""
    asked = options.read()
    with tempfile.TemporaryDirectory() as folder:
        told = {"forward": passes(asked, Path(folder)), "copies": copies(asked)}
    wrong = [] if told["forward"]["difference"] <= NEAR else ["compiled"]
    print(json.dumps({**told, "wrong": wrong}))


if __name__ == "__main__":
    main()
