"""``/api/v1/image``: turns requests into calls of the model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aiohttp import web

from mataserver_sam.description import api_route
from mataserver_sam.image_requests import (
    CachedAnswer,
    CachedRequest,
    SegmentAnswer,
    SegmentRequest,
)
from mataserver_sam.video_routes import principal_of

if TYPE_CHECKING:
    from mataserver import Context, Route
    from mataserver_sam.image_requests import WorkerAnswer
    from mataserver_sam.image_store import ImageStore
    from mataserver_sam.served import ServedModel
    from mataserver_sam.visualizations import Visualizations


class ImageRoutes:
    """The handlers. The worker encodes the answer; it is not parsed here."""

    def __init__(
        self,
        ctx: Context,
        model: ServedModel,
        kept: ImageStore,
        pictures: Visualizations,
    ) -> None:
        self._read = ctx.http.read_json
        self._form: str = ctx.settings.mask_format
        self._model = model
        self._store = kept
        self._pictures = pictures

    def routes(self) -> list[Route]:
        """Return the routes."""
        return [
            api_route("POST", "/api/v1/image/segment", self.segment, "Segment an image by prompts",
                      SegmentRequest, SegmentAnswer, errors=(404,)),
            api_route("POST", "/api/v1/image/cached-features", self.cached,
                      "Segment an image by several texts at once", CachedRequest, CachedAnswer,
                      errors=(404,)),
        ]  # fmt: skip

    async def segment(self, request: web.Request) -> web.Response:
        """Segment one image by any prompts."""
        async with self._read(request, SegmentRequest) as asked:
            image = self._store.find(asked, principal_of(request).id)
            name, path = self._pictures.reserve()
            wanted = path if asked.return_visualization else None
            form = asked.mask_format or self._form
            async with self._model.acquire() as model:
                done: WorkerAnswer = await model.call(
                    "segment", image.data, asked.prompts, asked.confidence_threshold, form,
                    picture_url=wanted, image_id=image.image_id, all_masks=asked.all_masks,
                )  # fmt: skip
        self._store.keep(image, principal_of(request).id)
        if wanted is not None:
            self._pictures.put(name, done.picture)
        return self._respond(done)

    async def cached(self, request: web.Request) -> web.Response:
        """Segment one image by several texts with one run of the encoder."""
        async with self._read(request, CachedRequest) as asked:
            image = self._store.find(asked, principal_of(request).id)
            form = asked.mask_format or self._form
            async with self._model.acquire() as model:
                done: WorkerAnswer = await model.call(
                    "cached", image.data, asked.text_prompts, asked.confidence_threshold, form,
                    image_id=image.image_id,
                )  # fmt: skip
        self._store.keep(image, principal_of(request).id)
        return self._respond(done)

    def _respond(self, done: WorkerAnswer) -> web.Response:
        self._model.gpu_memory = done.gpus
        headers = {"Server-Timing": done.timing}
        return web.Response(body=done.body, content_type="application/json", headers=headers)
