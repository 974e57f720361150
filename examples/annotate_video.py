"""Runs a model on a video as a job: counts the detections and draws them into a new video.

    python examples/annotate_video.py opencv-qr clip.mp4 annotated.mp4

The server needs the plugins database and jobs, and may be restarted during the job. Its address is
MATA_SERVER_URL (default http://127.0.0.1:8110), the key MATA_SERVER_API_KEY.
"""

import os
import sys
import time
from pathlib import Path
from typing import Any

from mataserver_client import Client, ConnectionFailed, MataError

CHUNK_SIZE = 8_000_000
TUS_HEADERS = {"Tus-Resumable": "1.0.0"}


def upload(client: Client, path: Path) -> str:
    """Upload a file by tus 1.0, in chunks; return the upload's id."""
    headers = {**TUS_HEADERS, "Upload-Length": str(path.stat().st_size)}
    location = client.request("POST", "/v1/uploads", headers=headers).headers["Location"]
    name = location.rpartition("/")[2]
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_SIZE):
            headers = {**TUS_HEADERS, "Upload-Offset": str(file.tell() - len(chunk))}
            headers["Content-Type"] = "application/offset+octet-stream"
            client.request("PATCH", f"/v1/uploads/{name}", data=chunk, headers=headers)
    return name


def wait(client: Client, job: str) -> dict[str, Any]:
    """Print a job's progress until it has ended; return the job."""
    while True:
        try:
            status = client.request("GET", f"/v1/jobs/{job}").decode(dict[str, Any])
        except ConnectionFailed:  # the job continues when the server is started again
            status = {"progress": 0.0, "message": "no server", "finished_at": None}
        print(f"{status['progress']:3.0f}% {status['message']}", flush=True)
        if status["finished_at"] is not None:
            return status
        time.sleep(0.5)


def main(model: str, video: str, out: str) -> None:
    """Annotate a video."""
    url = os.environ.get("MATA_SERVER_URL", "http://127.0.0.1:8110")
    with Client(url, os.environ.get("MATA_SERVER_API_KEY")) as client:
        spec = {"model": model, "upload": upload(client, Path(video)), "annotate": True}
        job = client.request("POST", "/v1/jobs/infer", spec).decode(dict[str, Any])["id"]
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
except OSError as error:
    sys.exit(str(error))
except MataError as error:
    if error.detail.startswith("Not found"):
        sys.exit("404: no jobs here: pip install ./plugins/database ./plugins/jobs, restart it")
    sys.exit(f"{error.status}: {error.detail}")
