"""Photographs in, point clouds out: ``python examples/reconstruct.py photos.zip model``.

The folder then contains the report, and each model's cloud with a plan view, cameras in red.
The server needs the plugins database, jobs and reconstruct. Its address is MATA_SERVER_URL
(default http://127.0.0.1:8110), the key MATA_SERVER_API_KEY.
"""

import json
import os
import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from mataserver_client import Client, MataError

POINT_TYPE = [(name, "<f4") for name in "xyz"] + [("rgb", "u1", 3)]


def draw(ply: bytes, views: list[dict[str, list[list[float]]]]) -> Image.Image:
    points = np.sort(np.frombuffer(ply.partition(b"end_header\n")[2], POINT_TYPE), order="z")
    rotations, translations = (np.array([v[n] for v in views]) for n in ("rotation", "translation"))
    centres = -np.einsum("nji,nj->ni", rotations, translations)[:, :2]  # camera position: -R'T
    plan = np.r_[np.c_[points["x"], points["y"]], centres] * [1, -1]
    pixels = (plan - plan.min(axis=0)) * 800 / np.ptp(plan, axis=0).max() + 50
    picture = Image.new("RGB", tuple((pixels.max(axis=0) + 50).astype(int)), "white")
    pen = ImageDraw.Draw(picture)
    for (x, y), colour in zip(pixels, points["rgb"].tolist(), strict=False):
        pen.rectangle((x - 1, y - 1, x + 1, y + 1), tuple(colour))
    for (x, y), (dx, dy) in zip(pixels[len(points) :], rotations[:, 2, :2], strict=True):
        pen.line((x, y, x + 30 * dx, y - 30 * dy), "red", 2)
        pen.ellipse((x - 4, y - 4, x + 4, y + 4), "red")
    return picture


def main(archive: str, folder: str) -> None:
    url = os.environ.get("MATA_SERVER_URL", "http://127.0.0.1:8110")
    with Client(url, os.environ.get("MATA_SERVER_API_KEY")) as client:
        job_id = client.create_job("reconstruct", upload=client.send_file(archive))
        for job in client.follow_job(job_id):
            print(f"{job.progress:3.0f} %  {job.message}", flush=True)
        if job.state != "done":
            sys.exit(job.error)
        client.download_job(job_id, folder)
        models = client.request("GET", f"/clusters/{job_id}").decode(dict)["clusters"]
    cameras = json.loads(Path(folder, "cameras.json").read_bytes())
    for model, camera in zip(models, cameras, strict=True):
        if model["filename"]:  # it has points
            ply = Path(folder, model["filename"]).read_bytes()
            draw(ply, camera["views"]).save(Path(folder, f"{model['name']}.png"))


if len(sys.argv) != 3:
    sys.exit("usage: python examples/reconstruct.py ZIP FOLDER")
try:
    main(*sys.argv[1:])
except MataError as error:
    install = "no such API here: pip install ./plugins/{database,jobs,reconstruct}, restart it"
    told = install if error.detail.startswith("Not found") else error.detail
    sys.exit(f"{error.status}: {told}")
except OSError as error:
    sys.exit(str(error))
