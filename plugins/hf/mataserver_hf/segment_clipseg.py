"""CLIPSeg in two steps, so that an image is encoded once for all its prompts.

Only ``load`` imports this module.
"""

from __future__ import annotations

import torch
from transformers import CLIPSegForImageSegmentation

from mataserver import BadRequest

PROMPTS_PER_PASS = 16


class TwoStepCLIPSeg(CLIPSegForImageSegmentation):  # type: ignore[no-untyped-call]
    """The network of transformers with its forward pass split into encoder and decoder."""

    def encode_images(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Encode images ``[B, 3, h, w]`` to the decoder's inputs ``[B, layers, tokens, D]``.

        Raises ``BadRequest`` for images that are no squares: the decoder lays any number of tokens
        that has a root out as a square, those of 2 by 8 as 4 by 4.
        """
        height, width = pixel_values.shape[-2:]
        if height != width:
            raise BadRequest(
                f"an image that is resized to {width}x{height} pixels does not fit this model, "
                "whose network takes squares alone"
            )
        seen = self.clip.get_image_features(
            pixel_values=pixel_values, interpolate_pos_encoding=True, output_hidden_states=True
        )
        # The first of the hidden states is the input of the first layer.
        return torch.stack([seen.hidden_states[layer + 1] for layer in self.extract_layers], 1)

    def decode_prompts(self, seen: torch.Tensor, embeddings: torch.Tensor) -> torch.Tensor:
        """Return logits ``[P, h, w]`` of one encoded image and text embeddings ``[P, E]``."""
        logits = []
        for start in range(0, len(embeddings), PROMPTS_PER_PASS):
            texts = embeddings[start : start + PROMPTS_PER_PASS]
            layers = tuple(layer.expand(len(texts), -1, -1) for layer in seen)
            logits.append(self.decoder(layers, texts).logits)
        return torch.cat(logits)
