"""The SAM3 inference API: its routes, its gauges and its part of ``GET /health``."""

from __future__ import annotations

import asyncio
import functools
import importlib.metadata
from typing import TYPE_CHECKING, Any, Self

import msgspec
from aiohttp import web
from msgspec import Struct

import mataserver
from mataserver import has_gpu_driver
from mataserver_sam.description import api_route
from mataserver_sam.gauges import Gauges
from mataserver_sam.image_routes import ImageRoutes
from mataserver_sam.image_store import ImageStore
from mataserver_sam.served import ServedModel
from mataserver_sam.video_requests import TRACKING
from mataserver_sam.video_routes import VideoRoutes
from mataserver_sam.video_sessions import VideoSessions
from mataserver_sam.video_sources import VideoSources
from mataserver_sam.visualizations import Visualizations

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mataserver import Context, Route


class ImageModel(Struct, frozen=True, kw_only=True):
    """The model of ``GET /models/info``; ``memory_mb`` in 1e6 bytes, 0 when it is not loaded."""

    loaded: bool
    checkpoint: str
    device: str
    memory_mb: float
    capabilities: list[str]


class ModelsInfo(Struct, frozen=True, kw_only=True):
    """``GET /models/info``."""

    image_model: ImageModel
    server_version: str
    sam3_version: str


class SamService:
    """The service of the plugin."""

    def __init__(self, ctx: Context) -> None:
        self._ctx = ctx
        self._model = ServedModel(ctx)
        self._turned_off = () if ctx.settings.video_enabled else (TRACKING,)
        ctx.metrics.register(Gauges(self._model, _gpu_count))
        settings = ctx.settings
        self._pictures = Visualizations(
            settings.visualization_cache_mb * 1e6, settings.visualization_ttl_s
        )
        self._store = ImageStore(settings.image_cache_mb * 1e6, settings.image_ttl_s)
        self._images = ImageRoutes(ctx, self._model, self._store, self._pictures)
        self._sessions = VideoSessions(ctx, self._model, VideoSources(ctx))
        self._videos = VideoRoutes(ctx, self._sessions)

    def routes(self) -> Iterable[Route]:
        """Return every route."""
        own = [
            api_route(
                "GET", "/models/info", self.info, "The models of SAM3's API", None, ModelsInfo
            )
        ]
        images = [*self._images.routes(), *self._pictures.routes()]
        return [*own, *images, *self._videos.routes()]

    async def info(self, _request: web.Request) -> web.Response:
        """Describe the model, without loading it."""
        facts = await self._model.facts()
        info = self._model.info()
        model = ImageModel(
            loaded=self._model.in_memory,
            checkpoint=self._model.checkpoint,
            device=facts["device"],
            memory_mb=(info.memory_mb if info else None) or 0.0,
            capabilities=[each for each in facts["capabilities"] if each not in self._turned_off],
        )
        answer = ModelsInfo(
            image_model=model,
            server_version=mataserver.__version__,
            sam3_version=importlib.metadata.version("mataserver-sam"),
        )
        return web.Response(body=msgspec.json.encode(answer), content_type="application/json")

    def ping(self) -> dict[str, Any]:
        """Return this service's members of ``GET /health``."""
        return {"gpu_count": _gpu_count(), "active_sessions": len(self._sessions)}

    async def __aenter__(self) -> Self:
        """Start."""
        await self._sessions.__aenter__()
        self._ctx.tasks.spawn(self._sessions.close_expired, "close unused sessions")
        self._ctx.tasks.spawn(self._drop_expired_images, "forget images")
        return self

    async def _drop_expired_images(self) -> None:
        """Periodically drop the images whose lifetime has passed; runs until cancelled."""
        while True:
            await asyncio.sleep(min(60.0, self._ctx.settings.image_ttl_s))
            self._store.drop_expired()

    async def __aexit__(self, *exc: object) -> None:
        """Stop."""
        await self._sessions.__aexit__(*exc)
        self._pictures.clear()
        self._store.clear()


@functools.cache
def _gpu_count() -> int:
    """Return the number of GPUs that the driver lists; 0 without a driver."""
    if not has_gpu_driver():
        return 0  # pynvml takes 2 MB, and could only say the same
    import pynvml

    try:
        pynvml.nvmlInit()
        return int(pynvml.nvmlDeviceGetCount())
    except pynvml.NVMLError:
        return 0
