"""A video through a model as a job: what was found is counted, and drawn into a new video.

    python examples/annotate_video.py opencv-qr clip.mp4 annotated.mp4

The server needs the plugins database and jobs, and may be stopped and started meanwhile. It is
MATA_SERVER_URL (default http://127.0.0.1:8110), the key MATA_SERVER_API_KEY.
"""

import os
import sys
import time
from pathlib import Path
from typing import Any

from mataserver.errors import MataError
from mataserver_client import Client, ConnectionFailed

PART = 8_000_000
TUS = {"Tus-Resumable": "1.0.0"}


def send(client: Client, path: Path) -> str:
    """Upload a file by tus 1.0, in parts; return the upload's id."""
    begin = {**TUS, "Upload-Length": str(path.stat().st_size)}
    place = client.request("POST", "/v1/uploads", headers=begin).headers["Location"]
    upload = place.rpartition("/")[2]
    with path.open("rb") as file:
        while part := file.read(PART):
            where = {**TUS, "Upload-Offset": str(file.tell() - len(part))}
            kind = {"Content-Type": "application/offset+octet-stream"}
            client.request("PATCH", f"/v1/uploads/{upload}", data=part, headers=where | kind)
    return upload


def wait(client: Client, job: str) -> dict[str, Any]:
    """Tell how far a job is until it has ended; return it."""
    while True:
        try:
            shown = client.request("GET", f"/v1/jobs/{job}").decode(dict[str, Any])
        except ConnectionFailed:  # the job goes on with the next start of the server
            shown = {"progress": 0.0, "message": "no server", "finished_at": None}
        print(f"{shown['progress']:3.0f}% {shown['message']}", flush=True)
        if shown["finished_at"] is not None:
            return shown
        time.sleep(0.5)


def main(model: str, video: str, out: str) -> None:
    """Have a video annotated."""
    url = os.environ.get("MATA_SERVER_URL", "http://127.0.0.1:8110")
    with Client(url, os.environ.get("MATA_SERVER_API_KEY")) as client:
        asked = {"model": model, "upload": send(client, Path(video)), "annotate": True}
        job = client.request("POST", "/v1/jobs/infer", asked).decode(dict[str, Any])["id"]
        ended = wait(client, job)
        if ended["state"] != "done":
            sys.exit(ended["error"])
        for label, count in ended["result"]["labels"].items():
            print(f"{count:6} {label}")
        Path(out).write_bytes(client.request("GET", f"/v1/jobs/{job}/files/annotated.mp4").body)
        client.request("DELETE", f"/v1/jobs/{job}")


if len(sys.argv) < 3:
    sys.exit("usage: python examples/annotate_video.py MODEL VIDEO [OUT]")
try:
    main(*(*sys.argv[1:], "annotated.mp4")[:3])
except OSError as failed:
    sys.exit(str(failed))
except MataError as failed:
    if failed.detail.startswith("Not found"):
        sys.exit("404: no jobs here: pip install ./plugins/database ./plugins/jobs, restart it")
    sys.exit(f"{failed.status}: {failed.detail}")
