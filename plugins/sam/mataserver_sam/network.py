"""The network of video sessions: SAM 3, or the video model of SAM 2, which takes no texts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from transformers.models.sam2_video.modeling_sam2_video import Sam2VideoInferenceSession
from transformers.models.sam3_tracker_video.modeling_sam3_tracker_video import (
    Sam3TrackerVideoInferenceSession,
)

from mataserver import Unavailable
from mataserver_sam.components import install_kernels
from mataserver_sam.memory_pruning import MemoryPruner
from mataserver_sam.preprocess import StretchPreparation
from mataserver_sam.weights import Weights

if TYPE_CHECKING:
    import torch

    from mataserver_sam.weights import PointWeights


@dataclass(frozen=True, slots=True)
class Network:
    """The parts of a loaded model that its video sessions use.

    tracker: a ``Sam3TrackerVideoModel`` or ``Sam2VideoModel``: points, boxes and masks.
    session: the class of the tracker's sessions.
    texts:   the whole of SAM 3, which also finds objects by text; None for SAM 2.
    pruner:  drops the trackers' old memories.
    """

    tracker: Any
    session: Any
    prepare: StretchPreparation
    device: torch.device
    dtype: torch.dtype
    texts: Weights | None
    pruner: MemoryPruner

    @classmethod
    def of(cls, weights: Weights | PointWeights) -> Network:
        """Return the network of loaded weights.

        Raises ``Unavailable`` for a model without videos.
        """
        prepare = weights.prepare
        if weights.video is None or not isinstance(prepare, StretchPreparation):
            raise Unavailable("The model supports images only, not videos")
        kit: tuple[Any, Any, Weights | None] = (weights.video, Sam2VideoInferenceSession, None)
        if isinstance(weights, Weights):
            install_kernels()
            kit = (weights.tracker_video, Sam3TrackerVideoInferenceSession, weights)
        tracker, session, texts = kit
        pruner = MemoryPruner.of(tracker)
        return cls(tracker, session, prepare, weights.device, weights.dtype, texts, pruner)

    def features(self, pixels: torch.Tensor) -> dict[str, Any]:
        """Encode a frame ``[3, side, side]`` for a session's cache."""
        if self.texts is None:
            seen = self.tracker.get_image_features(pixels[None], return_dict=True)
            features, positions = seen.fpn_hidden_states, seen.fpn_position_encoding
        else:
            encoded = self.texts.detector.get_vision_features(pixel_values=pixels[None])
            video = self.texts.video
            features, positions = video.get_vision_features_for_tracker(vision_embeds=encoded)
        return {"vision_feats": features, "vision_pos_embeds": positions}

    def new_session(self, kind: Any, size: tuple[int, int]) -> Any:
        """Return a new session of the class ``kind`` for a video of ``size`` (height, width)."""
        height, width = size
        return kind(
            video_height=height,
            video_width=width,
            inference_device=self.device,
            inference_state_device=self.device,
            dtype=self.dtype,
        )
