"""Photographs in, point clouds out: ``python examples/reconstruct.py photos.zip model``.

The folder then contains the report, and each model's cloud with a plan view, cameras in red.
"""

import json
import os
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

URL = os.environ.get("MATA_SERVER_URL", "http://127.0.0.1:8110")
HEADERS = {"Authorization": f"Bearer {os.environ.get('MATA_SERVER_API_KEY', '')}"}
POINT_TYPE = [(name, "<f4") for name in "xyz"] + [("rgb", "u1", 3)]


def request(path: str, archive: Path | None = None) -> bytes:
    body = archive and archive.open("rb")  # streamed: it may be larger than memory
    headers = HEADERS | {"Content-Type": "application/zip"} if body else HEADERS
    with urllib.request.urlopen(urllib.request.Request(URL + path, body, headers)) as response:
        return response.read()


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


def main(archive: str, target: str) -> None:
    job = json.loads(request("/upload", Path(archive)))["job_id"]
    status = {}
    while not status.get("finished_at"):
        time.sleep(1)
        status = json.loads(request(f"/status/{job}"))
        print(f"{status['progress']:3d} %  {status['message']}", flush=True)
    models = json.loads(request(f"/clusters/{job}"))["clusters"]
    cameras = json.loads(request(f"/download/jobs/{job}/cameras.json"))
    Path(target).mkdir(exist_ok=True)
    Path(target, "report.html").write_bytes(request(f"/jobs/{job}/report"))
    for model, camera in zip(models, cameras, strict=True):
        if model["filename"]:  # it has points
            ply = request(f"/download/jobs/{job}/{model['filename']}")
            Path(target, f"{model['name']}.ply").write_bytes(ply)
            draw(ply, camera["views"]).save(Path(target, f"{model['name']}.png"))


if len(sys.argv) != 3:
    sys.exit("usage: python examples/reconstruct.py ZIP FOLDER")
try:
    main(*sys.argv[1:])
except urllib.error.HTTPError as error:
    no_route = (detail := json.load(error)["detail"]).startswith("Not found")
    install = "no such API here: pip install ./plugins/{database,jobs,reconstruct}, restart it"
    sys.exit(f"{error.code}: {install if no_route else detail}")
except OSError as error:
    sys.exit(str(error))
