"""DISK and ALIKED with LightGlue, and LoFTR, from kornia."""

from __future__ import annotations

import pickle
import re
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import torch
from kornia.feature import ALIKED, DISK, LightGlue, LoFTR

from mataserver import Unavailable
from mataserver_reconstruct import weights
from mataserver_reconstruct.networks import Features, PairMatches

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mataserver_reconstruct.weights import Checkpoint, DetectorAndMatcher

_SIDE = 1_024
_ALIKED = ("aliked-n16", "aliked-n32", "aliked-t16")
_ORIGINAL_NAME = re.compile(r"^(self|cross)_attn\.(\d+)")
"""The authors' own names of the layers."""


class LightGlueNetwork(ABC):
    """A feature network whose features are matched by LightGlue."""

    side = _SIDE
    of_pairs = False

    def __init__(self, needs: DetectorAndMatcher, most: int) -> None:
        self._most = most
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        self._detector = self.create_detector(_state(needs.features), most).to(self._device)
        self._matcher = _light_glue(_state(needs.matcher)).to(self._device)

    @abstractmethod
    def create_detector(self, state: dict[str, torch.Tensor], most: int) -> Any:
        """Return the feature network with its weights."""

    @abstractmethod
    def detect(self, shown: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Return positions, scores and descriptors in a picture ``[1, 3, H, W]``, 0 to 1."""

    def find(self, pixels: NDArray[np.uint8]) -> Features:
        """Return the features of a picture, uint8 ``[H, W, 3]``."""
        shown = torch.from_numpy(pixels).to(self._device).permute(2, 0, 1)[None].float() / 255
        xy, score, descriptors = (each.float().cpu().numpy() for each in self.detect(shown))
        return Features(xy, np.array(pixels.shape[1::-1], np.float32), score, descriptors)

    def match(self, first: Features, second: Features) -> NDArray[np.uint32]:
        """Return matches: indices in the features of both, ``[m, 2]``."""
        told = self._matcher({"image0": self._inputs(first), "image1": self._inputs(second)})
        return np.asarray(told["matches"][0].cpu().numpy().reshape(-1, 2), np.uint32)

    def _inputs(self, features: Features) -> dict[str, torch.Tensor]:
        named = {"keypoints": features.xy, "descriptors": features.descriptors}
        named["image_size"] = features.size
        return {name: torch.from_numpy(each)[None].to(self._device) for name, each in named.items()}


class Disk(LightGlueNetwork):
    """DISK."""

    def create_detector(self, state: dict[str, torch.Tensor], _most: int) -> Any:
        """Return DISK with its weights."""
        return _with_weights(DISK(), state)

    def detect(self, shown: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Return positions, scores and descriptors in a picture."""
        (told,) = self._detector(shown, n=self._most, pad_if_not_divisible=True)
        return told.keypoints, told.detection_scores, told.descriptors


class Aliked(LightGlueNetwork):
    """ALIKED, in the size of the weights."""

    def create_detector(self, state: dict[str, torch.Tensor], most: int) -> Any:
        """Return ALIKED with its weights."""
        for name in _ALIKED:
            made = ALIKED(name, max_num_keypoints=most)
            if _fits(made, state):
                return _with_weights(made, state)
        raise _wrong_weights()

    def detect(self, shown: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Return positions, scores and descriptors in a picture."""
        (told,) = self._detector(shown)
        return told.keypoints, told.keypoint_scores, told.descriptors


class Loftr:
    """LoFTR with the weights for outdoors, or the first ones for indoors.

    Its positions are relative to the corner of the upper left pixel: it was trained on COLMAP's
    cameras.
    """

    side = 640  # the number of comparisons grows by the fourth power
    of_pairs = True

    def __init__(self, needs: Checkpoint, _most: int) -> None:
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        state = {
            name.removeprefix("matcher."): each for name, each in _state(needs.weights).items()
        }
        self._network = _with_weights(LoFTR(None), state).to(self._device)

    def match_pair(self, first: NDArray[np.uint8], second: NDArray[np.uint8]) -> PairMatches:
        """Return the matches of two pictures, uint8 ``[H, W, 3]`` each."""
        told = self._network({"image0": self._grey(first), "image1": self._grey(second)})
        names = ("keypoints0", "keypoints1", "confidence")
        return PairMatches(*(told[name].float().cpu().numpy() for name in names))

    def _grey(self, pixels: NDArray[np.uint8]) -> torch.Tensor:
        grey = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
        return torch.from_numpy(grey).to(self._device)[None, None].float() / 255


def _light_glue(state: dict[str, torch.Tensor]) -> Any:
    """Return LightGlue in the size of its weights."""
    named = {
        _ORIGINAL_NAME.sub(r"transformers.\2.\1_attn", name.removeprefix("matcher.")): each
        for name, each in state.items()
    }
    try:
        width, inner = (
            named["log_assignment.0.final_proj.weight"].shape[0],
            named["posenc.Wr.weight"],
        )
        entered = named.get("input_proj.weight")
    except KeyError:
        raise _wrong_weights() from None
    nothing: Any = None  # otherwise the library downloads its own weights
    made = LightGlue(
        nothing,
        input_dim=width if entered is None else entered.shape[1],
        descriptor_dim=width,
        num_heads=width // (2 * inner.shape[0]),
        n_layers=sum(name.endswith("final_proj.weight") for name in named),
    )
    return _with_weights(made, named)


def _fits(network: Any, state: dict[str, torch.Tensor]) -> bool:
    """Whether the weights fit a network: every parameter exists, in its shape."""
    own = dict(network.named_parameters())
    return all(name in state and state[name].shape == each.shape for name, each in own.items())


def _with_weights(network: Any, state: dict[str, torch.Tensor]) -> Any:
    """Return a network with its weights. Raises ``Unavailable`` for those of another network."""
    if not _fits(network, state):
        raise _wrong_weights()
    network.load_state_dict(state, strict=False)  # buffers that are derived may be missing
    return network.eval()


def _state(place: str) -> dict[str, torch.Tensor]:
    """Return the tensors of a file, by name. Raises ``Unavailable``."""
    path = weights.locate(place)
    if path is None or not path.is_file():
        raise Unavailable("its weights are not on this machine")
    try:
        held = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, ValueError, EOFError, KeyError, pickle.UnpicklingError) as error:
        raise Unavailable("its weights are damaged, or not a weights file") from error
    for inside in ("state_dict", "extractor"):
        held = held.get(inside, held) if isinstance(held, dict) else {}
    return {name: each for name, each in held.items() if isinstance(each, torch.Tensor)}


def _wrong_weights() -> Unavailable:
    return Unavailable("its weights are of another network")
