"""Compiles the forward pass of a network with ``torch.compile`` while the model is loaded.

Everything is compiled before the first request: one program for a single image and, where batches
may be larger, one for two images and more. Dimensions that vary with the image's size are compiled
as dynamic. After loading nothing is compiled: a shape that no program fits runs uncompiled, because
a compilation would make a request wait for a minute. Only ``load`` functions import this module.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from mataserver import MataError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from mataserver import LoadContext, Params
    from mataserver_hf.network import Forward, Network

    Shapes = dict[str, tuple[int, ...]]

_CACHE = "TORCHINDUCTOR_CACHE_DIR"
_OPTIONS: dict[str, Any] = {
    # torch counts the programs of all models of a process together, and beyond its limits
    # silently leaves the rest uncompiled.
    "recompile_limit": 4096,
    "accumulated_recompile_limit": 4096,
    # Checks of values inside a network (RT-DETRv2) would split the graph, for one batch size.
    "capture_scalar_outputs": True,
}
_WIDE, _TALL = (480, 640), (640, 480)


class Compiler:
    """Compiles the network of one model, as its load context specifies."""

    def __init__(self, ctx: LoadContext, backend: str | Callable[..., Any] = "inductor") -> None:
        """Keep the context, and the backend of ``torch.compile``."""
        self._ctx = ctx
        self._backend = backend

    @property
    def wanted(self) -> bool:
        """Whether to compile: the model's own setting, else ``plugins.hf.compile``."""
        if self._ctx.compile is not None:
            return self._ctx.compile
        return self._ctx.settings is not None and bool(self._ctx.settings.compile)

    def compile(self, name: str, model: Any, network: Network, params: Params) -> None:
        """Compile what ``model`` runs of ``network``, for ``params`` and batches of any size.

        Compiled programs are cached in the data directory, unless the environment names another
        place. Raises ``MataError`` when the network cannot be compiled or the compiler is missing.
        """
        _keep_programs(self._ctx.data_dir / "hf" / "compiled")
        dynamic_sides = _dynamic_sides(model, network, params)
        plain = network.forward
        try:
            compiled = torch.compile(plain, dynamic=False, backend=self._backend)
            network.forward = _DynamicForward(compiled, dynamic_sides)
            with torch._dynamo.config.patch(_OPTIONS):  # noqa: SLF001 - torch has no other name
                for count in range(1, min(self._ctx.max_batch, 2) + 1):
                    model.predict([noise_image(_WIDE)] * count, [params] * count)
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, OSError) as error:
            self._ctx.log.warning("%s: torch.compile failed: %s", name, error)
            raise MataError(_error_text(name, error)) from error
        network.forward = torch._dynamo.run(plain)  # noqa: SLF001 - torch has no other name


def _keep_programs(place: Path) -> None:
    """Have torch cache compiled programs in ``place``, unless the operator chose another directory.

    torch writes its default into the environment when it first needs the path: a directory that
    other users can see and that is lost on a restart of the machine. This happens in the zygote,
    whose temporary directory is the parent of a worker's own, so that default is recognised here
    and replaced.
    """
    chosen, temporary = os.environ.get(_CACHE, ""), Path(tempfile.gettempdir())
    defaults = (str(each / "torchinductor_") for each in (temporary, temporary.parent))
    if not chosen or chosen.startswith(tuple(defaults)):
        os.environ[_CACHE] = str(place)


class _Recorder:
    """Records the shapes of a network's inputs, and runs the network."""

    def __init__(self, forward: Forward) -> None:
        self._forward = forward
        self.shapes: list[Shapes] = []

    def __call__(self, **tensors: torch.Tensor) -> Any:
        self.shapes.append({name: tuple(tensor.shape) for name, tensor in tensors.items()})
        return self._forward(**tensors)


class _DynamicForward:
    """Marks the dimensions that vary between calls as dynamic, and runs the network.

    These are the first one where it is larger than one (the compiler always specialises on one),
    and those in ``dynamic_sides``.
    """

    def __init__(self, forward: Forward, dynamic_sides: Mapping[str, Sequence[int]]) -> None:
        self._forward = forward
        self._dynamic_sides = dynamic_sides

    def __call__(self, **tensors: torch.Tensor) -> Any:
        for name, tensor in tensors.items():
            for side in (0, *self._dynamic_sides[name]):
                if tensor.shape[side] > 1:
                    torch._dynamo.maybe_mark_dynamic(tensor, side)  # noqa: SLF001 - as documented
        return self._forward(**tensors)


def _dynamic_sides(model: Any, network: Network, params: Params) -> dict[str, list[int]]:
    """Return the dimensions of each tensor that differ between a wide and a tall picture.

    Both are run uncompiled, so an error raised here is not the compiler's.
    """
    plain = network.forward
    recorder = _Recorder(plain)
    network.forward = recorder
    for size in (_WIDE, _TALL):
        model.predict([noise_image(size)], [params])
    network.forward = plain
    wide, tall = recorder.shapes
    return {name: list(_differing_sides(shape, tall[name])) for name, shape in wide.items()}


def _differing_sides(one: tuple[int, ...], other: tuple[int, ...]) -> Iterator[int]:
    return (side for side, (a, b) in enumerate(zip(one, other, strict=True)) if a != b)


def noise_image(size: tuple[int, int]) -> NDArray[np.uint8]:
    """Return a random picture ``[H, W, 3]``, so that no network's output is all zeros."""
    return np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)


def _error_text(name: str, error: Exception) -> str:
    summary = f"{name} cannot be compiled"
    if any(word in str(error) for word in ("C++ compiler", "CppCompileError", "Python.h")):
        return f"{summary}: torch.compile needs a C++ compiler (g++) and the headers of this Python"
    return f"{summary}: the server's log says why; compile: false serves it uncompiled"
