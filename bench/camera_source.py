"""Cameras for ``bench/cameras.py``: ``python bench/camera_source.py VIDEO`` sends one over HTTP."""

from __future__ import annotations

import contextlib
import http.server
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import av
import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

WIDTH, HEIGHT, RATE, SECONDS, LOOPS = 1920, 1080, 25, 20, 9
"""The video lasts for three minutes: it is encoded once and repeated, and ends for no reader."""
PICTURE = Path(__file__).parents[1] / "examples" / "pictures" / "astronaut.jpg"


def scene() -> Iterator[NDArray[np.uint8]]:
    """Yield what a camera sees: a still room, noise of the sensor, things that move."""
    photo = Image.open(PICTURE).convert("RGB").resize((WIDTH, WIDTH))
    ground, rng = np.asarray(photo)[:HEIGHT].astype(np.int16), np.random.default_rng(7)
    noise = (rng.normal(0, 2, (HEIGHT, WIDTH, 1)).astype(np.int16) for _ in range(8))
    still = [np.clip(ground + grain, 0, 255).astype(np.uint8) for grain in noise]
    moving = still[0][300:600, 600:900]
    for number in range(SECONDS * RATE):
        pixels = still[number % len(still)].copy()
        for row in range(3):
            left = number * (6 + 4 * row) % (WIDTH - 300)
            pixels[row * 350 :][:300, left : left + 300] = moving
        yield pixels


def film(path: Path) -> None:
    """Write a video as cameras send it: no frame refers to a later one, a key frame every 2 s."""
    options = {"preset": "superfast", "bf": "0", "g": str(2 * RATE), "sc_threshold": "0"}
    with av.open(str(path), "w", format="mpegts") as container:
        stream = container.add_stream("libx264", rate=RATE, options=options)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.bit_rate = 4_000_000
        for pixels in scene():
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels)))
        container.mux(stream.encode(None))


def loop(path: Path, looped: Path) -> None:
    """Write a video over and over, with timestamps that go on."""
    with av.open(str(looped), "w", format="mpegts") as target:
        written = None
        for round_ in range(LOOPS):
            with av.open(str(path)) as source:
                stream = source.streams.video[0]
                written = written or target.add_stream_from_template(stream)
                assert stream.time_base is not None
                shift = int(round_ * SECONDS / stream.time_base)
                for packet in source.demux(stream):
                    if packet.pts is None or packet.dts is None:
                        continue
                    packet.pts, packet.dts = packet.pts + shift, packet.dts + shift
                    packet.stream = written
                    target.mux(packet)


def make(path: Path) -> None:
    """Write the whole video."""
    with tempfile.TemporaryDirectory() as folder:
        once = Path(folder, "once.ts")
        film(once)
        loop(once, path)


def play(path: str) -> None:
    """Send a video over HTTP at its own speed, to each client from its beginning."""
    data = Path(path).read_bytes()
    with av.open(path) as container:
        starts = [packet.pos for packet in container.demux(video=0) if packet.pos is not None]
    parts = list(pairwise([0, *starts[1:], len(data)]))

    class Camera(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "video/mp2t")
            self.end_headers()
            begun = time.monotonic()
            with contextlib.suppress(OSError):
                for number, (start, end) in enumerate(parts):
                    time.sleep(max(0.0, begun + number / RATE - time.monotonic()))
                    self.wfile.write(data[start:end])

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Camera)
    print(f"http://127.0.0.1:{server.server_port}/camera.ts", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    play(sys.argv[1])
