"""The model behind ``/api/v1``: which one it is, and how a handler gets it."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mataserver import MataError, NotFound, Unavailable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from mataserver import Context, ModelHandle, ModelInfo

TASK = "segment"
_SINGLE = frozenset({".pt", ".pth", ".bin", ".safetensors", ".ckpt", ".onnx"})
_IN_MEMORY = frozenset({"ready", "active", "idle"})


class ServedModel:
    """The model that ``plugins.sam.model`` names: loaded with its first request.

    Every failure to get it is ``Unavailable`` (503): a client cannot mend it.
    """

    def __init__(self, ctx: Context) -> None:
        self._models = ctx.models
        self._asked: str = ctx.settings.model
        self._device: str = ctx.settings.device or "auto"
        self._name: str | None = None
        self._facts: tuple[float | None, dict[str, Any]] = (None, {})

    @property
    def checkpoint(self) -> str:
        """What the settings name; empty if they name nothing."""
        return self._asked

    def name(self) -> str:
        """Return its name in the registry; a directory is registered. Raises ``Unavailable``."""
        if not self._asked:
            raise Unavailable("No model is configured: set plugins.sam.model or SAM3_CHECKPOINT")
        if self._name is None:
            self._name = self._registered()
        return self._name or self._asked

    def _registered(self) -> str | None:
        """Return the name under which it is registered now; None when it is not here yet."""
        place = Path(self._asked).expanduser()
        with contextlib.suppress(NotFound):
            if not place.is_absolute():
                return self._models.info(self._asked).model
        if not place.is_dir():
            _check_no_file(place)
            return None
        try:
            return self._models.add(place, TASK)
        except MataError as error:
            raise Unavailable(f"The model cannot be served: {error.detail}") from None

    def info(self) -> ModelInfo | None:
        """Return what the server knows of it; None when it is not here."""
        try:
            return self._models.info(self.name())
        except MataError:
            return None

    @property
    def loaded_at(self) -> float | None:
        """When its worker was loaded, in Unix seconds; None while there is none."""
        info = self.info()
        return None if info is None else info.loaded_at

    @property
    def in_memory(self) -> bool:
        """Whether it is loaded now."""
        info = self.info()
        return info is not None and info.state in _IN_MEMORY

    @contextlib.asynccontextmanager
    async def acquire(self) -> AsyncIterator[ModelHandle]:
        """Load it if need be and hold it until the context ends. Raises ``Unavailable``."""
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
        """Return what the loaded model tells of itself; without one, where it would run."""
        info = self.info()
        if info is None or info.state not in _IN_MEMORY:
            return {"device": self._device, "capabilities": []}
        if self._facts[0] != info.loaded_at:
            async with self.acquire() as model:
                self._facts = (info.loaded_at, await model.call("describe"))
        return self._facts[1]


def _check_no_file(place: Path) -> None:
    """Raise ``Unavailable`` for a single file of weights, there or not, and for a path to nothing.

    The sentence says what can be loaded: to pull a path, as what is not here else is, helps nobody.
    """
    if place.is_file() or place.suffix.lower() in _SINGLE:
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
