"""The main job in one run: start the server, read text, find faces and codes, stream frames, stop.

Run as ``python examples/demo.py``; everything is real: the server, the models, the pictures. The
data directory is a temporary one, the annotated pictures go to ``demo-output/``.
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

import mataserver
from mataserver_client import Client, FrameError, InferResponse

HERE = Path(__file__).resolve().parent
PICTURES = HERE / "pictures"
OUTPUT = Path("demo-output")
FRAMES = 120


def step(text: str) -> None:
    """Print one line of progress."""
    print(f"\n== {text}", flush=True)


def start_server(data_dir: str) -> tuple[subprocess.Popen[str], str]:
    """Start ``mataserver serve`` on a free port; return the process and its URL."""
    environment = {
        **os.environ,
        "MATA_SERVER_DATA_DIR": data_dir,
        "MATA_SERVER_PORT": "0",
        "MATA_SERVER_API_KEY": "demo",
        "MATA_SERVER_LOG_LEVEL": "warning",
    }
    command = [sys.executable, "-m", "mataserver", "serve"]
    server = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    for line in server.stdout:
        print("  " + line.rstrip())
        urls = [word for word in line.split() if word.startswith("http://")]
        if urls:
            return server, urls[0]
    raise SystemExit("the server did not start")


def annotate(picture: Path, result: InferResponse) -> Path:
    """Draw the results on a copy of ``picture``; return the path of the copy."""
    pixels = np.array(Image.open(picture).convert("RGB"))
    target = OUTPUT / f"{picture.stem}.png"
    Image.fromarray(mataserver.draw(pixels, result)).save(target)
    return target


def rest(client: Client) -> None:
    """Send each picture in a different way: upload, JSON, raw body."""
    step("read text (rapidocr), as a multipart upload")
    text = client.upload("rapidocr", PICTURES / "receipt.jpg")
    for region in text.regions or []:
        print(f"  {region.confidence:5.2f}  {region.text}")
    print(f"  -> {annotate(PICTURES / 'receipt.jpg', text)}")

    step("find faces (opencv-faces), as JSON with base64")
    faces = client.infer("opencv-faces", PICTURES / "astronaut.jpg", confidence=0.4)
    show("astronaut", faces)
    step("find codes (opencv-qr), as a raw image body")
    show("codes", client.infer_raw("opencv-qr", PICTURES / "codes.jpg"))


def show(name: str, result: InferResponse) -> None:
    """Print the detections of a picture and draw them."""
    for detection in result.detections or []:
        box = [round(edge) for edge in detection.bbox]
        print(f"  {detection.confidence:5.2f}  {detection.label}  {box}")
    print(f"  -> {annotate(PICTURES / f'{name}.jpg', result)}")


def frames() -> list[bytes]:
    """Return the frames of a video: the code picture sliding sideways, as JPEGs."""
    import io

    picture = Image.open(PICTURES / "codes.jpg").convert("RGB").resize((640, 240))
    encoded = []
    for number in range(FRAMES):
        canvas = Image.new("RGB", (640, 360), (30, 30, 30))
        canvas.paste(picture, (number % 60 - 30, 60))
        buffer = io.BytesIO()
        canvas.save(buffer, "JPEG", quality=90)
        encoded.append(buffer.getvalue())
    return encoded


def stream(client: Client, video: list[bytes], fps: float | None) -> None:
    """Stream the video as fast as results arrive, or at the ``fps`` of a camera."""

    def paced() -> object:
        for frame in video:
            yield frame
            if fps:
                time.sleep(1 / fps)

    started, results, dropped, errors, labels = time.perf_counter(), 0, 0, 0, set()
    window = None if fps else 1
    for item in client.stream("opencv-qr", paced(), window=window):
        if isinstance(item, FrameError):
            errors += 1
            continue
        results += 1
        dropped = item.dropped or 0
        labels.update(d.label for d in item.detections or [])
    rate = results / (time.perf_counter() - started)
    print(f"  {len(video)} frames sent, {results} results, {dropped} dropped, {errors} errors")
    print(f"  {rate:.1f} results per second; codes seen: {', '.join(sorted(labels))}")
    if errors or not labels or results + dropped != len(video):
        raise SystemExit("the stream lost frames")


def main() -> None:
    """Run the demo."""
    OUTPUT.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="mataserver-demo-") as data_dir:
        step("start the server on a free port")
        server, url = start_server(data_dir)
        try:
            with Client(url, api_key="demo") as client:
                print("  models:", ", ".join(f"{m.model} ({m.task})" for m in client.models()))
                rest(client)
                video = frames()
                step("stream video frames over WebSocket, each waiting for its turn")
                stream(client, video, fps=None)
                step("stream them like a camera of 200 frames per second: the newest frame wins")
                stream(client, video, fps=200.0)
        finally:
            step("stop the server")
            server.terminate()
            code = server.wait(timeout=30)
            print(f"  exit status {code}")
    if code != 0:
        raise SystemExit(1)
    step(f"done: look at {OUTPUT}/")


if __name__ == "__main__":
    main()
