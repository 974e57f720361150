"""SAM 1 and SAM 2 on images: one object per point or box prompt, without texts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mataserver import InvalidParams
from mataserver_sam.byte_cache import tensor_bytes
from mataserver_sam.prompt_decoder import PromptDecoder

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from mataserver_sam.preprocess import Size
    from mataserver_sam.prompt_decoder import FoundObject
    from mataserver_sam.prompts import Prompt
    from mataserver_sam.weights import PointWeights


class ImageEmbeddings:
    """The vision encoder's output for one image, from ``get_image_embeddings``."""

    def __init__(self, embeddings: Any) -> None:
        self.embeddings = embeddings

    @property
    def size_bytes(self) -> int:
        """Bytes of the tensors."""
        return tensor_bytes(self.embeddings)


class PromptedImageSegmenter:
    """The image part of SAM 1 or SAM 2."""

    capabilities = ("box_prompt", "point_prompt", "batch_processing", "feature_caching")

    def __init__(self, weights: PointWeights) -> None:
        self._weights = weights
        self._decoder = PromptDecoder(weights.image, weights.prepare)

    def check(self, prompts: Sequence[Prompt]) -> None:
        """Raise ``InvalidParams`` for prompts that this model does not support."""
        for each in prompts:
            if each.type == "text":
                raise InvalidParams("this model does not take text: use SAM3, or boxes and points")
            if each.type == "box" and not each.wanted:
                raise InvalidParams("this model does not take negative boxes: use points")

    def encode_image(self, image: NDArray[np.uint8]) -> ImageEmbeddings:
        """Run the vision encoder on an RGB image ``[H, W, 3]``."""
        return ImageEmbeddings(
            self._weights.image.get_image_embeddings(self._weights.pixels(image))
        )

    def find_objects(
        self,
        view: ImageEmbeddings,
        prompts: Sequence[Prompt],
        size: Size,
        threshold: float,
        *,
        all_masks: bool = False,
    ) -> Iterator[list[FoundObject]]:
        """Yield each prompt's object, or with ``all_masks`` its proposals, best first.

        Those with a score below ``threshold`` are left out.
        """
        for group in self._decoder.propose_masks(
            view.embeddings, prompts, size, all_masks=all_masks
        ):
            yield [each for each in group if each.score >= threshold]

    def outline_prompts(
        self, view: ImageEmbeddings, prompts: Sequence[Prompt], size: Size
    ) -> list[FoundObject]:
        """Return one object for each prompt, whatever its score."""
        return self._decoder.outline_prompts(view.embeddings, prompts, size)
