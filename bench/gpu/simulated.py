"""A device of torch that is not the CPU, on a machine that has no other.

Its tensors lie in the CPU's memory and are computed there, but torch takes them for those of a
device ``simulated``: an operation on tensors of both devices is refused as on a GPU, and so is
reading one as an array without moving it first. What answers here as on the CPU leaves nothing
behind on the wrong device. Speed, memory and 16 bits are the GPU's own, and not simulated.
"""

# ruff: noqa: SLF001 - torch has no public names for a device that is written in Python
# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

import contextlib
import threading
from typing import TYPE_CHECKING, Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

if TYPE_CHECKING:
    from collections.abc import Iterator

NAME = "simulated"
PLACE = f"{NAME}:0"
_MOVES = {"aten::to", "aten::_to_copy", "aten::copy_", "aten::copy"}
_BY_INDEX = {"aten::index", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_"}
"""Positions may lie on the CPU, values not."""


class DeviceTensor(torch.Tensor):
    """A tensor of the simulated device; ``numbers`` holds its numbers."""

    numbers: torch.Tensor
    __torch_function__: Any = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls: Any, inner: torch.Tensor, requires_grad: bool = False) -> Any:
        """Wrap a tensor of the CPU."""
        # A view of a weight is no inference tensor, though it is made within inference mode.
        with torch.inference_mode(mode=False):
            made: Any = torch.Tensor._make_wrapper_subclass(
                cls,
                inner.size(),
                strides=inner.stride(),
                storage_offset=inner.storage_offset(),
                dtype=inner.dtype,
                device=torch.device(PLACE),
                requires_grad=requires_grad,
            )
        made.numbers = inner
        return made

    def __tensor_flatten__(self) -> tuple[list[str], None]:
        """Tell torch what the tensor consists of, so that it can replace weights by others."""
        return ["numbers"], None

    @staticmethod
    def __tensor_unflatten__(parts: dict[str, Any], *_: Any) -> Any:
        return DeviceTensor(parts["numbers"])

    def __repr__(self) -> str:  # type: ignore[override]
        """Name shape and kind: torch's own text takes the tensor apart."""
        return f"{type(self).__name__}({tuple(self.shape)}, {self.dtype})"

    def tolist(self) -> Any:
        """Return the numbers."""
        return self.numbers.tolist()

    def untyped_storage(self) -> Any:
        """Return the memory that the numbers lie in."""
        return self.numbers.untyped_storage()

    @classmethod
    def __torch_dispatch__(cls, operation: Any, *arguments: Any) -> Any:
        """Run an operation on such a tensor; ``arguments`` are types, positional and named ones."""
        _types, args, kwargs = (*arguments, (), None)[:3]
        return _run(operation, args, kwargs or {})


class _Everywhere(TorchDispatchMode):
    """Also has operations without such a tensor run here: those that make the first one."""

    def __torch_dispatch__(
        self, operation: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        return _run(operation, args, kwargs or {})


def _inner(tensor: Any) -> torch.Tensor:
    return tensor.numbers if isinstance(tensor, DeviceTensor) else tensor


def _is_here(device: torch.device) -> bool:
    return device.type == NAME


def _target(operation: Any, args: Any, leaves: list[Any]) -> bool:
    """Return whether the operation's result lies on the simulated device."""
    if operation is torch.ops.aten.to.other:
        return isinstance(args[1], DeviceTensor)
    if devices := [each for each in leaves if isinstance(each, torch.device)]:
        return any(map(_is_here, devices))
    return any(isinstance(each, DeviceTensor) for each in leaves)


def _check(operation: Any, args: Any, leaves: list[Any]) -> None:
    """Raise ``RuntimeError``, as CUDA does, for tensors of both devices; a number may be of any."""
    name = operation._schema.name
    tensors = [each for each in leaves if isinstance(each, torch.Tensor) and each.dim()]
    if name in _BY_INDEX and isinstance(args[0], DeviceTensor):
        tensors = [each for each in tree_leaves((args[0], *args[2:3])) if hasattr(each, "dim")]
        tensors = [each for each in tensors if each.dim()]
    if len({each.device for each in tensors}) > 1 and name not in _MOVES:
        raise RuntimeError(
            f"Expected all tensors to be on the same device, found {PLACE} and cpu: {operation}"
        )


def _run(operation: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """Run an operation on the CPU, with what it returns on the device where it belongs."""
    name = operation._schema.name
    if operation is torch.ops.aten._fused_sdp_choice.default:
        return 0  # attention in plain operations: the fused ones are each of one device
    leaves = tree_leaves((args, kwargs))
    _check(operation, args, leaves)
    here = _target(operation, args, leaves)
    held = {id(each.numbers): each for each in leaves if isinstance(each, DeviceTensor)}

    def moved(value: Any) -> Any:
        if isinstance(value, torch.device):
            return torch.device("cpu") if _is_here(value) else value
        return _inner(value)

    with torch.inference_mode(mode=False), torch.no_grad():
        result = operation(*tree_map(moved, args), **tree_map(moved, kwargs))
    if name == "aten::copy_":
        return args[0]

    def placed(value: Any) -> Any:
        if not isinstance(value, torch.Tensor):
            return value
        if here:
            known = held.get(id(value))
            return DeviceTensor(value) if known is None else known
        return value.clone() if held else value  # a move between devices is always a copy

    return tree_map(placed, result)


def _start() -> Any:
    """Register the device; return what keeps it registered."""
    _setup_privateuseone_for_python_backend(NAME)
    torch.__future__.set_swap_module_params_on_conversion(True)
    library = torch.library.Library("aten", "IMPL")

    def empty(size: Any, *, dtype: Any = None, **_: Any) -> Any:
        return DeviceTensor(torch.empty(size, dtype=dtype))

    def strided(size: Any, stride: Any, *, dtype: Any = None, **_: Any) -> Any:
        return DeviceTensor(torch.empty_strided(size, stride, dtype=dtype))

    def copied(source: Any, target: Any, **_: Any) -> Any:
        _inner(target).copy_(_inner(source))
        return target

    def number(tensor: Any) -> Any:
        return _inner(tensor).item()

    # torch calls these by itself, past the mode, where it makes a tensor of a list.
    library.impl("empty.memory_format", empty, "PrivateUse1")
    library.impl("empty_strided", strided, "PrivateUse1")
    library.impl("_copy_from", copied, "PrivateUse1")
    library.impl("_local_scalar_dense", number, "PrivateUse1")
    return library


_STARTED = threading.Lock()
_KEPT: list[Any] = []


@contextlib.contextmanager
def available() -> Iterator[None]:
    """Have the device in this thread; plugins that choose a device by its name take it, too."""
    from mataserver_hf import checkpoint
    from mataserver_sam import loading

    with _STARTED:
        if not _KEPT:
            _KEPT.append(_start())
    modules: tuple[Any, ...] = (checkpoint, loading)
    chosen = [module.choose_device for module in modules]
    for module, choose in zip(modules, chosen, strict=True):
        module.choose_device = lambda wanted, choose=choose: (
            torch.device(PLACE) if wanted == NAME else choose(wanted)
        )
    try:
        with _Everywhere():
            yield
    finally:
        for module, choose in zip(modules, chosen, strict=True):
            module.choose_device = choose
