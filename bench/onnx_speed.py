"""ONNX Runtime and OpenVINO beside torch: speed, memory and start, on the shapes of real models.

Run as ``python bench/onnx_speed.py``; it prints a table. ViT-B/16 (224 x 224) and RT-DETRv2 with
a ResNet-18 (640 x 640) with random weights, each served by the plugins' own code: ``plugins/hf``
for torch, ``plugins/onnx`` for the exports, pictures in, answers out. Every contestant is a
process of its own; they take turns within each round, so that a machine whose speed drifts favours
none. Figures are medians over all calls, ratios are medians of the rounds' ratios; the fastest call
of each stands beside them, since a machine that is shared slows all down, but not alike.

The exports are kept in ``build/bench-onnx``.
"""

from __future__ import annotations

import json
import logging
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
PLACE = HERE.parent / "build" / "bench-onnx"
PHOTO = HERE.parent / "examples" / "pictures" / "astronaut.jpg"
ROUNDS, CALLS = int(os.environ.get("ROUNDS", "9")), 5
THREADS = 2
TASKS = {"ViT-B/16": "classify", "RT-DETRv2-r18": "detect"}
CONTESTANTS = {
    "torch eager, float32": ("torch", {}),
    "ONNX Runtime, float32": ("onnx", {}),
    "ONNX Runtime, int8": ("onnx-int8", {}),
    "OpenVINO, float32": ("onnx", {"runtime": "openvino"}),
    "OpenVINO, bfloat16": ("onnx", {"runtime": "openvino", "precision": "bfloat16"}),
    "OpenVINO, int8": ("openvino-int8", {"runtime": "openvino"}),
}


# the checkpoints and their exports


def checkpoint(name: str, path: Path) -> None:
    """Write a checkpoint of the real model's shape with random weights."""
    import torch
    import transformers

    torch.manual_seed(0)
    model: Any
    processor: Any
    if name == "ViT-B/16":
        model = transformers.ViTForImageClassification(transformers.ViTConfig(num_labels=1000))
        processor = transformers.ViTImageProcessorPil()
    else:
        backbone = transformers.RTDetrResNetConfig(
            hidden_sizes=[64, 128, 256, 512],
            depths=[2, 2, 2, 2],
            layer_type="basic",
            out_features=["stage2", "stage3", "stage4"],
        )
        config = transformers.RTDetrV2Config(
            backbone_config=backbone,
            encoder_in_channels=[128, 256, 512],
            hidden_expansion=0.5,
            decoder_layers=3,
            num_labels=80,
            num_denoising=0,
        )
        model = transformers.RTDetrV2ForObjectDetection(config)
        processor = transformers.RTDetrImageProcessorPil()
    model.eval().save_pretrained(path)
    processor.save_pretrained(path)


def folder(name: str, kind: str) -> Path:
    """Return the directory of a checkpoint ("torch") or of one of its exports."""
    return PLACE / f"{name.replace('/', '-')}-{kind}"


def prepare() -> None:
    """Write what is not there yet."""
    from mataserver_onnx.export import families, photos, tracing

    pictures = photos.read(PHOTO)
    for name, task in TASKS.items():
        source = folder(name, "torch")
        if not source.exists():
            checkpoint(name, source)
        family = families.find(families.read_config(source), task)
        for kind in {kind for kind, _ in CONTESTANTS.values()} - {"torch"}:
            made = folder(name, kind)
            if not made.exists():
                print(f"exporting {made.name}", file=sys.stderr)
                part = made.with_name(made.name + ".part")
                part.mkdir(parents=True)
                target, _, precision = kind.partition("-")
                opened = tracing.Checkpoint(source, family)
                opened.write(part, target, pictures, int8=bool(precision))
                part.rename(made)


# one contestant: a process that loads, answers once, and then as often as it is told


