"""Watches a camera that the server reads: prints detections, and saves a picture with boxes.

python examples/watch_camera.py MODEL SOURCE [PICTURE]

    python examples/watch_camera.py opencv-faces rtsp://user:pass@camera.example/stream1 door.jpg
    python examples/watch_camera.py opencv-qr /srv/videos/shelf.mp4

The server needs `pip install ./plugins/cameras`, and `camera_hosts` or `camera_paths` that allow
the source. It is MATA_SERVER_URL (default http://127.0.0.1:8110), the key MATA_SERVER_API_KEY.
"""

import asyncio
import os
import sys
from pathlib import Path

import aiohttp

MAX_RESULTS = 20


async def exit_on_error(response: aiohttp.ClientResponse) -> None:
    """End the program with the server's message."""
    if not response.ok:
        detail = (await response.json())["detail"]
        if detail.startswith("Not found"):
            detail = "this server has no cameras: pip install ./plugins/cameras, then restart it"
        sys.exit(f"{response.status}: {detail}")


async def watch(http: aiohttp.ClientSession, camera: str) -> None:
    """Print the results as they arrive; the server drops frames if this program is too slow."""
    remaining = MAX_RESULTS
    async with http.ws_connect(f"/v1/cameras/{camera}/stream") as socket:
        async for message in socket:
            result = message.json()
            if result.get("type") == "error" and remaining == MAX_RESULTS:
                sys.exit(result["detail"])
            if result.get("type") == "error":
                print(result["detail"])
                continue
            detections = [(each["label"], each["confidence"]) for each in result["detections"]]
            print(result["frame_id"], detections, flush=True)
            remaining -= 1
            if not remaining:
                return


async def main(model: str, source: str) -> bytes:
    """Open the camera, watch it, take a picture, close it."""
    url = os.environ.get("MATA_SERVER_URL", "http://127.0.0.1:8110")
    headers = {"Authorization": f"Bearer {os.environ.get('MATA_SERVER_API_KEY', '')}"}
    async with aiohttp.ClientSession(url, headers=headers, raise_for_status=exit_on_error) as http:
        spec = {"model": model, "source": source, "fps": 10}
        async with http.post("/v1/cameras", json=spec) as response:
            camera = (await response.json())["camera_id"]
        try:
            await watch(http, camera)
            async with http.get(f"/v1/cameras/{camera}/picture") as response:
                return await response.read()
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
