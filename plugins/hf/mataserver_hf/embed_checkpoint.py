"""Opens the checkpoints of image encoders. Only ``load`` imports this module."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import torch
from torch.nn.functional import interpolate
from transformers import (
    AutoConfig,
    AutoModel,
    CLIPVisionModelWithProjection,
    Siglip2VisionModel,
    SiglipVisionModel,
)

from mataserver import MataError
from mataserver_hf.checkpoint import Checkpoint
from mataserver_hf.preprocessor import Preprocessor
from mataserver_hf.size_limits import check_sizes

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    from mataserver_hf.network import Network

_CLASSES: dict[str, tuple[Any, str]] = {
    "clip": (CLIPVisionModelWithProjection, "image_embeds"),
    "siglip": (SiglipVisionModel, "pooler_output"),
    "siglip2": (Siglip2VisionModel, "pooler_output"),
}
_INTERPOLATIONS = {2: "bilinear", 3: "bicubic"}  # Pillow's numbers
_configs: Any = AutoConfig  # transformers types it in part only


class Dinov3Processor:
    """Preprocesses images for DINOv3 as its authors do: rescale, resize smoothly, normalize.

    transformers can do this with torchvision only.
    """

    def __init__(self, settings: dict[str, Any]) -> None:
        """Take the image processor's settings; raises ``KeyError`` for unsupported ones."""
        size = settings["size"]
        self._size = (int(size["height"]), int(size["width"]))
        self._mode = _INTERPOLATIONS[settings["resample"]]
        self._factor = float(settings["rescale_factor"])
        self._mean = torch.tensor(settings["image_mean"])[:, None, None]
        self._deviation = torch.tensor(settings["image_std"])[:, None, None]

    def __call__(
        self, images: Sequence[NDArray[np.uint8]], **_options: Any
    ) -> dict[str, torch.Tensor]:
        """Return ``pixel_values`` ``[len(images), 3, height, width]`` of ``[H, W, 3]`` images."""
        return {"pixel_values": torch.stack([self._prepare(image) for image in images])}

    def _prepare(self, image: NDArray[np.uint8]) -> torch.Tensor:
        pixels = torch.tensor(image).permute(2, 0, 1) * self._factor
        [resized] = interpolate(pixels[None], size=self._size, mode=self._mode, antialias=True)
        prepared: torch.Tensor = (resized - self._mean) / self._deviation
        return prepared


class EmbedCheckpoint(Checkpoint):
    """The files of an image encoder."""

    def open(self) -> tuple[Network, Preprocessor, str]:
        """Load the encoder, its image processor, and the name of its output."""
        with self._reading("configuration"):
            config = _configs.from_pretrained(
                self._path, local_files_only=True, trust_remote_code=False
            )
        auto_class, output = _CLASSES.get(config.model_type, (AutoModel, "pooler_output"))
        network = self.network(auto_class)
        if config.model_type.startswith("dinov3"):
            return network, self._dinov3_preprocessor(), output
        return network, self.preprocessor(), output

    def _dinov3_preprocessor(self) -> Preprocessor:
        with self._reading("image processor configuration"):
            settings = self.image_settings()
            done = (settings.get(name, True) for name in ("do_rescale", "do_normalize"))
            if not settings["do_resize"] or settings.get("do_center_crop") or not all(done):
                raise MataError(f"{self.name} prepares images in an unknown way")
            check_sizes(SimpleNamespace(size=settings["size"]))
            return Preprocessor(Dinov3Processor(settings))
