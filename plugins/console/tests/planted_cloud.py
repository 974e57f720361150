"""A stand-in for the plugin reconstruct: a red roof over green ground, a blue post at the right.

Three cameras stand in a row before them; two photographs have no place, one of them no picture.
The process of the job writes what a reconstruction's does, in the coordinates that it tells.
"""

from __future__ import annotations

import importlib.metadata
import io
import json
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from aiohttp import web
from msgspec import Struct
from PIL import Image

from mataserver import PRINCIPAL, NotFound, Route, hookimpl
from mataserver_jobs import JobKind

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mataserver import Context
    from mataserver_jobs import Job

POINT = importlib.metadata.EntryPoint("reconstruct", "planted_cloud", "mataserver")
RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)
NAMES = ["a.jpg", "b.jpg", "c.jpg", "d.jpg", "e.jpg"]
PLACED = {"a.jpg": -4.0, "b.jpg": 0.0, "c.jpg": 4.0}
"""The photographs with a place: how far right their cameras stand, 8 before the middle."""
_SIZE = (400, 300)


class Order(Struct):
    """What such a job is asked."""

    file: str = "planted.zip"
    scale: str = "none"


def _slab(x: tuple[float, float], z: float, colour: tuple[int, int, int]) -> np.ndarray:
    """Return a level grid of points, ``[n, 6]``: places and colours."""
    across, along = np.meshgrid(np.linspace(*x, 24), np.linspace(-1, 1, 24))
    places = np.stack([across.ravel(), along.ravel(), np.full(across.size, z)], 1)
    return np.hstack([places, np.tile(colour, (len(places), 1))])


def _ply() -> tuple[bytes, int]:
    points = np.vstack([_slab((-2, 2), 3, RED), _slab((-2, 2), 0, GREEN), _slab((4, 5), 1, BLUE)])
    kinds = [
        *((name, "<f4") for name in "xyz"),
        *((name, "u1") for name in ("red", "green", "blue")),
    ]
    packed = np.empty(len(points), kinds)
    for at, (name, _) in enumerate(kinds):
        packed[name] = points[:, at]
    words = {"<f4": "float", "u1": "uchar"}
    fields = [f"property {words[kind]} {name}" for name, kind in kinds]
    head = ["ply", "format binary_little_endian 1.0", f"element vertex {len(points)}", *fields]
    return "\n".join([*head, "end_header", ""]).encode() + packed.tobytes(), len(points)


def _view(name: str, x: float) -> dict[str, Any]:
    """Return a level camera that looks along y: its axes are right, down and forward."""
    rotation = np.array([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]])
    width, height = _SIZE
    return {
        "image": name, "width": width, "height": height, "focal": 400.0, "k1": 0.0,
        "centre": [width / 2, height / 2], "rotation": rotation.tolist(),
        "translation": (-rotation @ [x, -8.0, 1.5]).tolist(),
    }  # fmt: skip


def _image(name: str) -> dict[str, Any]:
    told = {
        "d.jpg": ("no_verified_pair", "no other photograph shows the same"),
        "e.jpg": ("unreadable", "it is no picture"),
    }
    status, reason = told.get(name, ("registered", None))
    return {
        "name": name, "path": name, "scene": "cluster0", "status": status, "reason": reason,
        "model": "cluster0_model0" if name in PLACED else None, "keypoints": 100,
    }  # fmt: skip


def reconstruct(job: Job) -> dict[str, Any]:
    """Write the cloud, the cameras and the pairs; return the figures."""
    ply, points = _ply()
    (job.output / "cloud.ply").write_bytes(ply)
    views = [_view(name, x) for name, x in PLACED.items()]
    (job.output / "cameras.json").write_text(
        json.dumps([{"model": "cluster0_model0", "views": views}])
    )
    pairs = [("a.jpg", "b.jpg", 90), ("b.jpg", "c.jpg", 40)]
    (job.output / "pairs.json").write_text(
        json.dumps([{"first": a, "second": b, "inliers": n} for a, b, n in pairs])
    )
    return {
        "n_images": len(NAMES), "n_registered": len(PLACED), "n_points": points,
        "clusters": [
            {
                "id": 0, "name": "cluster0_model0", "num_images": len(PLACED),
                "num_points3D": points, "mean_reprojection_error": 0.5, "filename": "cloud.ply",
                "unit": None if job.spec["scale"] == "none" else "metre",
            }
        ],
        "images": [_image(name) for name in NAMES], "cameras": "cameras.json",
        "pairs": "pairs.json", "advice": ["Take more of them."],
    }  # fmt: skip


class Planted:
    """Its service."""

    requires = ("jobs",)

    def __init__(self, ctx: Context) -> None:
        self._ctx = ctx

    def jobs(self) -> list[JobKind]:
        """Return the kind."""
        return [JobKind(name="reconstruct", run=reconstruct, spec=Order)]

    def routes(self) -> Iterable[Route]:
        """Return a way to begin a job, and its photographs."""
        return [
            Route("POST", "/upload", self.upload, needs="jobs:write"),
            Route("GET", "/jobs/{id}/photos/{number}", self.photo, needs="jobs:read"),
        ]

    async def upload(self, request: web.Request) -> web.Response:
        """Begin a job."""
        desk = self._ctx.peer("jobs").desk
        async with desk.draft() as draft:
            job = await desk.submit(draft, "reconstruct", request[PRINCIPAL].id, Order())
        return web.json_response({"job_id": job.id}, status=202)

    async def photo(self, request: web.Request) -> web.Response:
        """Answer with a photograph: a plain one, of a colour of its own."""
        number = int(request.match_info["number"])
        if NAMES[number] == "e.jpg":
            raise NotFound("The job has no such photograph")
        made = io.BytesIO()
        Image.new("RGB", _SIZE, (40 * number, 90, 160)).save(made, "JPEG")
        return web.Response(body=made.getvalue(), content_type="image/jpeg")

    async def __aenter__(self) -> Self:
        """Start."""
        return self

    async def __aexit__(self, *exc: object) -> None:
        """Stop."""


@hookimpl
def service(ctx: Context) -> Planted:
    """Return the service."""
    return Planted(ctx)
