"""Watches a camera that the server reads: prints what is found, and saves a picture with boxes.

python examples/watch_camera.py MODEL SOURCE [PICTURE]

    python examples/watch_camera.py opencv-faces rtsp://user:password@192.168.1.20/stream1 door.jpg
    python examples/watch_camera.py opencv-qr /srv/videos/shelf.mp4

The server needs `pip install ./plugins/cameras`, and `camera_hosts` or `camera_paths` that allow
the source. It is MATA_SERVER_URL (default http://127.0.0.1:8110), the key MATA_SERVER_API_KEY.
"""

import asyncio
import os
import sys
from pathlib import Path

import aiohttp

RESULTS = 20


async def refused(answer: aiohttp.ClientResponse) -> None:
    """End the program with the server's reason."""
    if not answer.ok:
        detail = (await answer.json())["detail"]
        if detail.startswith("Not found"):
            detail = "this server has no cameras: pip install ./plugins/cameras, then restart it"
        sys.exit(f"{answer.status}: {detail}")


async def watch(http: aiohttp.ClientSession, camera: str) -> None:
    """Print the results as they come; the server drops what this program is too slow for."""
    left = RESULTS
    async with http.ws_connect(f"/v1/cameras/{camera}/stream") as socket:
        async for message in socket:
            said = message.json()
            if said.get("type") == "error" and left == RESULTS:
                sys.exit(said["detail"])
            if said.get("type") == "error":
                print(said["detail"])
                continue
            found = [(each["label"], each["confidence"]) for each in said["detections"]]
            print(said["frame_id"], found, flush=True)
            left -= 1
            if not left:
                return


async def main(model: str, source: str) -> bytes:
    """Open the camera, watch it, take a picture, close it."""
    url = os.environ.get("MATA_SERVER_URL", "http://127.0.0.1:8110")
    headers = {"Authorization": f"Bearer {os.environ.get('MATA_SERVER_API_KEY', '')}"}
    async with aiohttp.ClientSession(url, headers=headers, raise_for_status=refused) as http:
        asked = {"model": model, "source": source, "fps": 10}
        async with http.post("/v1/cameras", json=asked) as answer:
            camera = (await answer.json())["camera_id"]
        try:
            await watch(http, camera)
            async with http.get(f"/v1/cameras/{camera}/picture") as answer:
                return await answer.read()
        finally:
            await http.delete(f"/v1/cameras/{camera}")


if len(sys.argv) < 3:
    sys.exit("usage: python examples/watch_camera.py MODEL SOURCE [PICTURE]")
model, source, picture = (*sys.argv[1:], "snapshot.jpg")[:3]
try:
    Path(picture).write_bytes(asyncio.run(main(model, source)))
except (aiohttp.ClientError, OSError) as error:
    sys.exit(str(error))
print("saved", picture)
