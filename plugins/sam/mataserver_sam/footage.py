"""The frames of a video, prepared for a network and shared by all objects.

They replace a part of transformers' video sessions, which would hold all frames at once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mataserver_sam.frames import Clip
from mataserver_sam.preprocess import normalised, resized
from mataserver_sam.stills import Stills

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    import torch
    from numpy.typing import NDArray

    from mataserver_sam.limits import Limits
    from mataserver_sam.network import Network


class Footage:
    """The prepared frames of a video by number: ``processed_frames`` of transformers' sessions.

    Frames are cached as bytes of the network's size, up to ``cache_bytes``; ``stills`` are the same
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
        """Height and width of the displayed frames."""
        return self.clip.height, self.clip.width

    @property
    def cached_bytes(self) -> int:
        """Bytes of the cached frames."""
        return self.clip.cached_bytes + self.stills.cached_bytes

    def close(self) -> None:
        """Close the file; no frame can be read afterwards."""
        self.stills.close()
        self.clip.close()

    def _resized(self, image: NDArray[np.uint8]) -> torch.Tensor:
        side = self._network.prepare.side
        return resized(image, (side, side))
