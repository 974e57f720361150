"""Compiles the forward pass of a network with ``torch.compile`` while the model is loaded.

Everything is compiled before the first request: one program for a single image and, where batches
may be larger, one for two images and more. What images bring in any size is compiled for any size.
Afterwards nothing is compiled any more: a shape that no program fits runs uncompiled, rather than
making a request wait for a minute. Only ``load`` functions import this module.
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
    # torch counts the programs of all models of a process together, and beyond its limits leaves
    # the rest uncompiled without a word.
    "recompile_limit": 4096,
    "accumulated_recompile_limit": 4096,
    # Checks of values inside a network (RT-DETRv2) would cut it into pieces, for one batch size.
    "capture_scalar_outputs": True,
}
_WIDE, _TALL = (480, 640), (640, 480)


class Compiler:
    """Compiles the network of one model, as the context of its load asks for."""

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

        Compiled programs are kept in the data directory, unless the environment names another
        place. Raises ``MataError`` when the network cannot be compiled or the compiler is missing.
        """
        _keep_programs(self._ctx.data_dir / "hf" / "compiled")
        changing = _changing(model, network, params)
        plain = network.forward
        try:
            compiled = torch.compile(plain, dynamic=False, backend=self._backend)
            network.forward = _Marking(compiled, changing)
            with torch._dynamo.config.patch(_OPTIONS):  # noqa: SLF001 - torch has no other name
                for count in range(1, min(self._ctx.max_batch, 2) + 1):
                    model.predict([_noise(_WIDE)] * count, [params] * count)
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, OSError) as error:
            self._ctx.log.warning("%s: torch.compile failed: %s", name, error)
            raise MataError(_sentence(name, error)) from error
        network.forward = torch._dynamo.run(plain)  # noqa: SLF001 - torch has no other name


def _keep_programs(place: Path) -> None:
    """Have torch keep compiled programs in ``place``, unless the operator chose another one.

    torch itself writes its default, a directory that others can see and that a restart of the
    machine empties, into the environment as soon as it is asked for it: in the zygote, whose
    temporary directory is the one that a worker's own lies in.
    """
    chosen, temporary = os.environ.get(_CACHE, ""), Path(tempfile.gettempdir())
    defaults = (str(each / "torchinductor_") for each in (temporary, temporary.parent))
    if not chosen or chosen.startswith(tuple(defaults)):
        os.environ[_CACHE] = str(place)


class _Recorder:
    """Notes the shapes of what a network is given, and runs it."""

    def __init__(self, forward: Forward) -> None:
        self._forward = forward
        self.shapes: list[Shapes] = []

    def __call__(self, **tensors: torch.Tensor) -> Any:
        self.shapes.append({name: tuple(tensor.shape) for name, tensor in tensors.items()})
        return self._forward(**tensors)


class _Marking:
    """Tells the compiler which sides of the tensors change from call to call.

    That is the first where it is more than one (the compiler always treats a one by itself), and
    those that ``changing`` names.
    """

    def __init__(self, forward: Forward, changing: Mapping[str, Sequence[int]]) -> None:
        self._forward = forward
        self._changing = changing

    def __call__(self, **tensors: torch.Tensor) -> Any:
        for name, tensor in tensors.items():
            for side in (0, *self._changing[name]):
                if tensor.shape[side] > 1:
                    torch._dynamo.maybe_mark_dynamic(tensor, side)  # noqa: SLF001 - as documented
        return self._forward(**tensors)


def _changing(model: Any, network: Network, params: Params) -> dict[str, list[int]]:
    """Return the sides of each tensor that differ between a wide and a tall picture.

    Both are run, uncompiled, so what fails here fails for another reason than the compiler.
    """
    plain = network.forward
    recorder = _Recorder(plain)
    network.forward = recorder
    for size in (_WIDE, _TALL):
        model.predict([_noise(size)], [params])
    network.forward = plain
    wide, tall = recorder.shapes
    return {name: list(_differing(shape, tall[name])) for name, shape in wide.items()}


def _differing(one: tuple[int, ...], other: tuple[int, ...]) -> Iterator[int]:
    return (side for side, (a, b) in enumerate(zip(one, other, strict=True)) if a != b)


def _noise(size: tuple[int, int]) -> NDArray[np.uint8]:
    """Return a picture ``[H, W, 3]`` that no network answers with zeros."""
    return np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)


def _sentence(name: str, error: Exception) -> str:
    said = f"{name} cannot be compiled"
    if any(word in str(error) for word in ("C++ compiler", "CppCompileError", "Python.h")):
        return f"{said}: torch.compile needs a C++ compiler (g++) and the headers of this Python"
    return f"{said}: the server's log says why; compile: false serves it uncompiled"
