"""Segment objects by text or by a point; write a picture with the masks.

    python examples/sam_image.py photo.jpg found.png "red car" 0.5,0.5

Texts and points (x,y in 0..1 of the image) may be mixed. The server needs a model for its SAM3
API: start it with ``SAM3_CHECKPOINT=/path/to/sam3``, or set ``plugins.sam.model``. Its address is
MATA_SERVER_URL (default http://127.0.0.1:8110), the key MATA_SERVER_API_KEY.
"""

import base64
import json
import os
import re
import sys
import urllib.error
import urllib.request
from pathlib import Path

URL = os.environ.get("MATA_SERVER_URL", "http://127.0.0.1:8110")
KEY = os.environ.get("MATA_SERVER_API_KEY", "")
THRESHOLD = float(os.environ.get("CONFIDENCE", "0.5"))


def request(path: str, body: object = None) -> bytes:
    """Return the server's response; an error ends the program with its message."""
    data = None if body is None else json.dumps(body).encode()
    headers = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}
    http_request = urllib.request.Request(URL + path, data=data, headers=headers)
    try:
        with urllib.request.urlopen(http_request) as response:
            return response.read()
    except urllib.error.HTTPError as error:
        detail = json.load(error)["detail"]
        if detail.startswith("Not found"):
            detail = "this server has no SAM3 API: pip install ./plugins/sam, then start it again"
        sys.exit(f"{error.code}: {detail}")


def parse_prompt(word: str) -> dict[str, object]:
    """Return a point prompt for "x,y", and a text prompt for anything else."""
    if re.fullmatch(r"[\d.]+,[\d.]+", word):
        return {"type": "point", "points": [[float(number) for number in word.split(",")]]}
    return {"type": "text", "text": word}


def main(photo: str, target: str, *words: str) -> None:
    body = {
        "image": base64.b64encode(Path(photo).read_bytes()).decode(),
        "prompts": [parse_prompt(word) for word in words],
        "confidence_threshold": THRESHOLD,
        "return_visualization": True,
    }
    result = json.loads(request("/api/v1/image/segment", body))
    for label, score, box in zip(result["labels"], result["scores"], result["boxes"], strict=True):
        print(f"{score:.2f} {label} {[round(number, 3) for number in box]}")
    Path(target).write_bytes(request(result["visualization_url"]))
    print(f"{result['num_masks']} masks in {result['inference_time_ms']:.0f} ms, drawn in {target}")


if __name__ == "__main__":
    if len(sys.argv) < 4:
        sys.exit("usage: python examples/sam_image.py PICTURE OUTPUT PROMPT ...")
    try:
        main(*sys.argv[1:])
    except OSError as error:
        sys.exit(str(error))
