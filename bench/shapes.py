"""Networks of published shapes with random weights, as checkpoints and as ONNX.

Run as ``python bench/shapes.py NAME ...`` it writes those that are not there yet, into
``build/bench-onnx``: delete it after a change of the exporter. Weights are random, so that their
answers mean nothing; the work of computing them is that of the real network. ``yolo11n`` and
``yolo11s`` are of our own making: what a detector of that name has of strides, widths, operations
and outputs, as one that its exporter wrote would be.
"""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import exported
import nets

HERE = Path(__file__).resolve().parent
PLACE = HERE.parent / "build" / "bench-onnx"
PHOTO = HERE.parent / "examples" / "pictures" / "astronaut.jpg"


@dataclass(frozen=True)
class Shape:
    """A network: what it is called, its task, and how many requests a measurement takes.

    is_own: made here, not by transformers; the exporter's int8 is for those of transformers.
    """

    title: str
    task: str
    count: int
    is_own: bool = False


SHAPES = {
    "yolo11n": Shape("YOLO11n, 640", "detect", 32, is_own=True),
    "yolo11s": Shape("YOLO11s, 640", "detect", 16, is_own=True),
    "depth": Shape("Depth Anything V2 Small, 518", "depth", 16),
    "clip": Shape("CLIP ViT-B/32, 224", "embed", 32),
    "segformer": Shape("SegFormer-B0, 512", "segment", 16),
    "vit": Shape("ViT-B/16, 224", "classify", 16),
    "rtdetr": Shape("RT-DETR-r18, 640", "detect", 16),
}
WIDTHS = {"yolo11n": 16, "yolo11s": 32}


def checkpoint(name: str) -> Path:
    """Return the directory of a network's checkpoint of transformers."""
    return PLACE / f"shaped-{name}-torch"


def file(name: str, *, int8: bool = False) -> Path:
    """Return the directory of a network's ONNX."""
    return PLACE / f"shaped-{name}{'-int8' if int8 else ''}"


def ensure(names: list[str]) -> None:
    """Write what is not there yet, in a process that may import torch."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    subprocess.run([sys.executable, __file__, *names], check=True, cwd=HERE, env=environment)


# those of transformers


def _parts(name: str) -> tuple[Any, Any]:
    """Return a model and its image processor, in the sizes that were published."""
    hf: Any = importlib.import_module("transformers")
    if name in nets.SIDES:
        processor = getattr(hf, exported.PROCESSORS[name])(do_normalize=False)
        return nets.network(name), processor
    if name == "clip":
        # The text's half is not exported: it is as small as it can be.
        text = {"hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 1}
        return hf.CLIPModel(hf.CLIPConfig(text_config=text)), hf.CLIPImageProcessorPil()
    if name == "segformer":
        square = {"height": 512, "width": 512}
        model = hf.SegformerForSemanticSegmentation(hf.SegformerConfig(num_labels=150))
        # Random classes are equally likely everywhere: so sure of them, it answers with segments.
        model.decode_head.classifier.weight.data *= 1000
        return model, hf.SegformerImageProcessorPil(size=square)
    backbone = hf.Dinov2Config(
        hidden_size=384,
        num_attention_heads=6,
        image_size=518,
        patch_size=14,
        out_indices=[3, 6, 9, 12],
        reshape_hidden_states=False,
        apply_layernorm=True,
    )
    config = hf.DepthAnythingConfig(
        backbone_config=backbone,
        reassemble_hidden_size=384,
        neck_hidden_sizes=[48, 96, 192, 384],
        fusion_hidden_size=64,
        head_hidden_size=32,
    )
    processor = hf.DPTImageProcessorPil(
        size={"height": 518, "width": 518}, keep_aspect_ratio=True, ensure_multiple_of=14
    )
    return hf.DepthAnythingForDepthEstimation(config), processor


def _write_checkpoint(name: str, path: Path) -> None:
    model, processor = _parts(name)
    model.eval().save_pretrained(path)
    processor.save_pretrained(path)


def _write_export(name: str, path: Path, *, int8: bool) -> None:
    from mataserver_onnx.export import families, photos, tracing

    source = checkpoint(name)
    family = families.find(families.read_config(source), SHAPES[name].task)
    opened = tracing.Checkpoint(source, family)
    opened.write(path, "onnx", photos.read(PHOTO), int8=int8)


# those of our own


def _write_detector(name: str, path: Path) -> None:
    """Write the ONNX, with the metadata that such a network's exporter writes."""
    import onnx
    import simplejpeg

    import question
    import yolo_shaped

    target = path / "model.onnx"
    asked = simplejpeg.decode_jpeg(question.small(), colorspace="RGB")
    yolo_shaped.write(WIDTHS[name], target, asked)
    model = onnx.load(target)
    notes = {
        "description": f"A network in the shape of {name}, with random weights",
        "task": "detect",
        "stride": "32",
        "batch": "1",
        "imgsz": str([yolo_shaped.SIDE, yolo_shaped.SIDE]),
        "names": str({index: f"class {index}" for index in range(yolo_shaped.CLASSES)}),
    }
    onnx.helper.set_model_props(model, notes)
    onnx.save(model, target)
    target.with_name("model.onnx.data").unlink(missing_ok=True)


def _write(name: str, path: Path) -> None:
    if path.exists():
        return
    print(f"writing {path.name}", file=sys.stderr)
    part = path.with_name(path.name + ".part")
    part.mkdir(parents=True)
    if path == checkpoint(name):
        _write_checkpoint(name, part)
    elif SHAPES[name].is_own:
        _write_detector(name, part)
    else:
        _write_export(name, part, int8=path == file(name, int8=True))
    part.rename(path)


def main() -> None:
    """Write all forms of the networks that are named."""
    import torch

    for name in sys.argv[1:]:
        torch.manual_seed(0)
        own = SHAPES[name].is_own
        for path in [file(name)] if own else [checkpoint(name), file(name), file(name, int8=True)]:
            _write(name, path)


if __name__ == "__main__":
    main()
