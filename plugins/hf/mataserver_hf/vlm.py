"""Vision-language models: a question about an image, answered in text.

LLaVA (arXiv:2310.03744), LLaVA-NeXT, Idefics3 and SmolVLM (arXiv:2408.12637, arXiv:2504.05299),
Qwen2-VL (arXiv:2409.12191), Qwen2.5-VL (arXiv:2502.13923), Qwen3-VL, PaliGemma (arXiv:2407.07726)
and Florence-2 (arXiv:2311.06242), about still images: one, or those of a conversation.
"""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING

from msgspec import UNSET
from msgspec.structs import replace

from mataserver import InvalidParams, VlmResult
from mataserver_hf import installation
from mataserver_hf.conversation_images import ConversationImages
from mataserver_hf.dialects import DIALECTS
from mataserver_hf.vlm_params import VlmParams

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import numpy as np
    from msgspec import UnsetType
    from numpy.typing import NDArray

    from mataserver import LoadContext, ModelFiles, ModelSpec, Usage
    from mataserver_hf.dialects import Dialect, View
    from mataserver_hf.generation import TextGenerator
    from mataserver_hf.prompt_processor import PromptProcessor, Tensors

FAMILIES = frozenset(DIALECTS)
"""The values of ``model_type`` that it serves."""


class VisionLanguageModel:
    """A network that answers a question about an image."""

    def __init__(
        self,
        generator: TextGenerator,
        prompt_processor: PromptProcessor,
        dialect: Dialect,
        images: ConversationImages,
    ) -> None:
        """Keep the loaded parts."""
        self._generator = generator
        self._images = images
        self._prompt_processor = prompt_processor
        self._dialect = dialect

    def predict(
        self, images: Sequence[NDArray[np.uint8]], params: Sequence[VlmParams]
    ) -> list[VlmResult]:
        """Answer the questions, as one batch where the prompts have the same shapes.

        Raises ``InvalidParams`` without a prompt, for one that is too long and for parts of a
        conversation that the model has no place for, and ``BadRequest`` for an image that cannot be
        read, or is too small or too narrow.
        """
        asked = [self._question(*each) for each in zip(images, params, strict=True)]
        written = self._generator.generate(
            [(tensors, each) for (tensors, _), each in zip(asked, params, strict=True)]
        )
        return [
            self._result(*answer, each, view)
            for answer, each, (_, view) in zip(written, params, asked, strict=True)
        ]

    def stream(self, image: NDArray[np.uint8], params: VlmParams) -> Iterator[str | VlmResult]:
        """Yield the answer's text in pieces, then the result; raises as ``predict``.

        An empty piece says that the network is at work. Closing the iterator gives the answer up.
        """
        tensors, view = self._question(image, params)
        pieces: list[str] = []
        usage: Usage | UnsetType = UNSET
        with closing(self._generator.stream(tensors, params)) as written:
            for piece in written:
                if isinstance(piece, str):
                    pieces.append(piece)
                    yield piece
                else:
                    usage = piece
        yield self._result("".join(pieces), usage, params, view)

    def close(self) -> None:
        """Free the weights."""
        self._generator.close()

    def _question(self, image: NDArray[np.uint8], params: VlmParams) -> tuple[Tensors, View]:
        params.check()
        images = self._images.read(image, params)
        prompt = params.prompt
        if params.output_mode is not None:
            if params.output_mode == "detect" and len(images) > 1:
                raise InvalidParams(
                    "params.output_mode: 'detect' needs a single image: boxes do not say in which "
                    "they are"
                )
            prompt = self._dialect.format_prompt(prompt, params.output_mode)
        tensors = self._prompt_processor.tensors(images, params, prompt)
        return tensors, self._prompt_processor.view(image, tensors)

    def _result(
        self, text: str, usage: Usage | UnsetType, params: VlmParams, view: View
    ) -> VlmResult:
        mode = params.output_mode
        result = VlmResult(text) if mode is None else self._dialect.parse(text, mode, view)
        return replace(result, usage=usage)


def load(spec: ModelSpec, ctx: LoadContext) -> VisionLanguageModel:
    """Load a vision-language model.

    Raises ``MataError`` for a checkpoint that is incomplete or whose parts do not fit each other,
    and ``Unavailable`` for a missing package or device.
    """
    installation.check()
    from transformers import AutoModelForImageTextToText

    from mataserver_hf.checkpoint import Checkpoint
    from mataserver_hf.generation import TextGenerator
    from mataserver_hf.prompt_processor import open_prompt_processor

    checkpoint = Checkpoint(spec, ctx)
    network = checkpoint.network(AutoModelForImageTextToText)
    family = network.config.model_type
    prompt_processor = open_prompt_processor(checkpoint, spec, ctx, family)
    # Florence-2's location tokens are special tokens.
    generator = TextGenerator(
        network,
        prompt_processor.tokenizer,
        ctx.max_batch,
        keep_special=family == "florence2",
        stops=network.stops,
    )
    model = VisionLanguageModel(
        generator, prompt_processor, DIALECTS[family], ConversationImages(ctx)
    )
    question = VlmParams(prompt="What is it?", max_tokens=1)
    return checkpoint.tried(model, question, doubtful=prompt_processor.may_not_fit(network.config))


def accepts(files: ModelFiles) -> bool:
    """Whether the checkpoint is one of ``FAMILIES``.

    Pixtral models have LLaVA's ``model_type`` too, but need other prompts.
    """
    vision = files.config.get("vision_config")
    pixtral = isinstance(vision, dict) and vision.get("model_type") == "pixtral"
    return files.model_type in FAMILIES and not pixtral


BACKEND = installation.backend(
    name="hf-vlm",
    task="vlm",
    load=load,
    params=VlmParams,
    accepts=accepts,
)