def contestant(name: str, number: str) -> None:
    """Load, answer, say so; then answer as many times as each line of the input says."""
    import numpy as np
    from PIL import Image

    from mataserver import LoadContext, ModelSpec

    task = TASKS[name]
    kind, options = list(CONTESTANTS.values())[int(number)]
    plugin = __import__("mataserver_hf" if kind == "torch" else "mataserver_onnx")
    own = f"{'hf' if kind == 'torch' else 'onnx'}-{task}"
    [backend] = [each for each in plugin.backends() if each.name == own]
    os.environ.update(backend.environment)
    settings = plugin.settings()(**options)
    log = logging.getLogger("bench")
    context = LoadContext(settings, "cpu", "auto", THREADS, PLACE, log)
    model = backend.load(ModelSpec(name, task, "local", folder(name, kind)), context)
    with Image.open(PHOTO) as image:
        picture = np.asarray(image.convert("RGB"))
    params = backend.params()
    answer = model.predict([picture], [params])
    assert len(answer) == 1
    print(json.dumps({"memory": memory(), "torch": "torch" in sys.modules}), flush=True)
    for line in sys.stdin:
        seconds = []
        for _ in range(int(line)):
            begun = time.perf_counter()
            model.predict([picture], [params])
            seconds.append(time.perf_counter() - begun)
        print(json.dumps({"seconds": seconds, "memory": memory()}), flush=True)


def memory() -> float:
    """Return the MB that this process has resident."""
    import psutil

    return float(psutil.Process().memory_info().rss) / 1e6


class Racer:
    """A contestant's process, and what it said."""

    def __init__(self, name: str, number: int) -> None:
        """Start it and wait for its first answer."""
        begun = time.perf_counter()
        self.process = subprocess.Popen(
            [sys.executable, __file__, name, str(number)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        first = self._read()
        self.start = time.perf_counter() - begun
        self.has_torch: bool = first["torch"]
        self.rounds: list[list[float]] = []
        self.memory = 0.0

    def run(self) -> None:
        """Let it answer for a round; the first answer after a pause does not count."""
        assert self.process.stdin is not None
        print(CALLS + 1, file=self.process.stdin, flush=True)
        said = self._read()
        self.rounds.append(said["seconds"][1:])
        self.memory = said["memory"]

    def close(self) -> None:
        """End it."""
        self.process.communicate()

    def _read(self) -> Any:
        assert self.process.stdout is not None
        return json.loads(self.process.stdout.readline())

    @property
    def calls(self) -> list[float]:
        """The milliseconds of all calls."""
        return [each * 1e3 for row in self.rounds for each in row]


def starts(name: str, number: int) -> float:
    """Return the median seconds from a process's start to its first answer, of three."""
    found = []
    for _ in range(3):
        racer = Racer(name, number)
        racer.close()
        found.append(racer.start)
    return statistics.median(found)


def race(name: str) -> None:
    """Let all contestants take turns and print a row each."""
    begun = {number: starts(name, number) for number in range(len(CONTESTANTS))}
    racers = [Racer(name, number) for number in range(len(CONTESTANTS))]
    for _ in range(ROUNDS):
        for racer in racers:
            racer.run()
    for number, (label, racer) in enumerate(zip(CONTESTANTS, racers, strict=True)):
        racer.close()
        gains = [
            statistics.median(slow) / statistics.median(fast)
            for slow, fast in zip(racers[0].rounds, racer.rounds, strict=True)
        ]
        assert racer.has_torch == (number == 0)
        print(
            f"| {name} | {label} | {statistics.median(racer.calls):.0f} ms "
            f"| {statistics.median(gains):.1f} | {min(racer.calls):.0f} ms "
            f"| {min(racers[0].calls) / min(racer.calls):.1f} "
            f"| {racer.memory:.0f} MB | {begun[number]:.2f} s |",
            flush=True,
        )


def main() -> None:
    """Prepare, measure and print."""
    if len(sys.argv) == 3:
        contestant(*sys.argv[1:])
        return
    os.environ["HF_HUB_OFFLINE"] = "1"
    prepare()
    print(
        f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, "
        f"{THREADS} threads, {ROUNDS} rounds of {CALLS} calls, "
        f"load {os.getloadavg()[0]:.1f} at the beginning\n"
    )
    print(
        "| model | runs on | a picture | times torch | fastest | times torch's "
        "| memory | start to first answer |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for name in TASKS:
        race(name)


if __name__ == "__main__":
    main()
