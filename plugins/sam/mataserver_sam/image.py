"""SAM3 on images: objects by text, by example boxes, and by points.

The expensive part, the vision encoder, runs once per image; its output serves every prompt.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.models.sam3.modeling_sam3 import Sam3VisionEncoderOutput

from mataserver_sam.boxes import centred
from mataserver_sam.byte_cache import ByteCache, tensor_bytes
from mataserver_sam.prompt_decoder import VISUAL, FoundObject, PromptDecoder, finite

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from mataserver_sam.preprocess import Size
    from mataserver_sam.prompts import Prompt, RelativeBox
    from mataserver_sam.weights import Weights

    Tensors = tuple[torch.Tensor, ...]

TEXTS_PER_PASS = 4
"""How many texts share a pass of the detector: each has 200 masks of 288 by 288 logits."""

_MASK_THRESHOLD = 0.5  # the least probability of an object's pixel


@dataclass(frozen=True, slots=True)
class Query:
    """One query to the detector: a text, and example boxes, positive or negative."""

    text: str
    boxes: tuple[RelativeBox, ...] = ()
    labels: tuple[bool, ...] = ()


@dataclass(frozen=True, slots=True)
class ImageFeatures:
    """The vision encoder's output for one image; ``pyramid`` has three levels."""

    pyramid: Tensors
    hidden: torch.Tensor

    @property
    def size_bytes(self) -> int:
        """Bytes of the tensors."""
        return tensor_bytes([*self.pyramid, self.hidden])


class Sam3ImageSegmenter:
    """The image part of SAM3."""

    capabilities = (
        "text_prompt",
        "box_prompt",
        "point_prompt",
        "batch_processing",
        "feature_caching",
    )

    def __init__(self, weights: Weights, text_cache_bytes: float) -> None:
        self._weights = weights
        self._texts: ByteCache[Tensors] = ByteCache(text_cache_bytes, tensor_bytes)
        self._decoder = PromptDecoder(weights.tracker_image, weights.prepare)
        self._positions: Tensors = ()

    def check(self, prompts: Sequence[Prompt]) -> None:
        """Raise ``InvalidParams`` for prompts that this model does not support."""
        texts = [query.text for query in queries(prompts)]
        if texts:
            self._weights.tokens(texts)

    def encode_image(self, image: NDArray[np.uint8]) -> ImageFeatures:
        """Run the vision encoder on an RGB image ``[H, W, 3]``."""
        seen = self._weights.detector.get_vision_features(pixel_values=self._weights.pixels(image))
        if not self._positions:  # the same for every image
            self._positions = tuple(seen.fpn_position_encoding[:-1])
        return ImageFeatures(tuple(seen.fpn_hidden_states[:-1]), seen.last_hidden_state)

    def find_objects(
        self,
        sight: ImageFeatures,
        prompts: Sequence[Prompt],
        size: Size,
        threshold: float,
        *,
        all_masks: bool = False,
    ) -> Iterator[list[FoundObject]]:
        """Yield the objects of each query (text, boxes), then of each point prompt, best first.

        A point prompt finds one object; with ``all_masks``, each of its proposals. Objects with a
        score below ``threshold`` are left out.
        """
        yield from self._run_queries(sight, queries(prompts), size, threshold)
        points = [each for each in prompts if each.type == "point"]
        if not points:
            return
        for group in self._decoder.propose_masks(
            self._embeddings(sight), points, size, all_masks=all_masks
        ):
            yield [each for each in group if each.score >= threshold]

    def outline_prompts(
        self, sight: ImageFeatures, prompts: Sequence[Prompt], size: Size
    ) -> list[FoundObject]:
        """Return one object for each point or box prompt, whatever its score."""
        return self._decoder.outline_prompts(self._embeddings(sight), prompts, size)

    def _run_queries(
        self, sight: ImageFeatures, asked: Sequence[Query], size: Size, threshold: float
    ) -> Iterator[list[FoundObject]]:
        """Yield the objects of each query with a score of at least ``threshold``, best first."""
        for batch in _batches(asked):
            output = self._detect(sight, batch)
            for row, query in enumerate(batch):
                yield _read(output, row, query.text, size, threshold)

    def _detect(self, sight: ImageFeatures, asked: Sequence[Query]) -> Any:
        """Run the detector on several texts, or on one query with boxes."""
        texts, mask = self._text_features([query.text for query in asked])
        given: dict[str, Any] = {}
        if asked[0].boxes:
            device, dtype = self._weights.device, self._weights.dtype
            given["input_boxes"] = torch.tensor([asked[0].boxes], device=device, dtype=dtype)
            given["input_boxes_labels"] = torch.tensor([asked[0].labels], device=device).long()
        return self._weights.detector(
            vision_embeds=self._vision(sight, len(asked)),
            text_embeds=BaseModelOutputWithPooling(pooler_output=texts),
            attention_mask=mask,
            **given,
        )

    def _vision(self, sight: ImageFeatures, count: int) -> Any:
        """Return an image's features in the detector's form, once for each of ``count`` texts.

        Nothing is copied. The detector ignores the last level, whatever it is.
        """

        def repeated(tensors: Tensors) -> tuple[torch.Tensor, ...]:
            return tuple(each.expand(count, -1, -1, -1) for each in (*tensors, tensors[-1]))

        return Sam3VisionEncoderOutput(
            last_hidden_state=sight.hidden,
            fpn_hidden_states=repeated(sight.pyramid),
            fpn_position_encoding=repeated(self._positions),
        )

    def _text_features(self, texts: Sequence[str]) -> Tensors:
        """Return cached features ``[N, 32, D]`` and mask ``[N, 32]`` of texts."""
        every = [self._texts.get(text) or self._encode(text) for text in texts]
        features, masks = zip(*every, strict=True)
        return torch.cat(features), torch.cat(masks)

    def _encode(self, text: str) -> Tensors:
        tokens = self._weights.tokens([text.strip()])
        output = self._weights.detector.get_text_features(**tokens, return_dict=True)
        encoded = (output.pooler_output, tokens["attention_mask"])
        self._texts.put(text, encoded)
        return encoded

    def _embeddings(self, sight: ImageFeatures) -> list[torch.Tensor]:
        """Return the tracker's input of an image: its neck runs on the same encoder's output."""
        video, tracker = self._weights.video, self._weights.tracker_video
        seen = BaseModelOutputWithPooling(last_hidden_state=sight.hidden)
        levels, _ = video.get_vision_features_for_tracker(vision_embeds=seen)
        levels[-1] = levels[-1] + tracker.no_memory_embedding
        return [
            level.permute(1, 2, 0).view(1, -1, *shape)
            for level, shape in zip(levels, tracker.backbone_feature_sizes, strict=True)
        ]


