"""OpenCV versions of the compiled kernels that SAM3's video model uses.

Without the kernels' package transformers only warns and skips the removal of duplicate detections,
the filling of holes and the removal of specks. With the package, it downloads code when the first
frame is tracked. This module avoids both.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import torch
from transformers.models.sam3_video import modeling_sam3_video

_NEIGHBOURS = 8


class Kernels:
    """The two functions that ``transformers.models.sam3_video`` calls."""

    @staticmethod
    def generic_nms(
        overlaps: torch.Tensor,
        scores: torch.Tensor,
        threshold: float,
        use_iou_matrix: bool = True,  # noqa: ARG004 - the caller names it
    ) -> torch.Tensor:
        """Return the indices to keep, best first, of candidates with ``scores`` ``[N]``.

        A candidate is dropped when a better one overlaps it by more than ``threshold``;
        ``overlaps`` are intersections over unions ``[N, N]``.
        """
        close = (overlaps > threshold).cpu().numpy()
        gone = np.zeros(len(close), bool)
        kept = []
        for index in scores.argsort(descending=True, stable=True).tolist():
            if not gone[index]:
                kept.append(index)
                gone |= close[index]
        return torch.tensor(kept, dtype=torch.long, device=scores.device)

    @staticmethod
    def cc_2d(
        masks: torch.Tensor,
        get_counts: bool = True,  # noqa: ARG004 - the caller names it
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the components of masks ``[N, 1, H, W]``, and at each pixel its component's area.

        Both are int32 ``[N, 1, H, W]`` and 0 outside of the masks.
        """
        planes = masks[:, 0].to("cpu", torch.uint8).numpy()
        labels, areas = np.zeros(planes.shape, np.int32), np.zeros(planes.shape, np.int32)
        for index, plane in enumerate(planes):
            _, labels[index], numbers, _ = cv2.connectedComponentsWithStats(
                plane, connectivity=_NEIGHBOURS
            )
            sizes = numbers[:, cv2.CC_STAT_AREA].copy()
            sizes[0] = 0
            areas[index] = sizes[labels[index]]
        found, counts = (torch.from_numpy(each)[:, None] for each in (labels, areas))
        return found.to(masks.device), counts.to(masks.device)


def install_kernels() -> None:
    """Make SAM3's video model use these kernels."""
    module: Any = modeling_sam3_video  # typed as None until it downloads them
    module.cv_utils_kernel = Kernels
