"""A loaded network: tensors in, the model's own output out, on the right device."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from mataserver import MataError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    Forward = Callable[..., Any]


def _closed(**_tensors: torch.Tensor) -> Any:
    raise MataError("the model was unloaded")


def no_numbers(module: torch.nn.Module, dtype: torch.dtype) -> str:
    """Say that a network gave NaN or infinity: damaged weights, or what helps where 16 bits ended.

    The network is named: a model may stand on another, which is its part.
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
    told = f"{kind} computed values that are no numbers in {dtype}"
    return told if dtype == torch.float32 else f"{told}; dtype float32 avoids overflows"


class Network:
    """A transformers model in evaluation mode.

    forward: what ``run`` calls with tensors, unless it is told another method.
    """

    def __init__(self, module: Any, device: torch.device) -> None:
        """Keep ``module``, which lies on ``device`` already."""
        self._module = module
        self._device = device
        self.forward: Forward = module

    @property
    def config(self) -> Any:
        """The model's configuration."""
        return self._module.config

    @property
    def labels(self) -> list[str]:
        """The names of the classes, by their numbers.

        Raises ``MataError`` where ``config.json`` names numbers that the network does not give: one
        whose names begin with 1 would be told by the name of its neighbour.
        """
        config = self.config
        names: dict[int, str] = config.id2label
        last = config.num_labels - 1
        if strange := sorted(number for number in names if not 0 <= number <= last):
            raise MataError(
                f"id2label in config.json names the class {strange[0]}, but the network tells the "
                f"classes 0 to {last} apart"
            )
        return [names[number] for number in range(last + 1)]

    @property
    def ends(self) -> frozenset[int]:
        """The tokens with which the model ends a text; none for a model that writes none."""
        chosen = getattr(self._module, "generation_config", None)
        found = None if chosen is None else chosen.eos_token_id
        return frozenset(found if isinstance(found, list) else {found} - {None})

    def parameter(self, name: str) -> torch.Tensor:
        """Return one learnt tensor, detached, as float32."""
        tensor: torch.Tensor = getattr(self._module, name)
        return tensor.detach().float()

    def run(self, tensors: Mapping[str, torch.Tensor], method: str = "", **options: Any) -> Any:
        """Call the model, or one of its methods, on tensors of any device without gradients.

        Floating point tensors are cast to the weights' format; ``options`` are handed on as they
        are.
        """
        with torch.inference_mode():
            placed = {name: self._place(tensor) for name, tensor in tensors.items()}
            call = getattr(self._module, method) if method else self.forward
            return call(**placed, **options)

    def finite(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return what ``run`` gave as float32.

        Raises ``MataError`` for NaN and infinity, which overflows in 16 bits end in: thresholds
        would silently drop them.
        """
        if not bool(tensor.isfinite().all()):
            raise MataError(no_numbers(self._module, self._module.dtype))
        return tensor.float()

    def close(self) -> None:
        """Give the weights' memory back."""
        self._module = None
        self.forward = _closed
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    def _place(self, tensor: torch.Tensor) -> torch.Tensor:
        dtype = self._module.dtype if tensor.is_floating_point() else tensor.dtype
        return tensor.to(self._device, dtype)
