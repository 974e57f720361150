"""A loaded network: tensors in, the model's own output out, on the right device."""

from __future__ import annotations

import re
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

from mataserver import BadRequest, MataError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    Forward = Callable[..., Any]

# How torch says that a convolution, a pooling, a border, a resizing or a normalisation has too few
# values to work on. Anything else, such as a lack of memory, is no fault of the image.
_TOO_SMALL = re.compile(
    r"Kernel size can't be greater than actual input size"
    r"|Output size is too small"
    r"|Padding size should be less than the corresponding input dimension"
    r"|Input and output sizes should be greater than 0"
    r"|Expected more than 1 (value per channel|spatial element) when training"
)

# How torch and transformers say that a network takes images of other sizes alone, or of sides that
# are multiples of a number.
_UNFIT = re.compile(
    r"doesn't match model"
    r"|[Tt]he size of tensor a .* must match"
    r"|Sizes of tensors must match"
    r"|is invalid for input of size"
    r"|expected input.* to have \d+ channels"
)


def end_tokens(settings: Any) -> frozenset[int]:
    """Return the tokens that end a text by a checkpoint's settings for generating texts."""
    found = settings.eos_token_id
    return frozenset(found if isinstance(found, list) else {found} - {None})


def _raise_unloaded(**_tensors: torch.Tensor) -> Any:
    raise MataError("the model was unloaded")


def not_finite_text(module: torch.nn.Module, dtype: torch.dtype) -> str:
    """Describe why a network returned NaN or infinity: damaged weights, or a 16-bit overflow.

    The text names the network: a model may use another one as a part.
    """
    named = (*module.named_parameters(), *module.named_buffers())
    damaged = [
        name
        for name, tensor in named
        if tensor.is_floating_point() and not bool(tensor.isfinite().all())
    ]
    kind = type(module).__name__
    if damaged:
        return f"{len(damaged)} weights of {kind}, first {damaged[0]}, are no numbers in {dtype}"
    text = f"{kind} computed values that are no numbers in {dtype}"
    return text if dtype == torch.float32 else f"{text}; dtype float32 avoids overflows"


@contextmanager
def _size_told(tensors: Mapping[str, torch.Tensor]) -> Iterator[None]:
    """Convert what torch raises for images of a size that a network does not take."""
    try:
        yield
    except (RuntimeError, ValueError) as error:
        pixels, told = tensors.get("pixel_values"), str(error)
        if pixels is None or pixels.dim() != 4:
            raise
        if _TOO_SMALL.search(told):
            why = "is too small or too narrow for this model"
        elif _UNFIT.search(told):
            why = "does not fit this model, whose network takes other sizes"
        else:
            raise
        height, width = pixels.shape[-2:]
        raise BadRequest(f"an image that is resized to {width}x{height} pixels {why}") from error


class Network:
    """A transformers model in evaluation mode.

    forward: what ``run`` calls with tensors, unless another method is named.
    stops:   the texts before which what it writes ends, if the checkpoint names any.
    """

    def __init__(self, module: Any, device: torch.device, stops: tuple[str, ...] = ()) -> None:
        """Keep ``module``, which lies on ``device`` already."""
        self.stops = stops
        self._module = module
        self._device = device
        self.forward: Forward = module

    @property
    def config(self) -> Any:
        """The model's configuration."""
        return self._module.config

    @property
    def labels(self) -> list[str]:
        """The names of the classes, by index.

        Classes without names are called by their numbers. transformers does so, but not for PVT.
        Raises ``MataError`` where ``config.json`` names an index beyond the network's outputs: with
        names that are numbered from 1, each class would get its neighbour's name.
        """
        config = self.config
        last = config.num_labels - 1
        names: dict[int, str] | None = config.id2label
        if names is None:
            return [f"LABEL_{number}" for number in range(last + 1)]
        if strange := sorted(number for number in names if not 0 <= number <= last):
            raise MataError(
                f"id2label in config.json names the class {strange[0]}, but the network tells the "
                f"classes 0 to {last} apart"
            )
        return [names[number] for number in range(last + 1)]

    @property
    def end_tokens(self) -> frozenset[int]:
        """The tokens with which the model ends a text; empty for a model that generates none."""
        chosen = getattr(self._module, "generation_config", None)
        return end_tokens(chosen) if chosen else frozenset()

    @property
    def beams(self) -> int:
        """How many texts its search compares at each step; 1 for a search without beams."""
        chosen = getattr(self._module, "generation_config", None)
        return getattr(chosen, "num_beams", None) or 1

    def parameter(self, name: str) -> torch.Tensor:
        """Return one learnt tensor, detached, as float32."""
        tensor: torch.Tensor = getattr(self._module, name)
        return tensor.detach().float()

    def run(self, tensors: Mapping[str, torch.Tensor], method: str = "", **options: Any) -> Any:
        """Call the model, or one of its methods, on tensors of any device without gradients.

        Floating point tensors and pixels are cast to the weights' format; ``options`` are passed on
        unchanged.
        Raises ``BadRequest`` for images of a size that the network does not take, and for those of
        which too little is left inside it.
        """
        with torch.inference_mode(), _size_told(tensors):
            placed = {name: self._to_device(tensor) for name, tensor in tensors.items()}
            call = getattr(self._module, method) if method else self.forward
            return call(**placed, **options)

    def finite(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return an output of ``run`` as float32.

        Raises ``MataError`` for NaN and infinity, the results of an overflow in 16 bits: thresholds
        would silently drop them.
        """
        if not bool(tensor.isfinite().all()):
            raise MataError(not_finite_text(self._module, self._module.dtype))
        return tensor.float()

    def close(self) -> None:
        """Release the weights' memory."""
        self._module = None
        self.forward = _raise_unloaded
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    def _to_device(self, tensor: torch.Tensor) -> torch.Tensor:
        # Pixels that a processor neither rescales nor normalises are bytes.
        is_real = tensor.is_floating_point() or tensor.dtype == torch.uint8
        return tensor.to(self._device, self._module.dtype if is_real else tensor.dtype)
