"""The networks of ``nets`` as ONNX, with the same weights.

Run as ``python bench/exported.py`` it writes those that are not there yet. They are kept in
``build/bench-onnx``: delete it after a change of the exporter.
"""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import nets

HERE = Path(__file__).resolve().parent
PLACE = HERE.parent / "build" / "bench-onnx"
TASKS = {"vit": "classify", "rtdetr": "detect"}
PROCESSORS = {"vit": "ViTImageProcessorPil", "rtdetr": "RTDetrImageProcessorPil"}
PHOTO = HERE.parent / "examples" / "pictures" / "astronaut.jpg"


def folder(name: str) -> Path:
    """Return the directory of a network's ONNX."""
    return PLACE / f"served-{name}"


def ensure() -> None:
    """Write what is not there yet, in a process that may import torch."""
    if not all(folder(name).exists() for name in TASKS):
        command = [sys.executable, __file__]
        environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
        subprocess.run(command, check=True, cwd=HERE, env=environment, stdout=subprocess.DEVNULL)


def write(name: str, path: Path) -> None:
    """Write a network's checkpoint and, into ``path``, its ONNX."""
    from mataserver_onnx.export import families, photos, tracing

    transformers: Any = importlib.import_module("transformers")
    source = PLACE / f"served-{name}-torch"
    nets.network(name).save_pretrained(source)
    getattr(transformers, PROCESSORS[name])(do_normalize=False).save_pretrained(source)
    family = families.find(families.read_config(source), TASKS[name])
    part = path.with_name(path.name + ".part")
    part.mkdir(parents=True)
    opened = tracing.Checkpoint(source, family)
    opened.write(part, "onnx", photos.read(PHOTO), int8=False)
    part.rename(path)


if __name__ == "__main__":
    for each in TASKS:
        if not folder(each).exists():
            write(each, folder(each))
