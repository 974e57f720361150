"""Models of a real size on torch, with random weights: the same code for ours and the peers."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from answers import resized

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from answers import Found

    Pixels = NDArray[np.uint8]
    Run = Callable[[Sequence[Pixels]], list[list[Found]]]

SIDES = {"vit": 224, "rtdetr": 640}
"""ViT-B/16 and RT-DETR with a ResNet-18, and what they resize an image to."""

LABELS = 10
"""What each answers of an image: its ten best, so that every answer has the same length."""


def build(name: str, threads: int) -> Run:
    """Return a function from images ``[H, W, 3]`` to the ten best of each.

    ``threads`` are those of a forward pass; a classifier's boxes are empty ones.
    """
    import torch

    torch.set_num_threads(threads)
    net, side = network(name), SIDES[name]

    def run(images: Sequence[Pixels]) -> list[list[Found]]:
        with torch.inference_mode():
            pixels = torch.stack([torch.from_numpy(_prepared(each, side)) for each in images])
            return _best(net(pixel_values=pixels.permute(0, 3, 1, 2)))

    return run


def network(name: str) -> Any:
    """Return a network with random weights, the same every time."""
    import torch

    torch.manual_seed(0)
    return (_vit() if name == "vit" else _rtdetr()).eval()


def _prepared(image: Pixels, side: int) -> NDArray[np.float32]:
    import numpy as np

    return resized(image, (side, side)).astype(np.float32) / np.float32(255)


def _vit() -> Any:
    transformers: Any = importlib.import_module("transformers")
    return transformers.ViTForImageClassification(transformers.ViTConfig(num_labels=1000))


def _rtdetr() -> Any:
    """The shapes of RT-DETR with a ResNet-18 (Zhao et al., CVPR 2024): 20 million parameters."""
    transformers: Any = importlib.import_module("transformers")
    backbone = transformers.RTDetrResNetConfig(
        embedding_size=64,
        hidden_sizes=[64, 128, 256, 512],
        depths=[2, 2, 2, 2],
        layer_type="basic",
        out_features=["stage2", "stage3", "stage4"],
    )
    config = transformers.RTDetrConfig(
        backbone_config=backbone,
        encoder_in_channels=[128, 256, 512],
        hidden_expansion=0.5,
        decoder_layers=3,
        num_labels=80,
    )
    return transformers.RTDetrForObjectDetection(config)


def _best(output: Any) -> list[list[Found]]:
    """Return the likeliest classes of each image, or the likeliest queries with their boxes."""
    import torch

    logits, boxes = output.logits, getattr(output, "pred_boxes", None)
    if boxes is None:
        scores, which = logits.softmax(-1).topk(LABELS)
        places = which.new_zeros((*which.shape, 4)).tolist()
    else:
        scores, flat = logits.sigmoid().flatten(1).topk(LABELS)
        which, queries = flat % logits.shape[-1], flat // logits.shape[-1]
        best = boxes.gather(1, queries[..., None].expand(-1, -1, 4))
        middles, halves = best[..., :2], best[..., 2:] / 2
        places = torch.cat((middles - halves, middles + halves), -1).clamp(0, 1).tolist()
    rows = zip(which.tolist(), scores.tolist(), places, strict=True)
    return [
        [(f"class {c}", s, (x1, y1, x2, y2)) for c, s, (x1, y1, x2, y2) in zip(*row, strict=True)]
        for row in rows
    ]
