"""Lets a torchvision built for CUDA import beside a torch without it.

Its compiled part cannot be loaded then, so the two operators that its own modules look up are
missing. They are declared here, and suppression of overlapping boxes is given a plain body.
Import this before torchvision, in tests only: users install a pair of releases that match.
"""

from __future__ import annotations

import torch

LIBRARY = torch.library.Library("torchvision", "DEF")
for name in ("nms", "qnms"):
    LIBRARY.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")


def suppress(boxes: torch.Tensor, scores: torch.Tensor, limit: float) -> torch.Tensor:
    """Return the indices of the best boxes, none overlapping a better one by more than limit."""
    left = scores.argsort(descending=True, stable=True)
    kept: list[int] = []
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    while left.numel():
        best, left = int(left[0]), left[1:]
        kept.append(best)
        corners = torch.maximum(boxes[best, :2], boxes[left, :2])
        opposite = torch.minimum(boxes[best, 2:], boxes[left, 2:])
        shared = (opposite - corners).clamp(min=0).prod(1)
        left = left[shared / (areas[best] + areas[left] - shared) <= limit]
    return torch.tensor(kept, dtype=torch.long)


LIBRARY.impl("nms", suppress, "CPU")
