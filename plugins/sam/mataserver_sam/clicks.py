"""One mask per point or box prompt, from the prompt decoder that SAM 1, 2 and 3 share.

SAM (Kirillov et al. 2023, arXiv:2304.02643): the decoder proposes three masks for a prompt and
rates each; the best rated one is the answer, its rating the score, unless all are asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from mataserver import MataError
from mataserver_sam.boxes import corners
from mataserver_sam.masks import stretched

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from mataserver_sam.masks import Floats, Mask, Relative
    from mataserver_sam.preprocess import Preparation, Size
    from mataserver_sam.prompts import Prompt

VISUAL = "visual"
"""The label of what was found without a word."""

BOXES_AT_ONCE = 16
"""How many boxes share a pass of the decoder: a crowd must not cost more memory than a family."""


class Found(NamedTuple):
    """One object, with its mask as the network made it: there may be hundreds of a large image.

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
        """Return the mask in the image's size. It is computed anew with every call."""
        return stretched(self.values, self.size, self.threshold)


class Clicker:
    """A network that takes points and boxes.

    ``network`` is a ``SamModel``, ``Sam2Model`` or ``Sam3TrackerModel``; ``prepare`` is how its
    images are prepared, which tells where in them a prompt lies.
    """

    def __init__(self, network: Any, prepare: Preparation) -> None:
        self._network = network
        self._prepare = prepare

    def click(self, embeddings: Any, prompts: Sequence[Prompt], size: Size) -> list[Found]:
        """Return the object of each prompt, in their order.

        ``embeddings`` are those that the network's ``get_image_embeddings`` gives for an image of
        ``size`` (height, width). Prompts are point prompts, and box prompts whose box is wanted.
        """
        return [best for (best,) in self.proposed(embeddings, prompts, size)]

    def proposed(
        self, embeddings: Any, prompts: Sequence[Prompt], size: Size, *, every: bool = False
    ) -> list[list[Found]]:
        """Return what ``click`` does, each in a list; with ``every`` all proposals, best first."""
        found: dict[int, list[Found]] = {}
        for indices in _groups(prompts):
            asked = self._asked([prompts[index] for index in indices], size, embeddings)
            output = self._network(image_embeddings=embeddings, multimask_output=True, **asked)
            ratings = finite(output.iou_scores)[0]
            order = ratings.argsort(stable=True, dim=-1, descending=True)
            order = order if every else order[:, :1]
            rows = torch.arange(len(indices), device=order.device)
            for index in indices:
                found[index] = []
            for best in order.T:
                logits = self._prepare.cut(finite(output.pred_masks)[0, rows, best], size)
                scores = ratings[rows, best].clamp(0.0, 1.0).tolist()
                for index, values, score in zip(indices, logits.cpu().numpy(), scores, strict=True):
                    box = stretched(values, size).box()
                    found[index].append(Found(values, 0.0, size, box, score))
        return [found[index] for index in range(len(prompts))]

    def _asked(
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
    """Yield the indices of prompts that can share a pass: boxes alone; others go one by one."""
    boxes = [index for index, each in enumerate(prompts) if each.points is None]
    for start in range(0, len(boxes), BOXES_AT_ONCE):
        yield boxes[start : start + BOXES_AT_ONCE]
    for index, each in enumerate(prompts):
        if each.points is not None:
            yield [index]


def finite(tensor: torch.Tensor) -> torch.Tensor:
    """Return what a network computed as float32.

    Raises ``MataError`` for NaN and infinity, which overflows in 16 bits end in: thresholds would
    silently drop them.
    """
    if not bool(tensor.isfinite().all()):
        told = f"the network computed NaN or infinite values in {tensor.dtype}"
        helps = "" if tensor.dtype == torch.float32 else "; dtype float32 avoids overflows"
        raise MataError(told + helps)
    return tensor.float()
