"""One mask per point or box prompt, from the prompt decoder that SAM 1, 2 and 3 share.

SAM (Kirillov et al. 2023, arXiv:2304.02643): the decoder proposes three masks for a prompt and
rates each; the best rated one is the answer and its rating the score, unless all are requested.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from mataserver import MataError
from mataserver_sam.boxes import corners
from mataserver_sam.masks import resize_to_mask

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from mataserver_sam.masks import Floats, Mask, Relative
    from mataserver_sam.preprocess import Preparation, Size
    from mataserver_sam.prompts import Prompt

VISUAL = "visual"
"""The label of objects found without a text."""

BOXES_PER_PASS = 16
"""The maximum number of boxes in one pass of the decoder, which bounds its memory."""


class FoundObject(NamedTuple):
    """One object with its low-resolution mask: a large image may have hundreds.

    values:    the small grid ``[h, w]`` whose values above ``threshold`` are the mask.
    threshold: 0 for logits, one half for probabilities.
    size:      (height, width) of the image.
    box:       ``(cx, cy, w, h)`` in 0..1.
    """

    values: Floats
    threshold: float
    size: Size
    box: Relative
    score: float
    label: str = VISUAL

    def mask(self) -> Mask:
        """Return the mask in the image's size; it is recomputed with every call."""
        return resize_to_mask(self.values, self.size, self.threshold)


class PromptDecoder:
    """A network that takes points and boxes.

    ``network`` is a ``SamModel``, ``Sam2Model`` or ``Sam3TrackerModel``; ``prepare`` is the
    preparation of its images, which maps prompts into them.
    """

    def __init__(self, network: Any, prepare: Preparation) -> None:
        self._network = network
        self._prepare = prepare

    def outline_prompts(
        self, embeddings: Any, prompts: Sequence[Prompt], size: Size
    ) -> list[FoundObject]:
        """Return the object of each prompt, in order.

        ``embeddings`` are the network's ``get_image_embeddings`` of an image of ``size`` (height,
        width). Prompts are point prompts, and box prompts that are not negative.
        """
        return [best for (best,) in self.propose_masks(embeddings, prompts, size)]

    def propose_masks(
        self, embeddings: Any, prompts: Sequence[Prompt], size: Size, *, all_masks: bool = False
    ) -> list[list[FoundObject]]:
        """Return each prompt's best object in a list; with ``all_masks`` all, best first."""
        found: dict[int, list[FoundObject]] = {}
        for indices in _groups(prompts):
            inputs = self._inputs([prompts[index] for index in indices], size, embeddings)
            output = self._network(image_embeddings=embeddings, multimask_output=True, **inputs)
            ratings = finite(output.iou_scores)[0]
            order = ratings.argsort(stable=True, dim=-1, descending=True)
            order = order if all_masks else order[:, :1]
            rows = torch.arange(len(indices), device=order.device)
            for index in indices:
                found[index] = []
            for best in order.T:
                logits = self._prepare.crop_padding(finite(output.pred_masks)[0, rows, best], size)
                scores = ratings[rows, best].clamp(0.0, 1.0).tolist()
                for index, values, score in zip(indices, logits.cpu().numpy(), scores, strict=True):
                    box = resize_to_mask(values, size).box()
                    found[index].append(FoundObject(values, 0.0, size, box, score))
        return [found[index] for index in range(len(prompts))]

    def _inputs(
        self, prompts: Sequence[Prompt], size: Size, embeddings: Any
    ) -> dict[str, torch.Tensor]:
        """Return prompts of one kind as the network's arguments, in pixels of its square."""
        like = embeddings if torch.is_tensor(embeddings) else embeddings[0]
        height, width = self._prepare.extent(size)
        asked: dict[str, torch.Tensor] = {}
        boxes = [corners(each.box) for each in prompts if each.box is not None]
        if boxes:
            scale = torch.tensor([width, height, width, height], dtype=torch.float32)
            asked["input_boxes"] = (torch.tensor([boxes]) * scale).to(like.device)
        if prompts[0].points is not None:
            points = torch.tensor([[each.points for each in prompts]])
            asked["input_points"] = (points * torch.tensor([width, height])).to(like.device)
            labels = [[each.labels for each in prompts]]
            asked["input_labels"] = torch.tensor(labels, device=like.device)
        return asked


def _groups(prompts: Sequence[Prompt]) -> Iterator[list[int]]:
    """Yield the indices of prompts that can share a pass: boxes together, points one by one."""
    boxes = [index for index, each in enumerate(prompts) if each.points is None]
    for start in range(0, len(boxes), BOXES_PER_PASS):
        yield boxes[start : start + BOXES_PER_PASS]
    for index, each in enumerate(prompts):
        if each.points is not None:
            yield [index]


def finite(tensor: torch.Tensor) -> torch.Tensor:
    """Return a network's output as float32.

    Raises ``MataError`` for NaN and infinity, the results of an overflow in 16 bits: thresholds
    would silently drop them.
    """
    if not bool(tensor.isfinite().all()):
        text = f"the network computed NaN or infinite values in {tensor.dtype}"
        hint = "" if tensor.dtype == torch.float32 else "; dtype float32 avoids overflows"
        raise MataError(text + hint)
    return tensor.float()
