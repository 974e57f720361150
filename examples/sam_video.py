"""Track objects by text, or the object under a point; write the video with the objects tinted.

    python examples/sam_video.py street.mp4 tracked.mp4 "red car"

A point is x,y in 0..1 of the first frame. Needs aiohttp, av, numpy, Pillow, and at MATA_SERVER_URL
with the key MATA_SERVER_API_KEY a server for the SAM3 API: SAM3_CHECKPOINT=/path mataserver serve
"""

import asyncio
import base64
import io
import os
import re
import sys
from pathlib import Path

import aiohttp
import av
import numpy as np
from PIL import Image

URL = os.environ.get("MATA_SERVER_URL", "http://127.0.0.1:8110")
HEADERS = {"Authorization": f"Bearer {os.environ.get('MATA_SERVER_API_KEY', '')}"}
COLOURS = np.random.default_rng(3).integers(60, 256, (256, 3), dtype=np.uint8)


async def exit_on_error(response: aiohttp.ClientResponse) -> None:
    if not response.ok:
        detail = (await response.json())["detail"]
        if detail.startswith("Not found"):
            detail = "this server has no SAM3 API: pip install ./plugins/sam, then start it again"
        sys.exit(f"{response.status}: {detail}")


def tint(image: np.ndarray, tracked: dict) -> None:
    mask = np.asarray(Image.open(io.BytesIO(base64.b64decode(tracked["mask"])))) > 0
    image[mask] = image[mask] // 2 + COLOURS[tracked["id"] % 256] // 2


async def main(video: bytes, target: str, word: str) -> None:
    prompt = {"type": "text", "text": word}
    if re.fullmatch(r"[\d.]+,[\d.]+", word):
        prompt = {"type": "point", "points": [[float(number) for number in word.split(",")]]}
    async with aiohttp.ClientSession(URL, headers=HEADERS, raise_for_status=exit_on_error) as http:
        body = {"video_base64": base64.b64encode(video).decode()}
        started = await (await http.post("/api/v1/video/session/start", json=body)).json()
        session, fps = started["session_id"], round(started["video_info"]["fps"])
        session_url = f"/api/v1/video/session/{session}"
        await http.post(f"{session_url}/prompt", json={"frame_index": 0, "prompts": [prompt]})
        with av.open(io.BytesIO(video)) as reader, av.open(target, "w") as writer:
            stream = writer.add_stream("libx264", rate=fps, pix_fmt="yuv420p")
            stream.width, stream.height = started["video_info"]["resolution"].values()
            async with http.ws_connect(f"/api/v1/video/ws/propagate/{session}") as socket:
                await socket.send_json({"direction": "forward", "mask_format": "png"})
                for frame in reader.decode(video=0):
                    objects = (await socket.receive_json())["objects"]
                    image = frame.to_ndarray(format="rgb24")
                    for tracked in objects:
                        tint(image, tracked)
                    print(frame.time, [tracked["id"] for tracked in objects])
                    writer.mux(stream.encode(av.VideoFrame.from_ndarray(image)))
            writer.mux(stream.encode(None))
        await http.delete(session_url)


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit("usage: python examples/sam_video.py VIDEO OUTPUT PROMPT")
    try:
        asyncio.run(main(Path(sys.argv[1]).read_bytes(), *sys.argv[2:]))
    except (aiohttp.ClientError, OSError) as error:
        sys.exit(str(error))
