"""Photographs in, point clouds out: ``python examples/reconstruct.py photos.zip model``.

The folder then has the report, and each model's cloud with a picture from above, cameras in red.
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
KEY = {"Authorization": f"Bearer {os.environ.get('MATA_SERVER_API_KEY', '')}"}
POINT = [(name, "<f4") for name in "xyz"] + [("rgb", "u1", 3)]


def ask(path: str, archive: Path | None = None) -> bytes:
    body = archive and archive.open("rb")  # sent as it is read: it may be larger than memory
    headers = KEY | {"Content-Type": "application/zip"} if body else KEY
    with urllib.request.urlopen(urllib.request.Request(URL + path, body, headers)) as answer:
        return answer.read()


def draw(ply: bytes, views: list[dict[str, list[list[float]]]]) -> Image.Image:
    points = np.sort(np.frombuffer(ply.partition(b"end_header\n")[2], POINT), order="z")
    turns, shifts = (np.array([v[n] for v in views]) for n in ("rotation", "translation"))
    centres = -np.einsum("nji,nj->ni", turns, shifts)[:, :2]  # a camera's place is -R'T
    flat = np.r_[np.c_[points["x"], points["y"]], centres] * [1, -1]
    at = (flat - flat.min(axis=0)) * 800 / np.ptp(flat, axis=0).max() + 50
    picture = Image.new("RGB", tuple((at.max(axis=0) + 50).astype(int)), "white")
    pen = ImageDraw.Draw(picture)
    for (x, y), colour in zip(at, points["rgb"].tolist(), strict=False):
        pen.rectangle((x - 1, y - 1, x + 1, y + 1), tuple(colour))
    for (x, y), (ahead, aside) in zip(at[len(points) :], turns[:, 2, :2], strict=True):
        pen.line((x, y, x + 30 * ahead, y - 30 * aside), "red", 2)
        pen.ellipse((x - 4, y - 4, x + 4, y + 4), "red")
    return picture


def main(archive: str, target: str) -> None:
    job = json.loads(ask("/upload", Path(archive)))["job_id"]
    status = {}
    while not status.get("finished_at"):
        time.sleep(1)
        status = json.loads(ask(f"/status/{job}"))
        print(f"{status['progress']:3d} %  {status['message']}", flush=True)
    models = json.loads(ask(f"/clusters/{job}"))["clusters"]
    cameras = json.loads(ask(f"/download/jobs/{job}/cameras.json"))
    Path(target).mkdir(exist_ok=True)
    Path(target, "report.html").write_bytes(ask(f"/jobs/{job}/report"))
    for model, seen in zip(models, cameras, strict=True):
        if model["filename"]:  # it has points
            ply = ask(f"/download/jobs/{job}/{model['filename']}")
            Path(target, f"{model['name']}.ply").write_bytes(ply)
            draw(ply, seen["views"]).save(Path(target, f"{model['name']}.png"))


if len(sys.argv) != 3:
    sys.exit("usage: python examples/reconstruct.py ZIP FOLDER")
try:
    main(*sys.argv[1:])
except urllib.error.HTTPError as error:
    lost = (detail := json.load(error)["detail"]).startswith("Not found")
    install = "no such API here: pip install ./plugins/{database,jobs,reconstruct}, restart it"
    sys.exit(f"{error.code}: {install if lost else detail}")
except OSError as error:
    sys.exit(str(error))
