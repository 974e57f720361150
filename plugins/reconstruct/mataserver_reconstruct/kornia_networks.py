"""DISK and ALIKED with LightGlue, and LoFTR, as kornia has them."""

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
from mataserver_reconstruct.networks import Features, Places

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mataserver_reconstruct.weights import Checkpoint, Two

_SIDE = 1_024
_ALIKED = ("aliked-n16", "aliked-n32", "aliked-t16")
_EARLIER = re.compile(r"^(self|cross)_attn\.(\d+)")
"""How the authors' own files name the layers."""


class Glued(ABC):
    """A network that finds features, matched by LightGlue."""

    side = _SIDE
    of_pairs = False

    def __init__(self, needs: Two, most: int) -> None:
        self._most = most
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        self._finder = self.finder(_state(needs.features), most).to(self._device)
        self._matcher = _light_glue(_state(needs.matcher)).to(self._device)

    @abstractmethod
    def finder(self, state: dict[str, torch.Tensor], most: int) -> Any:
        """Return the network that finds features, with its weights."""

    @abstractmethod
    def found(self, shown: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Return places, scores and descriptors in a picture ``[1, 3, H, W]``, 0 to 1."""

    def find(self, pixels: NDArray[np.uint8]) -> Features:
        """Return the features of a picture, uint8 ``[H, W, 3]``."""
        shown = torch.from_numpy(pixels).to(self._device).permute(2, 0, 1)[None].float() / 255
        xy, score, descriptors = (each.float().cpu().numpy() for each in self.found(shown))
        return Features(xy, np.array(pixels.shape[1::-1], np.float32), score, descriptors)

    def match(self, first: Features, second: Features) -> NDArray[np.uint32]:
        """Return matches: places in the features of both, ``[m, 2]``."""
        told = self._matcher({"image0": self._given(first), "image1": self._given(second)})
        return np.asarray(told["matches"][0].cpu().numpy().reshape(-1, 2), np.uint32)

    def _given(self, features: Features) -> dict[str, torch.Tensor]:
        named = {"keypoints": features.xy, "descriptors": features.descriptors}
        named["image_size"] = features.size
        return {name: torch.from_numpy(each)[None].to(self._device) for name, each in named.items()}


class Disk(Glued):
    """DISK."""

    def finder(self, state: dict[str, torch.Tensor], _most: int) -> Any:
        """Return DISK with its weights."""
        return _fitted(DISK(), state)

    def found(self, shown: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Return places, scores and descriptors in a picture."""
        (told,) = self._finder(shown, n=self._most, pad_if_not_divisible=True)
        return told.keypoints, told.detection_scores, told.descriptors


class Aliked(Glued):
    """ALIKED, of whichever size the weights are."""

    def finder(self, state: dict[str, torch.Tensor], most: int) -> Any:
        """Return ALIKED with its weights."""
        for name in _ALIKED:
            made = ALIKED(name, max_num_keypoints=most)
            if _fits(made, state):
                return _fitted(made, state)
        raise _other()

    def found(self, shown: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Return places, scores and descriptors in a picture."""
        (told,) = self._finder(shown)
        return told.keypoints, told.keypoint_scores, told.descriptors


class Loftr:
    """LoFTR with the weights for outdoors, or the first ones for indoors.

    Its places count from the corner of the upper left pixel: it was trained on COLMAP's cameras.
    """

    side = 640  # what it compares grows by the fourth power
    of_pairs = True

    def __init__(self, needs: Checkpoint, _most: int) -> None:
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        state = {
            name.removeprefix("matcher."): each for name, each in _state(needs.weights).items()
        }
        self._network = _fitted(LoFTR(None), state).to(self._device)

    def match_pair(self, first: NDArray[np.uint8], second: NDArray[np.uint8]) -> Places:
        """Return the matches of two pictures, uint8 ``[H, W, 3]`` each."""
        told = self._network({"image0": self._grey(first), "image1": self._grey(second)})
        names = ("keypoints0", "keypoints1", "confidence")
        return Places(*(told[name].float().cpu().numpy() for name in names))

    def _grey(self, pixels: NDArray[np.uint8]) -> torch.Tensor:
        grey = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
        return torch.from_numpy(grey).to(self._device)[None, None].float() / 255


def _light_glue(state: dict[str, torch.Tensor]) -> Any:
    """Return LightGlue of the size that its weights have."""
    named = {
        _EARLIER.sub(r"transformers.\2.\1_attn", name.removeprefix("matcher.")): each
        for name, each in state.items()
    }
    try:
        width, inner = (
            named["log_assignment.0.final_proj.weight"].shape[0],
            named["posenc.Wr.weight"],
        )
        entered = named.get("input_proj.weight")
    except KeyError:
        raise _other() from None
    nothing: Any = None  # of the library's own weights, which it would fetch
    made = LightGlue(
        nothing,
        input_dim=width if entered is None else entered.shape[1],
        descriptor_dim=width,
        num_heads=width // (2 * inner.shape[0]),
        n_layers=sum(name.endswith("final_proj.weight") for name in named),
    )
    return _fitted(made, named)


def _fits(network: Any, state: dict[str, torch.Tensor]) -> bool:
    """Whether weights are those of a network: each parameter is there, in its shape."""
    own = dict(network.named_parameters())
    return all(name in state and state[name].shape == each.shape for name, each in own.items())


def _fitted(network: Any, state: dict[str, torch.Tensor]) -> Any:
    """Return a network with its weights. Raises ``Unavailable`` for those of another."""
    if not _fits(network, state):
        raise _other()
    network.load_state_dict(state, strict=False)  # buffers that are derived may be missing
    return network.eval()


def _state(place: str) -> dict[str, torch.Tensor]:
    """Return the tensors of a file, by name. Raises ``Unavailable``."""
    path = weights.found(place)
    if path is None or not path.is_file():
        raise Unavailable("its weights are not on this machine")
    try:
        held = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, ValueError, EOFError, KeyError, pickle.UnpicklingError) as error:
        raise Unavailable("its weights are damaged, or not a weights file") from error
    for inside in ("state_dict", "extractor"):
        held = held.get(inside, held) if isinstance(held, dict) else {}
    return {name: each for name, each in held.items() if isinstance(each, torch.Tensor)}


def _other() -> Unavailable:
    return Unavailable("its weights are of another network")
