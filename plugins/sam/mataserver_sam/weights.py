"""Loaded weights of SAM, and the conversion of pictures and texts to network inputs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from mataserver import InvalidParams

if TYPE_CHECKING:
    from mataserver_sam.preprocess import Preparation


@dataclass(slots=True)
class Weights:
    """SAM3, loaded once.

    video:         the whole model: tracking of objects by text.
    tracker_image: its tracker as a ``Sam3TrackerModel``: points and boxes in one image.
    tokenizer:     of the text encoder.
    prepare:       converts images to tensors.
    """

    video: Any
    tracker_image: Any
    tokenizer: Any
    prepare: Preparation
    device: torch.device
    dtype: torch.dtype

    @property
    def detector(self) -> Any:
        """The video model's ``Sam3Model``: objects in an image by text and boxes."""
        return self.video.detector_model

    @property
    def tracker_video(self) -> Any:
        """The video model's tracker: points, boxes and masks in videos.

        It has no vision encoder; ``video.get_vision_features_for_tracker`` provides its inputs.
        """
        return self.video.tracker_model

    @property
    def size_bytes(self) -> int:
        """The bytes of every weight."""
        every = [*self.video.parameters(), *self.video.buffers()]
        return sum(each.numel() * each.element_size() for each in every)

    def pixels(self, image: Any) -> torch.Tensor:
        """Return an RGB image ``[H, W, 3]`` as the network's input, on its device."""
        return self.prepare(image).to(self.device, self.dtype)

    def tokens(self, texts: list[str]) -> dict[str, torch.Tensor]:
        """Return ``input_ids`` and ``attention_mask`` ``[len(texts), 32]`` on the device.

        Raises ``InvalidParams`` for a text that would have to be truncated.
        """
        longest = self.detector.config.text_config.max_position_embeddings
        filled = self.tokenizer(texts, padding="max_length", max_length=longest)
        if max(map(len, filled["input_ids"])) > longest:
            raise InvalidParams(f"a text is longer than the {longest} tokens that this model reads")
        names = ("input_ids", "attention_mask")
        return {name: torch.tensor(filled[name], device=self.device) for name in names}


@dataclass(slots=True)
class PointWeights:
    """A SAM 1 or SAM 2, loaded once.

    image: a ``SamModel`` or ``Sam2Model``: points and boxes in one image.
    video: the ``Sam2VideoModel`` whose weights ``image`` uses; None where the checkpoint has none.
    """

    image: Any
    video: Any
    prepare: Preparation
    device: torch.device
    dtype: torch.dtype

    def pixels(self, image: Any) -> torch.Tensor:
        """Return an RGB image ``[H, W, 3]`` as the network's input, on its device."""
        return self.prepare(image).to(self.device, self.dtype)

    @property
    def size_bytes(self) -> int:
        """The bytes of every weight."""
        model = self.image if self.video is None else self.video
        every = [*model.parameters(), *model.buffers()]
        return sum(each.numel() * each.element_size() for each in every)
