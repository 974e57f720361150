"""Runs a model on a video as a job: counts what it finds and draws it into annotated.mp4.

    python examples/annotate_video.py opencv-qr clip.mp4 results

The server needs the plugins database and jobs, and may be restarted during the job. Its address is
MATA_SERVER_URL (default http://127.0.0.1:8110), the key MATA_SERVER_API_KEY.
"""

import os
import sys
from pathlib import Path

from mataserver_client import Client, MataError


def main(model: str, video: str, folder: str) -> None:
    """Annotate a video."""
    url = os.environ.get("MATA_SERVER_URL", "http://127.0.0.1:8110")
    with Client(url, os.environ.get("MATA_SERVER_API_KEY")) as client:
        upload = client.send_file(video, lambda sent, size: print(f"{100 * sent // size}% sent"))
        job_id = client.create_job("infer", model=model, upload=upload, annotate=True)
        for job in client.follow_job(job_id):
            print(f"{job.progress:3.0f}% {job.message}", flush=True)
        if job.state != "done":
            sys.exit(job.error)
        for label, count in job.result["labels"].items():
            print(f"{count:6} {label}")
        client.download_job(job_id, folder, "annotated.mp4")
        client.delete_job(job_id)


if len(sys.argv) < 3:
    sys.exit("usage: python examples/annotate_video.py MODEL VIDEO [FOLDER]")
if len(sys.argv) > 3 and Path(sys.argv[3]).suffix == ".mp4":
    sys.exit(f"{sys.argv[3]}: must be the folder for annotated.mp4, not a file")
try:
    main(*(*sys.argv[1:], ".")[:3])
except OSError as error:
    sys.exit(str(error))
except MataError as error:
    if error.detail.startswith("Not found"):
        sys.exit("404: no jobs here: pip install ./plugins/database ./plugins/jobs, restart it")
    sys.exit(f"{error.status}: {error.detail}")
