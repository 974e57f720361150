"""SAM 1 and SAM 2 on images: one object for each point or box prompt, and no words."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mataserver import InvalidParams
from mataserver_sam.clicks import Clicker
from mataserver_sam.features import tensor_bytes

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from mataserver_sam.clicks import Found
    from mataserver_sam.preprocess import Size
    from mataserver_sam.prompts import Prompt
    from mataserver_sam.weights import PointWeights


class View:
    """What the vision encoder made of one image: as ``get_image_embeddings`` gives it."""

    def __init__(self, embeddings: Any) -> None:
        self.embeddings = embeddings

    @property
    def size_bytes(self) -> int:
        """Bytes of the tensors."""
        return tensor_bytes(self.embeddings)


class PromptedImages:
    """The image half of SAM 1 or SAM 2."""

    capabilities = ("box_prompt", "point_prompt", "batch_processing", "feature_caching")

    def __init__(self, weights: PointWeights) -> None:
        self._weights = weights
        self._clicker = Clicker(weights.image, weights.prepare)

    def check(self, prompts: Sequence[Prompt]) -> None:
        """Raise ``InvalidParams`` for prompts that this model cannot serve."""
        for each in prompts:
            if each.type == "text":
                raise InvalidParams("this model does not take text: use SAM3, or boxes and points")
            if each.type == "box" and not each.wanted:
                raise InvalidParams("this model does not take negative boxes: use points")

    def see(self, image: NDArray[np.uint8]) -> View:
        """Run the vision encoder on an RGB image ``[H, W, 3]``."""
        return View(self._weights.image.get_image_embeddings(self._weights.pixels(image)))

    def find(
        self,
        view: View,
        prompts: Sequence[Prompt],
        size: Size,
        threshold: float,
        *,
        every: bool = False,
    ) -> Iterator[list[Found]]:
        """Yield each prompt's object, or with ``every`` its proposals, best first.

        Those whose score is below ``threshold`` are left out.
        """
        for group in self._clicker.proposed(view.embeddings, prompts, size, every=every):
            yield [each for each in group if each.score >= threshold]

    def click(self, view: View, prompts: Sequence[Prompt], size: Size) -> list[Found]:
        """Return one object for each prompt, whatever its score."""
        return self._clicker.click(view.embeddings, prompts, size)
