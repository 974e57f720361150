"""SuperPoint with LightGlue, from transformers: one checkpoint of both."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from transformers import AutoImageProcessor, LightGlueConfig, LightGlueForKeypointMatching
from transformers.utils import logging

from mataserver import MataError, Unavailable, check_checkpoint, check_model_files
from mataserver_reconstruct import weights
from mataserver_reconstruct.networks import Features

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from mataserver_reconstruct.weights import Checkpoint

_logging: Any = logging
_logging.set_verbosity_error()
_logging.disable_progress_bar()

WRONG_WEIGHTS = "its weights are of another network, or damaged"


class SuperPoint:
    """The networks of one checkpoint.

    A photograph's features are computed once, unlike in the library's own call, which repeats it
    for each pair; the matches are the same.
    """

    side = 1_024
    of_pairs = False

    def __init__(self, needs: Checkpoint, most: int) -> None:
        place = weights.locate(needs.weights)
        if place is None:
            raise Unavailable("its weights are not on this machine")
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        self._whole, self._processor = _load(place, most)
        self._whole.eval().to(self._device)
        self._detector, self._cached = self._whole.keypoint_detector, _CachedDetector()
        self._whole.keypoint_detector = self._cached

    def find(self, pixels: NDArray[np.uint8]) -> Features:
        """Return the features of a picture, uint8 ``[H, W, 3]``."""
        size = np.array(pixels.shape[1::-1], np.float32)
        shown = self._processor([pixels, pixels], do_resize=False, return_tensors="pt")
        found = self._detector(shown["pixel_values"][0, :1].to(self._device))
        xy, score, descriptors = (
            each[0].float().cpu().numpy()
            for each in (found.keypoints, found.scores, found.descriptors)
        )
        return Features(np.asarray(xy * size, np.float32), size, score, descriptors)

    def match(self, first: Features, second: Features) -> NDArray[np.uint32]:
        """Return matches: indices in the features of both, ``[m, 2]``."""
        if not (len(first.xy) and len(second.xy)):
            return np.empty((0, 2), np.uint32)
        most = int(max(len(first.xy), len(second.xy)))
        width, height = (int(each) for each in np.maximum(first.size, second.size))
        self._cached.found = tuple(
            torch.stack(
                [
                    _padded(each[at], most)
                    for each in self._detector_outputs(first, second, width, height)
                ]
            )
            for at in range(4)
        )
        empty = torch.empty((1, 1), device=self._device)
        found = self._whole(empty.expand(1, 2, 3, height, width))
        of_first = found.matches[0, 0, : len(first.xy)].cpu().numpy()
        at = np.flatnonzero((of_first >= 0) & (of_first < len(second.xy)))
        return np.asarray(np.stack([at, of_first[at]], 1), np.uint32)

    def _detector_outputs(
        self, first: Features, second: Features, width: int, height: int
    ) -> list[tuple[torch.Tensor, ...]]:
        """Return the detector's outputs for both, as if the pictures had the same size.

        LightGlue measures from a picture's center in halves of its longer side; the network takes
        one size for both.
        """
        whole = np.array([width, height], np.float32)
        given = []
        for each in (first, second):
            xy = (each.xy - each.size / 2) * (whole.max() / each.size.max()) + whole / 2
            xy = each.xy if (each.size == whole).all() else xy
            rows = (xy / whole, each.score, each.descriptors, np.ones(len(xy), np.int32))
            given.append(tuple(torch.from_numpy(row).to(self._device) for row in rows))
        return given


def _load(place: Path, most: int) -> tuple[Any, Any]:
    """Return the network and the processor of a checkpoint. Raises ``Unavailable``."""
    network: Any = LightGlueForKeypointMatching
    processor: Any = AutoImageProcessor
    try:
        check_model_files(place)
        check_checkpoint(place)
        config: Any = LightGlueConfig.from_pretrained(place, local_files_only=True)
        config.keypoint_detector_config.max_keypoints = most
        whole, told = network.from_pretrained(
            place, config=config, local_files_only=True, output_loading_info=True
        )
        made = processor.from_pretrained(place, local_files_only=True)
    except MataError as error:
        raise Unavailable(f"its weights are refused: {error.detail}") from error
    except (OSError, ValueError, RuntimeError, AttributeError, TypeError) as error:
        raise Unavailable(WRONG_WEIGHTS) from error
    if told["missing_keys"] or told["mismatched_keys"]:
        raise Unavailable(WRONG_WEIGHTS)
    return whole, made


class _CachedDetector(torch.nn.Module):
    """Replaces the detector: returns features that were found before."""

    found: tuple[torch.Tensor, ...] = ()

    def forward(self, _pixels: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return self.found


def _padded(rows: torch.Tensor, most: int) -> torch.Tensor:
    missing = (most - len(rows), *rows.shape[1:])
    return torch.cat([rows, rows.new_zeros(missing)])
