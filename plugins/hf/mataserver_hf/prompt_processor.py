"""Turns images and a prompt into the input tensors of a vision-language model.

The processors are assembled from their parts here: the ``from_pretrained`` of some families
requires a video processor, which needs torchvision, even for still images.

Only ``load`` functions import this module: it imports torch and transformers.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import transformers
from PIL import Image

from mataserver import InvalidParams, MataError
from mataserver_hf.conversation_images import named
from mataserver_hf.dialects import View
from mataserver_hf.preprocessor import prepared
from mataserver_hf.prompt_formats import chat_prompt, check_template, prefixed_prompt, task_prompt

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from mataserver import LoadContext, ModelSpec
    from mataserver_hf.checkpoint import Checkpoint
    from mataserver_hf.preprocessor import Preprocessor
    from mataserver_hf.vlm_params import VlmParams

    Tensors = dict[str, torch.Tensor]

_UNREADABLE = (OSError, ValueError, KeyError, TypeError)


def _without_video(processor_class: Any) -> Any:
    """Return the processor class without its video part: its constructor names the parts."""

    class StillsOnly(processor_class):  # type: ignore[misc]
        def __init__(self, image_processor: Any, tokenizer: Any, chat_template: Any = None) -> None:
            super().__init__(image_processor, tokenizer, None, chat_template=chat_template)

    return StillsOnly


@dataclass(frozen=True, slots=True)
class _Family:
    """A processor class, and the function that formats its prompts."""

    processor: Any
    format_prompt: Callable[[Any, VlmParams, str], str] = chat_prompt


_FAMILIES = {
    "florence2": _Family(transformers.Florence2Processor, task_prompt),
    "idefics3": _Family(transformers.Idefics3Processor),
    "llava": _Family(transformers.LlavaProcessor),
    "llava_next": _Family(transformers.LlavaNextProcessor),
    "paligemma": _Family(transformers.PaliGemmaProcessor, prefixed_prompt),
    "qwen2_5_vl": _Family(_without_video(transformers.Qwen2_5_VLProcessor)),
    "qwen2_vl": _Family(_without_video(transformers.Qwen2VLProcessor)),
    "qwen3_vl": _Family(_without_video(transformers.Qwen3VLProcessor)),
    # SmolVLM's own does the same for stills, but needs a package that spells numbers in videos.
    "smolvlm": _Family(transformers.Idefics3Processor),
}


_LLAVAS = frozenset({"llava", "llava_next"})
"""Families whose processor, and not the part of it that reads images, states the pieces."""


class PromptProcessor:
    """The processor of one checkpoint."""

    def __init__(self, processor: Any, preprocessor: Preprocessor, model_type: str) -> None:
        """Keep ``processor``, made for that family, and the part of it that reads images."""
        self._preprocessor = preprocessor
        self._processor = processor
        self._model_type = model_type
        self._format_prompt = _FAMILIES[model_type].format_prompt
        marks = (getattr(processor, name, None) for name in ("image_token", "video_token"))
        self._placeholders = tuple(mark for mark in marks if mark)

    @property
    def tokenizer(self) -> Any:
        """The tokenizer, with the tokens that the processor added."""
        return self._processor.tokenizer

    def may_not_fit(self, config: Any) -> bool:
        """Whether ``config`` leaves a doubt that its network takes what this makes of an image.

        The text has a placeholder for each piece of an image, so that both have to agree on the
        size of the pieces, too.
        """
        vision, pixels = config.vision_config, self._processor.image_processor
        pairs = [(pixels, vision, "patch_size", "patch_size")]
        pairs.append((pixels, vision, "merge_size", "spatial_merge_size"))
        if self._model_type in _LLAVAS:
            strategy = "vision_feature_select_strategy"
            pairs = [(self._processor, vision, "patch_size", "patch_size")]
            pairs.append((self._processor, config, strategy, strategy))
        for part, network, name, same in pairs:
            if hasattr(part, name) and getattr(part, name) != getattr(network, same, None):
                return True
        # Of Qwen's images the tensors are pieces in rows: they have no size to compare.
        return not hasattr(pixels, "merge_size") and self._preprocessor.may_not_fit(config)

    def tensors(
        self, images: Sequence[NDArray[np.uint8]], params: VlmParams, prompt: str
    ) -> Tensors:
        """Return the model's inputs, as a batch of one; ``prompt`` stands for that of ``params``.

        ``images`` are those of ``params.pictures()``. Raises ``InvalidParams`` for a text that
        contains a placeholder for an image and for a system prompt, a history or further images
        where the model takes none, and ``BadRequest`` for an image that is too small or too narrow
        for the processor.
        """
        for name, value in _texts(params):
            if mark := next((mark for mark in self._placeholders if mark in value), ""):
                raise InvalidParams(f"params.{name}: must not contain {mark}")
        text = self._format_prompt(self._processor, params, prompt)
        # If the template writes the first token, the tokenizer must not add a second one.
        first = self.tokenizer.bos_token
        options = {"add_special_tokens": False} if first and text.startswith(first) else {}
        # A tokenizer's files may cut what is long in silence, or fill up what is short.
        options |= {"truncation": False, "padding": False}

        with self._naming_fault([where for where, _ in params.pictures()], images):
            pictures = [Image.fromarray(each) for each in images]
            read = self._processor(text=[text], images=pictures, return_tensors="np", **options)
        # PaliGemma's processor returns labels for training too.
        return {name: torch.from_numpy(each) for name, each in read.items() if name != "labels"}

    @contextmanager
    def _naming_fault(
        self, fields: Sequence[str], images: Sequence[NDArray[np.uint8]]
    ) -> Iterator[None]:
        """Have an error in preparing the images name the field of the one that is at fault."""
        if self._model_type == "llava":  # the others have the longer side in view
            for field, image in zip(fields, images, strict=True):
                with named(field):
                    self._preprocessor.check_enlarged(image)
        try:
            yield
        except (ValueError, RuntimeError):
            for field, image in zip(fields, images, strict=True):
                with named(field):
                    prepared(image, self._pixels)
            raise

    def _pixels(self, image: NDArray[np.uint8]) -> Any:
        """Prepare an image alone: with its text it would need as many as the text has."""
        return self._processor.image_processor(images=[Image.fromarray(image)], return_tensors="np")

    def view(self, image: NDArray[np.uint8], tensors: Tensors) -> View:
        """Return the part of ``image`` that the model sees; ``tensors`` were made from it."""
        height, width = image.shape[:2]
        size = (width, height)
        pixels = self._processor.image_processor
        if self._model_type == "llava":
            return View(size, _cropped(pixels, width, height), size)
        if "image_grid_thw" in tensors:
            _, rows, columns = tensors["image_grid_thw"][0].tolist()
            size = (columns * pixels.patch_size, rows * pixels.patch_size)
        return View((width, height), (0, 0, width, height), size)


def _texts(params: VlmParams) -> Iterator[tuple[str, str]]:
    """Yield all that was said, with the names of the parameters that say it."""
    yield "prompt", params.prompt
    yield "system_prompt", params.system_prompt
    for index, turn in enumerate(params.history):
        yield f"history[{index}].prompt", turn.prompt
        yield f"history[{index}].answer", turn.answer


def _cropped(pixels: Any, width: int, height: int) -> tuple[float, float, float, float]:
    """Return the region of an image that LLaVA's processor keeps; it may reach outside."""
    wide, high = float(width), float(height)
    if getattr(pixels, "do_pad", None):
        wide = high = max(wide, high)
    if pixels.do_center_crop:
        columns, rows = _resized(pixels, wide, high)
        wide *= pixels.crop_size.width / columns
        high *= pixels.crop_size.height / rows
    return (width - wide) / 2, (height - high) / 2, wide, high


