"""Detection of the objects that a request names.

OWL-ViT (arXiv:2205.06230) and OWLv2 (arXiv:2306.09683) score every box against every prompt.
Grounding DINO (arXiv:2303.05499) and MM Grounding DINO (arXiv:2401.02361) read all prompts as one
text and score every box against each of its tokens.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

from mataserver import Confidence, InvalidParams, Params, Text
from mataserver_hf import installation
from mataserver_hf.boxes import corners, result
from mataserver_hf.grounding_text import NO_PROMPT, caption, prompt_at
from mataserver_hf.prompts import require_prompts, tokenize

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import numpy as np
    import torch
    from numpy.typing import NDArray

    from mataserver import DetectResult, LoadContext, ModelSpec
    from mataserver_hf.checkpoint import Checkpoint
    from mataserver_hf.network import Network
    from mataserver_hf.preprocessor import Preprocessor
    from mataserver_hf.prompts import Prompts

    Group = tuple[Prompts, list[int], dict[str, torch.Tensor]]

OWL_FAMILIES = frozenset({"owlv2", "owlvit"})
"""The values of ``model_type`` that ``OWL`` serves."""

GROUNDING_FAMILIES = frozenset({"grounding-dino", "mm-grounding-dino"})
"""The values of ``model_type`` that ``GROUNDING`` serves."""

CACHED_PROMPTS = 32
"""How many sets of prompts keep their tokens: a stream sends the same ones every frame."""
_TEXT_CONFIDENCE = 0.25


class OwlParams(Params, frozen=True):
    """What to look for.

    prompts:    the objects; each is the label of what it finds. Needed. The text encoder reads them
                as they are: the models were trained with texts such as "a photo of a cat".
    confidence: the lowest score of a detection that is returned. Scores are sigmoids and low; the
                default is the one of the models' cards.
    """

    prompts: tuple[Text, ...] = ()
    confidence: Confidence = 0.1

    def check(self) -> None:
        """Raise ``InvalidParams`` without a prompt."""
        require_prompts(self.prompts)


class GroundingParams(Params, frozen=True):
    """What to look for.

    prompts:         the objects; each is the label of what it finds. Needed. Read in lower case.
    confidence:      the lowest score of a detection that is returned: the highest probability of a
                     token. Model cards use 0.25 to 0.4.
    text_confidence: the lowest probability of a prompt's token that names a box; 0.25 where it is
                     not given, and ``confidence`` where that is lower. A box is called after the
                     prompt with the likeliest token; where that is less likely than this, it is
                     left out.
    """

    prompts: tuple[Text, ...] = ()
    confidence: Confidence = 0.3
    text_confidence: Confidence | None = None

    def check(self) -> None:
        """Raise ``InvalidParams`` without a prompt."""
        require_prompts(self.prompts)

    @property
    def least_text_confidence(self) -> float:
        """The probability from which a token names a box; by default never above ``confidence``."""
        given = self.text_confidence
        return min(_TEXT_CONFIDENCE, self.confidence) if given is None else given


class OwlDetector:
    """OWL-ViT or OWLv2."""

    def __init__(self, network: Network, preprocessor: Preprocessor, tokenizer: Any) -> None:
        """Keep the loaded parts."""
        self._network = network
        self._preprocessor = preprocessor
        longest = network.config.text_config.max_position_embeddings
        self._tokens = lru_cache(CACHED_PROMPTS)(lambda texts: tokenize(tokenizer, texts, longest))

    def predict(
        self, images: Sequence[NDArray[np.uint8]], params: Sequence[OwlParams]
    ) -> list[DetectResult]:
        """Return the detections of each image, best first.

        Raises ``InvalidParams`` for missing or too long prompts.
        """
        found: dict[int, DetectResult] = {}
        for prompts, indices, tensors in _groups(self._preprocessor, images, params):
            # The network takes the texts once per image.
            texts = {
                name: each.repeat(len(indices), 1) for name, each in self._tokens(prompts).items()
            }
            output = self._network.run({**tensors, **texts})
            scores, best = self._network.finite(output.logits).sigmoid().max(-1)
            boxes = self._network.finite(output.pred_boxes)
            for row, index in enumerate(indices):
                size, kept = images[index].shape[:2], scores[row] >= params[index].confidence
                found[index] = result(
                    [prompts[label] for label in best[row][kept].tolist()],
                    scores[row][kept],
                    corners(boxes[row][kept], self._preprocessor.frame(size)),
                    size,
                )
        return [found[index] for index in range(len(images))]

    def close(self) -> None:
        """Free the weights."""
        self._network.close()


class GroundingDetector:
    """Grounding DINO."""

    def __init__(self, network: Network, preprocessor: Preprocessor, tokenizer: Any) -> None:
        """Keep the loaded parts."""
        self._network = network
        self._preprocessor = preprocessor
        self._tokenizer = tokenizer
        config = network.config
        self._longest: int = min(config.max_text_len, config.text_config.max_position_embeddings)
        self._tokens = lru_cache(CACHED_PROMPTS)(self._encode)

    def predict(
        self, images: Sequence[NDArray[np.uint8]], params: Sequence[GroundingParams]
    ) -> list[DetectResult]:
        """Return the detections of each image, best first.

        Raises ``InvalidParams`` for prompts that are missing, unreadable or too long together.
        """
        found: dict[int, DetectResult] = {}
        for prompts, indices, tensors in _groups(self._preprocessor, images, params):
            text, owners = self._tokens(prompts)
            texts = {name: each.expand(len(indices), -1) for name, each in text.items()}
            output = self._network.run({**tensors, **texts})
            # The logits after the text's own tokens are padded with minus infinity.
            logits = self._network.finite(output.logits[..., : len(owners)])
            boxes = self._network.finite(output.pred_boxes)
            for row, index in enumerate(indices):
                size = images[index].shape[:2]
                framed = corners(boxes[row], self._preprocessor.frame(size))
                found[index] = _label_boxes(
                    prompts, owners, logits[row].sigmoid(), framed, size, params[index]
                )
        return [found[index] for index in range(len(images))]

    def close(self) -> None:
        """Free the weights."""
        self._network.close()

    def _encode(self, prompts: Prompts) -> tuple[dict[str, torch.Tensor], list[int]]:
        """Return the tokens ``[1, T]`` of all prompts and, by token, which prompt it belongs to."""
        text, spans = caption(prompts)
        encoded = self._tokenizer(
            text, return_offsets_mapping=True, return_token_type_ids=True, return_tensors="pt"
        )
        [offsets] = encoded.pop("offset_mapping").tolist()
        if len(offsets) > self._longest:
            raise InvalidParams(
                f"params.prompts: together they are longer than the {self._longest} tokens that "
                "this model reads"
            )
        owners = [prompt_at(spans, start, end) for start, end in offsets]
        [ids], unknown = encoded["input_ids"].tolist(), self._tokenizer.unk_token_id
        read = {owner for owner, token in zip(owners, ids, strict=True) if token != unknown}
        if set(range(len(prompts))) - read:
            raise InvalidParams("params.prompts: a prompt holds no word that this model can read")
        return dict(encoded), owners


def _label_boxes(
    prompts: Prompts,
    owners: Sequence[int],
    probabilities: Any,
    boxes: Any,
    size: tuple[int, ...],
    params: GroundingParams,
) -> DetectResult:
    """Label each box ``[Q, 4]``, its corners in pixels, with the prompt of its likeliest word.

    ``probabilities`` are ``[Q, T]``; the score counts every token, a name only a prompt's.
    """
    words = [place for place, owner in enumerate(owners) if owner != NO_PROMPT]
    scores = probabilities.amax(-1)
    clearest, places = probabilities[:, words].max(-1)
    kept = (scores >= params.confidence) & (clearest >= params.least_text_confidence)
    labels = [prompts[owners[words[place]]] for place in places[kept].tolist()]
    return result(labels, scores[kept], boxes[kept], size)


def _groups(
    preprocessor: Preprocessor,
    images: Sequence[NDArray[np.uint8]],
    params: Sequence[OwlParams | GroundingParams],
) -> Iterator[Group]:
    """Yield the groups of images that can share a forward pass: one size and the same prompts."""
    alike: dict[Prompts, list[int]] = {}
    for index, each in enumerate(params):
        alike.setdefault(require_prompts(each.prompts), []).append(index)
    for prompts, indices in alike.items():
        for places, tensors in preprocessor.groups([images[index] for index in indices]):
            yield prompts, [indices[place] for place in places], tensors


def _open(
    spec: ModelSpec, ctx: LoadContext
) -> tuple[Checkpoint, tuple[Network, Preprocessor, Any]]:
    installation.check()
    from transformers import AutoModelForZeroShotObjectDetection

    from mataserver_hf.checkpoint import Checkpoint

    checkpoint = Checkpoint(spec, ctx)
    network = checkpoint.network(AutoModelForZeroShotObjectDetection)
    return checkpoint, (network, checkpoint.uncropped_preprocessor(), checkpoint.tokenizer())


def load_owl(spec: ModelSpec, ctx: LoadContext) -> OwlDetector:
    """Load OWL-ViT or OWLv2.

    Raises ``MataError`` for a checkpoint that is incomplete or whose parts do not fit each other,
    and ``Unavailable`` for a missing package or device.
    """
    checkpoint, parts = _open(spec, ctx)
    return checkpoint.tried(OwlDetector(*parts), OwlParams(prompts=("a",)))


def load_grounding(spec: ModelSpec, ctx: LoadContext) -> GroundingDetector:
    """Load Grounding DINO, which takes images of any size; raises what ``load_owl`` raises."""
    return GroundingDetector(*_open(spec, ctx)[1])


OWL = installation.backend(
    name="hf-owl",
    task="detect",
    load=load_owl,
    params=OwlParams,
    accepts=OWL_FAMILIES,
)

GROUNDING = installation.backend(
    name="hf-grounding-dino",
    task="detect",
    load=load_grounding,
    params=GroundingParams,
    accepts=GROUNDING_FAMILIES,
)

BACKENDS = (OWL, GROUNDING)
