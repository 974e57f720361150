"""The model behind ``/api/v1``: finds it in the registry, and acquires it for a handler."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mataserver import MataError, NotFound, Unavailable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from mataserver import Context, ModelHandle, ModelInfo
    from mataserver_sam.image_requests import GpuMemory

TASK = "segment"
_WEIGHT_SUFFIXES = frozenset({".pt", ".pth", ".bin", ".safetensors", ".ckpt", ".onnx"})
_IN_MEMORY = frozenset({"ready", "active", "idle"})


class ServedModel:
    """The model that ``plugins.sam.model`` names, loaded with its first request.

    Every failure to acquire it is ``Unavailable`` (503), because a client cannot fix it.
    ``gpu_memory`` is its worker's last report; None before the first.
    """

    def __init__(self, ctx: Context) -> None:
        self._models = ctx.models
        self._configured: str = ctx.settings.model
        self._device: str = ctx.settings.device or "auto"
        self._name: str | None = None
        self.gpu_memory: GpuMemory | None = None
        self._facts: tuple[float | None, dict[str, Any]] = (None, {})

    @property
    def checkpoint(self) -> str:
        """The configured name; may be empty."""
        return self._configured

    def name(self) -> str:
        """Return its name in the registry; a directory is registered. Raises ``Unavailable``."""
        if not self._configured:
            raise Unavailable("No model is configured: set plugins.sam.model or SAM3_CHECKPOINT")
        if self._name is None:
            self._name = self._find_registered()
        return self._name or self._configured

    def _find_registered(self) -> str | None:
        """Return its registered name; None when it is not registered."""
        place = Path(self._configured).expanduser()
        with contextlib.suppress(NotFound):
            if not place.is_absolute():
                return self._models.info(self._configured).model
        if not place.is_dir():
            _check_not_single_file(place)
            return None
        try:
            return self._models.add(place, TASK)
        except MataError as error:
            raise Unavailable(f"The model cannot be served: {error.detail}") from None

    def info(self) -> ModelInfo | None:
        """Return the server's information about it; None when it is not registered."""
        try:
            return self._models.info(self.name())
        except MataError:
            return None

    @property
    def loaded_at(self) -> float | None:
        """When its worker was loaded, in Unix seconds; None without a worker."""
        info = self.info()
        return None if info is None else info.loaded_at

    @property
    def in_memory(self) -> bool:
        """Whether it is loaded."""
        info = self.info()
        return info is not None and info.state in _IN_MEMORY

    @contextlib.asynccontextmanager
    async def acquire(self) -> AsyncIterator[ModelHandle]:
        """Load it if needed and hold it until the context ends. Raises ``Unavailable``."""
        name = self.name()
        async with contextlib.AsyncExitStack() as stack:
            try:
                model = await stack.enter_async_context(self._models.acquire(name, TASK))
            except NotFound:
                self._name = None  # a directory may be registered again
                raise Unavailable(
                    f"The model is not here: mataserver pull {name[:200]} --task {TASK}"
                ) from None
            except MataError as error:
                raise Unavailable(
                    f"The model is not loaded: {error.detail}", retry_after=error.retry_after
                ) from None
            yield model

    async def facts(self) -> dict[str, Any]:
        """Return the loaded model's description; of one that is not loaded, the device setting."""
        info = self.info()
        if info is None or info.state not in _IN_MEMORY:
            return {"device": self._device, "capabilities": []}
        if self._facts[0] != info.loaded_at:
            async with self.acquire() as model:
                self._facts = (info.loaded_at, await model.call("describe"))
                self.gpu_memory = self._facts[1]["gpus"]
        return self._facts[1]


def _check_not_single_file(place: Path) -> None:
    """Raise ``Unavailable`` for a single file of weights, existing or not, and for a missing path.

    The message says what can be loaded instead: suggesting to pull a path would not help.
    """
    if place.is_file() or place.suffix.lower() in _WEIGHT_SUFFIXES:
        instead = "a directory in the layout of the hub, or a name such as facebook/sam3"
        if (place.parent / "config.json").is_file():
            instead = "the directory that it lies in, which has that layout"
        raise Unavailable(
            f"The model cannot be served: plugins.sam.model or SAM3_CHECKPOINT names the file "
            f"{place.name[:100]}, and a single file of weights cannot be loaded; name {instead}"
        )
    if place.is_absolute():
        raise Unavailable(
            "The model cannot be served: plugins.sam.model or SAM3_CHECKPOINT names a directory "
            "that does not exist"
        )
