"""A stand-in for the plugin sam: around each point a disc, in a box what is in it, by words two."""

from __future__ import annotations

import asyncio
import base64
import importlib.metadata
import io
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from aiohttp import web
from PIL import Image

from mataserver import Route, hookimpl
from mataserver_sam.masks import Mask

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mataserver import Context

POINT = importlib.metadata.EntryPoint("sam", "planted_sam", "mataserver")
MADE: list[Sam] = []
SENT: list[bool] = []
"""Of each request so far whether it brought a picture."""


def _mask(prompt: dict[str, Any], width: int, height: int, share: float = 1 / 6) -> np.ndarray:
    """Return the pixels that a prompt means."""
    y, x = np.mgrid[:height, :width]
    inside = np.zeros((height, width), bool)
    if prompt["type"] == "box":
        cx, cy, w, h = prompt["box"]
        return (abs(x / width - cx) < w / 2) & (abs(y / height - cy) < h / 2)
    for (px, py), label in zip(prompt["points"], prompt["point_labels"], strict=True):
        disc = (x - px * width) ** 2 + (y - py * height) ** 2 < (min(width, height) * share) ** 2
        inside = inside | disc if label else inside & ~disc
    return inside


def _box(mask: np.ndarray) -> list[float]:
    """Return centre and size of what is inside, in shares."""
    rows, columns = np.nonzero(mask)
    height, width = mask.shape
    x1, x2 = columns.min() / width, (columns.max() + 1) / width
    y1, y2 = rows.min() / height, (rows.max() + 1) / height
    return [(x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1]


class Sam:
    """Its service."""

    def __init__(self) -> None:
        self._images: dict[str, bytes] = {}
        self.seconds = 0.0
        """How long it takes to load; it is loaded already where that is 0."""

    def routes(self) -> Iterable[Route]:
        """Return the two routes that the console asks."""
        return [
            Route("POST", "/api/v1/image/segment", self.segment, needs="infer"),
            Route("GET", "/models/info", self.info, needs="any"),
        ]

    async def info(self, _request: web.Request) -> web.Response:
        """Tell what the model can."""
        known = ["text_prompt", "box_prompt", "point_prompt"]
        model = {"loaded": not self.seconds, "checkpoint": "planted/sam", "capabilities": known}
        return web.json_response({"image_model": model})

    async def segment(self, request: web.Request) -> web.Response:
        """Answer one prompt."""
        asked = await request.json()
        SENT.append("image" in asked)
        await asyncio.sleep(self.seconds)
        self.seconds = 0.0
        if asked.get("image_id", "") not in self._images | {"": b""}:
            return web.json_response({"detail": "There is no image with this image_id"}, status=404)
        name = asked.get("image_id") or f"image-{len(self._images)}"
        if "image" in asked:
            self._images[name] = base64.b64decode(asked["image"])
        width, height = Image.open(io.BytesIO(self._images[name])).size
        (prompt,) = asked["prompts"]
        if prompt["type"] == "text":
            twice = [] if prompt["text"] == "nowhere" else [(0.25, 0.25), (0.75, 0.75)]
            points = [{"type": "point", "points": [p], "point_labels": [1]} for p in twice]
            masks = [_mask(each, width, height) for each in points]
        else:
            shares = (1 / 6, 1 / 4, 1 / 10) if asked.get("all_masks") else (1 / 6,)
            masks = [_mask(prompt, width, height, share) for share in shares]
        return web.json_response(
            {
                "masks": [Mask.from_pixels(each).encode(asked["mask_format"]) for each in masks],
                "boxes": [_box(each) for each in masks],
                "scores": [0.9 - 0.1 * at for at in range(len(masks))],
                "labels": ["visual"] * len(masks),
                "num_masks": len(masks),
                "image_size": {"width": width, "height": height},
                "inference_time_ms": 1.0,
                **({"image_id": name} if asked.get("keep_image") or "image_id" in asked else {}),
            }
        )

    def forget(self) -> None:
        """Forget every picture, as a server that was started anew has."""
        self._images.clear()

    async def __aenter__(self) -> Self:
        """Start."""
        return self

    async def __aexit__(self, *exc: object) -> None:
        """Stop."""


@hookimpl
def service(ctx: Context) -> Sam:
    """Return the service."""
    MADE.append(sam := Sam())
    return sam
