"""What every object of one video shares: its frames, and what the vision encoder made of the last.

Both stand in for parts of transformers' video sessions, which would hold all frames of a video at
once, and encode a frame for each session anew.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mataserver_sam.frames import Clip
from mataserver_sam.preprocess import normalised, resized
from mataserver_sam.stills import Stills

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    import torch
    from numpy.typing import NDArray

    from mataserver_sam.index import Limits
    from mataserver_sam.network import Network


class Footage:
    """The frames of a video as the network wants them, by number: ``processed_frames``.

    Frames are kept as bytes of the network's size, up to ``cache_bytes``; ``stills`` are the same
    frames as pictures. Raises ``BadRequest`` as ``Clip`` does.
    """

    def __init__(self, path: Path, network: Network, cache_bytes: float, limits: Limits) -> None:
        self._network = network
        self.stills = Stills(path, limits)
        self.clip: Clip[torch.Tensor] = Clip(path, self._resized, cache_bytes, limits)

    def __len__(self) -> int:
        return len(self.clip)

    def __getitem__(self, number: int) -> torch.Tensor:
        """Return frame ``number`` as ``[3, side, side]`` on the network's device."""
        network = self._network
        pixels = self.clip.frame(number).to(network.device)
        prepared = normalised(pixels, network.prepare.mean, network.prepare.std)
        return prepared[0].to(network.dtype)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the frames as they are shown."""
        return self.clip.height, self.clip.width

    @property
    def cached_bytes(self) -> int:
        """Bytes of the frames that are kept."""
        return self.clip.cached_bytes + self.stills.cached_bytes

    def close(self) -> None:
        """Close the file; nothing is given any more."""
        self.stills.close()
        self.clip.close()

    def _resized(self, image: NDArray[np.uint8]) -> torch.Tensor:
        side = self._network.prepare.side
        return resized(image, (side, side))


class Features:
    """The features of the frame that was encoded last: ``cache`` of transformers' sessions.

    A tracker that asks for another frame has it encoded. Of the position encodings, 85 MB in
    float32, only the one that trackers read is kept.
    """

    def __init__(self, network: Network, footage: Footage) -> None:
        self._network = network
        self._footage = footage
        self._frame = -1
        self.kept: dict[str, Any] = {}

    def get_vision_features(self, frame: int) -> dict[str, Any]:
        """Return the features of a frame, lists of tensors by name."""
        if frame != self._frame:
            self.cache_vision_features(frame, self._network.features(self._footage[frame]))
        return self.kept

    def cache_vision_features(self, frame: int, features: dict[str, Any]) -> None:
        """Keep the features of a frame, and no other."""
        self.kept = {**features, "vision_pos_embeds": features["vision_pos_embeds"][-1:]}
        self._frame = frame

    def clear_all(self) -> None:
        """Forget them."""
        self.kept = {}
        self._frame = -1
