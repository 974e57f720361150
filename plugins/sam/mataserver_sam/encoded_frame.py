"""The vision encoder's output for the last frame of a video, shared by all its objects.

It replaces a part of transformers' video sessions, which would encode a frame once per object.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mataserver_sam.footage import Footage
    from mataserver_sam.network import Network


class FrameFeatures:
    """The features of the last encoded frame: ``cache`` of transformers' sessions.

    Requesting another frame encodes it. Of the position encodings, 85 MB in float32, only the one
    that trackers use is kept.
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
        """Keep the features of this frame only."""
        self.kept = {**features, "vision_pos_embeds": features["vision_pos_embeds"][-1:]}
        self._frame = frame

    def clear_all(self) -> None:
        """Drop the features."""
        self.kept = {}
        self._frame = -1