def queries(prompts: Sequence[Prompt]) -> list[Query]:
    """Combine text and box prompts to queries.

    Each text is one. A box is an example of the text before it (or of the first text, if none is
    before); boxes without any text find all similar objects. Where all are negative, the network
    decides what else it sees, as the document of the API excludes no label.
    """
    texts = [index for index, each in enumerate(prompts) if each.type == "text"]
    owned: dict[int, list[Prompt]] = {index: [] for index in texts or [-1]}
    for index, each in enumerate(prompts):
        if each.type == "box":
            before = [text for text in texts if text < index]
            owned[before[-1] if before else min(owned)].append(each)
    return [
        Query(
            prompts[index].text or "" if index >= 0 else VISUAL,
            tuple(each.box for each in boxes if each.box is not None),
            tuple(each.wanted for each in boxes),
        )
        for index, boxes in owned.items()
        if index >= 0 or boxes
    ]


def _batches(asked: Sequence[Query]) -> Iterator[Sequence[Query]]:
    """Yield queries that share a pass, in order: texts without boxes, or one query with boxes."""
    start = 0
    while start < len(asked):
        end = start + 1
        while end < min(start + TEXTS_PER_PASS, len(asked)) and not (
            asked[start].boxes or asked[end].boxes
        ):
            end += 1
        yield asked[start:end]
        start = end


def _read(output: Any, row: int, label: str, size: Size, threshold: float) -> list[FoundObject]:
    """Return the objects of one row of the detector's output, best first.

    A score is the probability of the object times the probability of any object.
    """
    presence = finite(output.presence_logits[row]).sigmoid()
    scores = finite(output.pred_logits[row]).sigmoid() * presence
    order = scores.argsort(descending=True)
    kept = order[scores[order] >= threshold]
    masks = finite(output.pred_masks[row, kept]).sigmoid().cpu().numpy()
    boxes = finite(output.pred_boxes[row, kept]).clamp(0.0, 1.0).tolist()
    return [
        FoundObject(values, _MASK_THRESHOLD, size, centred(box), score, label)
        for values, box, score in zip(masks, boxes, scores[kept].tolist(), strict=True)
    ]
