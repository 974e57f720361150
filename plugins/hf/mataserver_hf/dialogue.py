"""Turns an image and a prompt into the tensors that a vision-language model reads.

The processors are put together here from their parts, because their own ``from_pretrained`` of some
families insists on a video processor, which needs torchvision, though they are shown stills only.

Only ``load`` functions import this module: it imports torch and transformers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import transformers
from jinja2 import TemplateError
from PIL import Image

from mataserver import BadRequest, InvalidParams, MataError
from mataserver_hf.dialects import View

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    from numpy.typing import NDArray

    from mataserver import LoadContext, ModelSpec
    from mataserver_hf.checkpoint import Checkpoint

    Tensors = dict[str, torch.Tensor]

_UNREADABLE = (OSError, ValueError, KeyError, TypeError)


def _for_stills(processor_class: Any) -> Any:
    """Return the processor class without the part for videos: its constructor names the parts."""

    class Stills(processor_class):  # type: ignore[misc]
        def __init__(self, image_processor: Any, tokenizer: Any, chat_template: Any = None) -> None:
            super().__init__(image_processor, tokenizer, None, chat_template=chat_template)

    return Stills


def _chat(processor: Any, system: str, prompt: str) -> str:
    """Return the conversation in the words of the checkpoint's own chat template."""
    asked = [{"type": "image"}, {"type": "text", "text": prompt}]
    messages: list[dict[str, Any]] = [{"role": "user", "content": asked}]
    if system:
        content = [{"type": "text", "text": system}]
        messages.insert(0, {"role": "system", "content": content})
    try:
        text: str = processor.apply_chat_template(messages, add_generation_prompt=True)
    except TemplateError as error:
        if system:
            raise _no_system_prompt() from error
        raise MataError("the chat template of this checkpoint takes no question") from error
    if system and system.strip() not in text:
        raise _no_system_prompt()
    if text.count(processor.image_token) != 1:
        raise MataError("the chat template of this checkpoint has no place for an image")
    return text


def _prefixed(processor: Any, system: str, prompt: str) -> str:
    if system:
        raise _no_system_prompt()
    return f"{processor.image_token}{prompt}"


def _task(processor: Any, system: str, prompt: str) -> str:
    """Return a prompt of Florence-2, whose words for tasks without input stand alone."""
    if system:
        raise _no_system_prompt()
    for task in processor.task_prompts_without_inputs:
        if task in prompt and task != prompt:
            raise InvalidParams(f"params.prompt: {task} takes nothing beside it")
    return prompt


def _no_system_prompt() -> InvalidParams:
    return InvalidParams("params.system_prompt: this model takes no system prompt")


@dataclass(frozen=True, slots=True)
class _Family:
    """A processor class, and how it is spoken to."""

    processor: Any
    words: Callable[[Any, str, str], str] = _chat


_FAMILIES = {
    "florence2": _Family(transformers.Florence2Processor, _task),
    "idefics3": _Family(transformers.Idefics3Processor),
    "llava": _Family(transformers.LlavaProcessor),
    "llava_next": _Family(transformers.LlavaNextProcessor),
    "paligemma": _Family(transformers.PaliGemmaProcessor, _prefixed),
    "qwen2_5_vl": _Family(_for_stills(transformers.Qwen2_5_VLProcessor)),
    "qwen2_vl": _Family(_for_stills(transformers.Qwen2VLProcessor)),
    "qwen3_vl": _Family(_for_stills(transformers.Qwen3VLProcessor)),
    # For stills SmolVLM's own does the same, but wants a package that spells numbers in videos.
    "smolvlm": _Family(transformers.Idefics3Processor),
}


class Dialogue:
    """The processor of one checkpoint."""

    def __init__(self, processor: Any, model_type: str) -> None:
        """Keep ``processor``, made for that family."""
        self._processor = processor
        self._model_type = model_type
        self._words = _FAMILIES[model_type].words
        marks = (getattr(processor, name, None) for name in ("image_token", "video_token"))
        self._marks = tuple(mark for mark in marks if mark)

    @property
    def tokenizer(self) -> Any:
        """The tokenizer, with the tokens that the processor added."""
        return self._processor.tokenizer

    def tensors(self, image: NDArray[np.uint8], system: str, prompt: str) -> Tensors:
        """Return what the model reads, as a batch of one.

        Raises ``InvalidParams`` for a prompt that stands for an image itself and for a system
        prompt where the model has no place for one, and ``BadRequest`` for an image that is too
        small or too narrow for the processor.
        """
        for name, given in (("prompt", prompt), ("system_prompt", system)):
            if mark := next((mark for mark in self._marks if mark in given), ""):
                raise InvalidParams(f"params.{name}: must not contain {mark}")
        text = self._words(self._processor, system, prompt)
        # A template that writes the first token itself must not get a second one.
        first = self.tokenizer.bos_token
        options = {"add_special_tokens": False} if first and text.startswith(first) else {}
        try:
            read = self._processor(
                text=[text], images=[Image.fromarray(image)], return_tensors="np", **options
            )
        except (ValueError, RuntimeError) as error:
            height, width = image.shape[:2]
            raise BadRequest(
                f"an image of {width}x{height} pixels is too small or too narrow for this model"
            ) from error
        # PaliGemma's brings labels for training.
        return {name: torch.from_numpy(each) for name, each in read.items() if name != "labels"}

    def view(self, image: NDArray[np.uint8], tensors: Tensors) -> View:
        """Return what the model sees of ``image``, which became ``tensors``."""
        height, width = image.shape[:2]
        size = (width, height)
        pixels = self._processor.image_processor
        if self._model_type == "llava":
            return View(size, _cropped(pixels, width, height), size)
        if "image_grid_thw" in tensors:
            _, rows, columns = tensors["image_grid_thw"][0].tolist()
            size = (columns * pixels.patch_size, rows * pixels.patch_size)
        return View((width, height), (0, 0, width, height), size)


def _cropped(pixels: Any, width: int, height: int) -> tuple[float, float, float, float]:
    """Return the region of an image that LLaVA's processor keeps; it may reach outside."""
    wide, high = float(width), float(height)
    if getattr(pixels, "do_pad", None):
        wide = high = max(wide, high)
    size, crop = pixels.size, pixels.crop_size
    if pixels.do_center_crop and size.shortest_edge:
        scale = min(wide, high) / size.shortest_edge
        wide, high = crop.width * scale, crop.height * scale
    return (width - wide) / 2, (height - high) / 2, wide, high


def open_dialogue(
    checkpoint: Checkpoint, spec: ModelSpec, ctx: LoadContext, model_type: str
) -> Dialogue:
    """Open the processor of a checkpoint.

    Raises ``MataError`` for one that cannot be read or, where it is needed, lacks a chat template.
    """
    parts = [checkpoint.pixels().processor, checkpoint.tokenizer()]
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
    if family.words is _chat and not processor.chat_template:
        raise MataError(f"{spec.name} has no chat template, so it cannot be asked")
    return Dialogue(processor, model_type)
