"""ONNX Runtime and OpenVINO beside torch: speed, memory and start, on the shapes of real models.

Run as ``python bench/onnx_speed.py``; it prints a Markdown table and whether the bars are met. With
``ROUNDS=3`` it is a trial. ViT-B/16 (224 x 224) and RT-DETRv2 with
a ResNet-18 (640 x 640) with random weights, each served by the plugins' own code: ``plugins/hf``
for torch, ``plugins/onnx`` for the exports, pictures in, answers out. Every contestant is a
process of its own; they take turns within each round, so that a machine whose speed drifts favours
none. Figures are medians over all calls, ratios are medians of the rounds' ratios; the fastest call
of each stands beside them, since a machine that is shared slows all down, but not alike.

Memory is what the process has resident (RSS) after the last round, with its share of pages that
others have mapped too in parentheses (PSS). The exports are kept in ``build/bench-onnx``: delete
it after a change of the exporter. OpenVINO in int8 is left out where nncf is not installed.
"""

from __future__ import annotations

import importlib.util
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
BARS = (
    ("ViT-B/16", "ONNX Runtime, float32", 2.0),
    ("ViT-B/16", "ONNX Runtime, int8", 5.0),
    ("RT-DETRv2-r18", "ONNX Runtime, float32", 1.6),
    ("RT-DETRv2-r18", "OpenVINO, bfloat16", 3.0),
)
"""How many times as fast as torch they are to be."""


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


def numbers(name: str) -> list[int]:
    """Return the contestants of a model, by their numbers."""
    kinds = [kind for kind, _ in CONTESTANTS.values()]
    return [number for number, kind in enumerate(kinds) if folder(name, kind).exists()]


def prepare() -> None:
    """Write what is not there yet."""
    from mataserver_onnx.export import families, photos, tracing

    kinds = {kind for kind, _ in CONTESTANTS.values()} - {"torch"}
    if importlib.util.find_spec("nncf") is None:
        kinds.remove("openvino-int8")

    pictures = photos.read(PHOTO)
    for name, task in TASKS.items():
        source = folder(name, "torch")
        if not source.exists():
            checkpoint(name, source)
        family = families.find(families.read_config(source), task)
        for kind in sorted(kinds):
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


def memory() -> tuple[float, float]:
    """Return the MB that this process has resident, and its share of them."""
    import psutil

    found = psutil.Process().memory_full_info()
    return found.rss / 1e6, found.pss / 1e6


class Racer:
    """A contestant's process, and what it said."""

    def __init__(self, name: str, number: int) -> None:
        """Start it and wait for its first answer."""
        begun = time.perf_counter()
        self.name = f"{name} {number}"
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
        self.memory = (0.0, 0.0)

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
        line = self.process.stdout.readline()
        if not line:
            sys.exit(f"it has ended: see python {sys.argv[0]} {self.name}")
        return json.loads(line)

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


def race(name: str) -> dict[str, float]:
    """Let all contestants take turns and print a row each; return how many times torch they are."""
    here = numbers(name)
    begun = {number: starts(name, number) for number in here}
    racers = {number: Racer(name, number) for number in here}
    for _ in range(ROUNDS):
        for racer in racers.values():
            racer.run()
    gains: dict[str, float] = {}
    torch, labels = racers[0], list(CONTESTANTS)
    for number, racer in racers.items():
        racer.close()
        assert racer.has_torch == (number == 0)
        gains[labels[number]] = statistics.median(
            statistics.median(slow) / statistics.median(fast)
            for slow, fast in zip(torch.rounds, racer.rounds, strict=True)
        )
        rss, pss = racer.memory
        print(
            f"| {name} | {labels[number]} | {statistics.median(racer.calls):.0f} ms "
            f"| {gains[labels[number]]:.1f} | {min(racer.calls):.0f} ms "
            f"| {min(torch.calls) / min(racer.calls):.1f} "
            f"| {rss:.0f} ({pss:.0f}) MB | {begun[number]:.2f} s |",
            flush=True,
        )
    return gains


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
    gains = {name: race(name) for name in TASKS}
    print()
    for name, label, bar in BARS:
        verdict = "met" if gains[name][label] >= bar else "missed"
        print(f"- {name}, {label}: {gains[name][label]:.1f} times torch; {bar:g} {verdict}")


if __name__ == "__main__":
    main()
