"""A stand-in for the plugin sam: around each point a disc, in a box what is in it, by words two."""

from __future__ import annotations

import base64
import importlib.metadata
import io
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from aiohttp import web
from PIL import Image

from mataserver import Route, hookimpl

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mataserver import Context

POINT = importlib.metadata.EntryPoint("sam", "planted_sam", "mataserver")


def _mask(prompt: dict[str, Any], width: int, height: int) -> np.ndarray:
    """Return the pixels that a prompt means."""
    y, x = np.mgrid[:height, :width]
    inside = np.zeros((height, width), bool)
    if prompt["type"] == "box":
        cx, cy, w, h = prompt["box"]
        return (abs(x / width - cx) < w / 2) & (abs(y / height - cy) < h / 2)
    for (px, py), label in zip(prompt["points"], prompt["point_labels"], strict=True):
        disc = (x - px * width) ** 2 + (y - py * height) ** 2 < (min(width, height) / 6) ** 2
        inside = inside | disc if label else inside & ~disc
    return inside


def _box(mask: np.ndarray) -> list[float]:
    """Return centre and size of what is inside, in shares."""
    rows, columns = np.nonzero(mask)
    height, width = mask.shape
    x1, x2 = columns.min() / width, (columns.max() + 1) / width
    y1, y2 = rows.min() / height, (rows.max() + 1) / height
    return [(x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1]


def _png(mask: np.ndarray) -> str:
    buffer = io.BytesIO()
    Image.fromarray(mask.astype(np.uint8) * 255).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


class Sam:
    """Its service."""

    def __init__(self) -> None:
        self.prompts: list[dict[str, Any]] = []

    def routes(self) -> Iterable[Route]:
        """Return the two routes that the console asks."""
        return [
            Route("POST", "/api/v1/image/segment", self.segment, needs="infer"),
            Route("GET", "/models/info", self.info, needs="any"),
        ]

    async def info(self, _request: web.Request) -> web.Response:
        """Tell what the model can."""
        known = ["text_prompt", "box_prompt", "point_prompt"]
        model = {"loaded": True, "checkpoint": "planted/sam", "capabilities": known}
        return web.json_response({"image_model": model})

    async def segment(self, request: web.Request) -> web.Response:
        """Answer one prompt."""
        asked = await request.json()
        image = Image.open(io.BytesIO(base64.b64decode(asked["image"])))
        (prompt,) = asked["prompts"]
        if prompt["type"] == "text":
            twice = [(0.25, 0.25), (0.75, 0.75)]
            prompts = [{"type": "point", "points": [p], "point_labels": [1]} for p in twice]
        else:
            prompts = [prompt]
        masks = [_mask(each, *image.size) for each in prompts]
        width, height = image.size
        return web.json_response(
            {
                "masks": [_png(each) for each in masks],
                "boxes": [_box(each) for each in masks],
                "scores": [0.9] * len(masks),
                "labels": ["visual"] * len(masks),
                "num_masks": len(masks),
                "image_size": {"width": width, "height": height},
                "inference_time_ms": 1.0,
            }
        )

    async def __aenter__(self) -> Self:
        """Start."""
        return self

    async def __aexit__(self, *exc: object) -> None:
        """Stop."""


@hookimpl
def service(ctx: Context) -> Sam:
    """Return the service."""
    return Sam()
