"""Equality of exports: each family's tiny checkpoint, exported and compared with torch.

Run as ``python bench/onnx_families.py [family ...]``; it prints a Markdown table, in 10 minutes for
all. The checkpoints are those of the tests of ``plugins/hf``, with random weights. Each export is
compared on five real pictures: those of ``examples/pictures``, and a wide and a tall piece of the
photo. The columns are the largest differences of

- ONNX, int8, OpenVINO: the plugin's answers from torch's, by the code of ``mataserver export``; the
  figures of each task are those of the README of ``plugins/onnx``, in its order;
- outputs: onnxruntime by itself from torch, in parts of an output's range;
- plugin: the plugin from onnxruntime by itself, the same.
"""

from __future__ import annotations

import importlib.util
import os
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

TESTS = Path(__file__).resolve().parents[1] / "plugins" / "hf" / "tests"
PICTURES = Path(__file__).resolve().parents[1] / "examples" / "pictures"
TARGETS = (("onnx", False), ("onnx", True), ("openvino", False))


def neighbour(name: str) -> Any:
    """Import a module of the tests of ``plugins/hf`` by its path."""
    spec = importlib.util.spec_from_file_location(name, TESTS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def classifier(path: Path, family: str, processor: str, **config: Any) -> None:
    """Write a small classifier of a family of transformers."""
    import transformers

    labels = {index: f"class {index}" for index in range(8)}
    made = getattr(transformers, f"{family}Config")(
        **config, id2label=labels, label2id={name: index for index, name in labels.items()}
    )
    model = getattr(transformers, f"{family}ForImageClassification")(made)
    neighbour("tiny").spread(model, config.get("image_size", 224))
    model.save_pretrained(path)
    getattr(transformers, f"{processor}ImageProcessorPil")(
        **({} if "image_size" not in config else {"size": _size(processor, config["image_size"])})
    ).save_pretrained(path)


def _size(processor: str, side: int) -> dict[str, int]:
    plain = processor in {"ViT", "Beit", "DeiT", "EfficientNet"}
    return {"height": side, "width": side} if plain else {"shortest_edge": side}


STAGES: dict[str, Any] = {"hidden_sizes": [8, 8, 16, 16], "depths": [1, 1, 1, 1]}
WIDTH: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
SWIN: dict[str, Any] = {
    "embed_dim": 8,
    "depths": [1, 1],
    "num_heads": [1, 2],
    "window_size": 4,
    "image_size": 64,
}
CLASSIFIERS: dict[str, Callable[[Path], None]] = {
    "beit": partial(classifier, family="Beit", processor="Beit", image_size=64, **WIDTH),
    "convnext": partial(classifier, family="ConvNext", processor="ConvNext", **STAGES),
    "convnextv2": partial(classifier, family="ConvNextV2", processor="ConvNext", **STAGES),
    "deit": partial(classifier, family="DeiT", processor="DeiT", **WIDTH),
    "dinov2": partial(classifier, family="Dinov2", processor="Bit", patch_size=14, **WIDTH),
    "dinov2_with_registers": partial(
        classifier, family="Dinov2WithRegisters", processor="Bit", patch_size=14, **WIDTH
    ),
    "efficientnet": partial(
        classifier,
        family="EfficientNet",
        processor="EfficientNet",
        image_size=64,
        width_coefficient=0.25,
        depth_coefficient=0.1,
        hidden_dim=320,
        batch_norm_eps=1e-12,  # else so small a network's signal dies away
    ),
    "mobilenet_v1": partial(
        classifier, family="MobileNetV1", processor="MobileNetV1", depth_multiplier=0.25
    ),
    "mobilenet_v2": partial(
        classifier, family="MobileNetV2", processor="MobileNetV2", depth_multiplier=0.25
    ),
    "mobilevit": partial(
        classifier,
        family="MobileViT",
        processor="MobileViT",
        hidden_sizes=[16, 24, 32],
        neck_hidden_sizes=[8, 8, 16, 16, 24, 32, 32],
        num_attention_heads=2,
    ),
    "segformer": partial(
        classifier,
        family="Segformer",
        processor="Segformer",
        hidden_sizes=[8, 16, 16, 32],
        depths=[1, 1, 1, 1],
        num_attention_heads=[1, 1, 2, 2],
    ),
    "swin": partial(classifier, family="Swin", processor="ViT", **SWIN),
    "swinv2": partial(classifier, family="Swinv2", processor="ViT", **SWIN),
}


def builders() -> dict[str, tuple[Callable[[Path], None], str]]:
    """Return every builder of a checkpoint, and the task that it is exported for."""
    tiny = neighbour("tiny")
    all_of_hf = {
        **tiny.BUILDERS,
        **neighbour("tiny_segment").builders(tiny),
        **neighbour("tiny_prompted").builders(tiny),
    }
    tasks = {
        "detect": ("detr conditional_detr table_transformer rt_detr rt_detr_v2 d_fine yolos"),
        "classify": "vit resnet",
        "segment": "segformer upernet beit_segmenter",
        "depth": "depth_anything dpt glpn",
        "embed": "dinov2 dinov2_with_registers clip siglip",
    }
    named = {
        f"{name} ({task})": (all_of_hf[name], task)
        for task, names in tasks.items()
        for name in names.split()
    }
    own = {f"{name} (classify)": (build, "classify") for name, build in CLASSIFIERS.items()}
    return {**named, **own}


def photographs() -> list[Any]:
    """Return the pictures of the examples, and a wide and a tall piece of the photo among them."""
    from mataserver_onnx.export import photos

    return [*photos.read(PICTURES), *photos.read(None)[1:]]


def measure(path: Path, task: str, target: str, *, int8: bool) -> list[str]:
    """Export a checkpoint and return its differences from torch; in full ONNX also the direct ones.

    What an export cannot do stands in the place of its differences.
    """
    from mataserver_onnx.export import families, trial

    family = families.find(families.read_config(path), task)
    pictures = photographs()
    with tempfile.TemporaryDirectory() as place:
        try:
            figures = trial.export_and_compare(
                path, Path(place), family, target, pictures, int8=int8
            )
            whole = target == "onnx" and not int8
            raw = direct(path, Path(place), family, pictures) if whole else []
        except Exception as error:  # noqa: BLE001 - a table of what works
            return [f"{type(error).__name__}: {str(error).splitlines()[0][:100]}"]
    passed = all(figure.passed for figure in figures)
    told = ("" if passed else "**failed** ") + ", ".join(f"{each.value:.1e}" for each in figures)
    return [told, *(f"{each:.1e}" for each in raw)]


def direct(path: Path, place: Path, family: Any, pictures: list[Any]) -> tuple[float, float]:
    """Compare the outputs themselves, in parts of their range; return the largest differences.

    The first is between torch and onnxruntime by itself, both given what transformers' processor
    makes of a picture; the second between that onnxruntime and the plugin, given the picture.
    """
    import logging

    import onnxruntime
    import torch

    from mataserver import LoadContext, ModelSpec
    from mataserver_onnx.export import tracing, trial
    from mataserver_onnx.options import Settings

    opened = tracing.Checkpoint(path, family)
    session = onnxruntime.InferenceSession(
        str(place / "model.onnx"), providers=["CPUExecutionProvider"]
    )
    takes = {each.name for each in session.get_inputs()}
    context = LoadContext(Settings(), "cpu", "float32", 0, place, logging.getLogger("bench"))
    backend, _ = trial.BACKENDS[family.task]
    network: Any = backend.load(ModelSpec("export", family.task, "local", place), context)
    network = network._network  # noqa: SLF001 - what it computes before it is read as an answer
    worst = [0.0, 0.0]
    for picture in pictures:
        given = opened.prepare(picture)
        with torch.inference_mode():
            answer = opened.module(**given)
        feeds = {name: value.numpy() for name, value in given.items() if name in takes}
        [(_, ours, _)] = network.run([picture])
        for name, own in zip(network.outputs, ours, strict=True):
            [alone] = session.run([name], feeds)
            worst[0] = max(worst[0], _apart(answer[name].numpy(), alone))
            worst[1] = max(worst[1], _apart(alone[0], own))
    return worst[0], worst[1]


def _apart(one: Any, other: Any) -> float:
    import numpy as np

    span = float(one.max() - one.min()) or 1.0
    return float(np.abs(one - other).max()) / span


def main() -> None:
    """Export, compare and print."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    wanted = sys.argv[1:]
    print("| family | ONNX | outputs | plugin | int8 | OpenVINO |\n|---|---|---|---|---|---|")
    for name, (build, task) in builders().items():
        if wanted and name.partition(" ")[0] not in wanted:
            continue
        begun = time.perf_counter()
        with tempfile.TemporaryDirectory() as place:
            path = Path(place, "checkpoint")
            build(path)
            cells = [measure(path, task, target, int8=int8) for target, int8 in TARGETS]
        cells[0] += ["", ""] if len(cells[0]) == 1 else []
        print(f"| {name} | {' | '.join(each for row in cells for each in row)} |", flush=True)
        print(f"{name}: {time.perf_counter() - begun:.0f} s", file=sys.stderr)


if __name__ == "__main__":
    main()
