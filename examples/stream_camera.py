"""Runs a model on a camera or a video file: draws the detections into a new video.

python examples/stream_camera.py MODEL SOURCE [OUTPUT]

    python examples/stream_camera.py opencv-faces 0 faces.mp4    # camera 0, until Ctrl-C
    python examples/stream_camera.py opencv-qr shelf.mp4         # every frame of a file

The server is at MATA_SERVER_URL (default http://127.0.0.1:8110), the key is MATA_SERVER_API_KEY.
"""

import contextlib
import os
import sys
from collections.abc import Iterator

import cv2

from mataserver_client import Client, FrameError, InferResponse, MataError

RED = (40, 40, 255)
pending: dict[int, cv2.typing.MatLike] = {}


def frames(capture: cv2.VideoCapture) -> Iterator[bytes]:
    """Yield the frames as JPEGs, and keep each until its result arrives."""
    number = 0
    while (read := capture.read())[0]:
        pending[number], number = read[1], number + 1
        yield cv2.imencode(".jpg", read[1])[1].tobytes()


def annotate(result: InferResponse) -> cv2.typing.MatLike:
    """Return a result's frame with its boxes; discard older frames, which were dropped."""
    for number in sorted(pending):
        if number <= result.frame_id:
            frame = pending.pop(number)
    for detection in result.detections or []:
        x1, y1, x2, y2 = map(round, detection.bbox)
        cv2.rectangle(frame, (x1, y1), (x2, y2), RED, 2)
        at = (x1, max(12, y1 - 4))
        cv2.putText(frame, detection.label, at, cv2.FONT_HERSHEY_PLAIN, 1, RED)
    return frame


if len(sys.argv) < 3:
    sys.exit("usage: python examples/stream_camera.py MODEL SOURCE [OUTPUT]")
model, source, target = (*sys.argv[1:], "annotated.mp4")[:3]
live = source.isdecimal()
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
capture = cv2.VideoCapture(min(int(source), 9999) if live else source)
if not capture.isOpened():
    sys.exit(f"{source}: no such {'camera' if live else 'video'}, or it cannot be read")
size = [int(capture.get(each)) for each in (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT)]
writer = cv2.VideoWriter(target, cv2.VideoWriter.fourcc(*"mp4v"), 15, size)
url = os.environ.get("MATA_SERVER_URL", "http://127.0.0.1:8110")
key = os.environ.get("MATA_SERVER_API_KEY")
try:
    with Client(url, key) as client, contextlib.suppress(KeyboardInterrupt):
        for item in client.stream(model, frames(capture), window=None if live else 2):
            if isinstance(item, FrameError):
                print(f"frame {item.frame_id}: {item.detail}")
            else:
                print(item.frame_id, *(each.label for each in item.detections or []), flush=True)
                writer.write(annotate(item))
except MataError as error:
    sys.exit(f"{error.status}: {error}")
finally:
    writer.release()
if not live and not capture.get(cv2.CAP_PROP_POS_FRAMES):
    sys.exit(f"{source}: not one frame of it could be read")