def _resized(pixels: Any, wide: float, high: float) -> tuple[float, float]:
    """Return the width and height that an image of those has before it is cropped."""
    size = pixels.size
    if not pixels.do_resize:
        return wide, high
    if size.shortest_edge:
        scale = size.shortest_edge / min(wide, high)
        if size.longest_edge:
            scale = min(scale, size.longest_edge / max(wide, high))
    elif size.max_height and size.max_width:
        scale = min(size.max_height / high, size.max_width / wide)
    else:
        return float(size.width), float(size.height)
    return wide * scale, high * scale


_LEAST = {
    "image_seq_len": 1,
    "merge_size": 1,
    "num_additional_image_tokens": 0,
    "patch_size": 1,
    "temporal_patch_size": 1,
}
_MOST = 8192


def _check_counts(processor: Any) -> None:
    """Raise ``MataError`` where an image would be filled up to any number of pieces."""
    for part in (processor, processor.image_processor):
        for name, least in _LEAST.items():
            count = getattr(part, name, None)
            if count is not None and not (isinstance(count, int) and least <= count <= _MOST):
                raise MataError(
                    f"the model's processor states the {name} {count!r:.40}; it must be a whole "
                    f"number from {least} to {_MOST}"
                )


def open_prompt_processor(
    checkpoint: Checkpoint, spec: ModelSpec, ctx: LoadContext, model_type: str
) -> PromptProcessor:
    """Open the processor of a checkpoint.

    Raises ``MataError`` for one that cannot be read, for sizes and counts of pieces that no model
    has and, where it is needed, for want of a chat template that takes a question, or of the size
    of LLaVA's pieces.
    """
    preprocessor = checkpoint.preprocessor()
    parts = [preprocessor.processor, checkpoint.tokenizer()]
    family = _FAMILIES[model_type]
    try:
        found, _ = family.processor.get_processor_dict(str(spec.path), local_files_only=True)
        found["chat_template"] = found.get("chat_template") or parts[1].chat_template
        processor = family.processor.from_args_and_dict(parts, found)
    except _UNREADABLE as error:
        ctx.log.warning("%s: cannot read the processor configuration: %s", spec.name, error)
        raise MataError(
            f"the processor configuration of {spec.name} cannot be read; the server's log says why"
        ) from error
    if model_type in _LLAVAS and not processor.patch_size:  # as older files of both do
        raise MataError(
            f"the processor of {spec.name} states no patch_size, so how many tokens an image needs "
            "is unknown: state that of its network in processor_config.json"
        )
    _check_counts(processor)
    if family.format_prompt is chat_prompt:
        if not processor.chat_template:
            raise MataError(f"{spec.name} has no chat template, so it cannot be prompted")
        check_template(processor)
    return PromptProcessor(processor, preprocessor, model_type)
