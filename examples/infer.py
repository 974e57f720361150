"""Run one model on one picture with the Python client.

python examples/infer.py MODEL PICTURE [NAME=VALUE ...]

    python examples/infer.py opencv-qr examples/pictures/codes.jpg confidence=0.6

The server is at MATA_SERVER_URL (default http://127.0.0.1:8110), the key is MATA_SERVER_API_KEY.
"""

import json
import os
import sys

from mataserver_client import Client, MataError


def parse_value(text: str) -> object:
    """Parse a parameter as JSON; other text stays a string."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def main() -> None:
    """Infer and print the results."""
    if len(sys.argv) < 3:
        sys.exit("usage: python examples/infer.py MODEL PICTURE [NAME=VALUE ...]")
    model, picture, *rest = sys.argv[1:]
    params = {name: parse_value(text) for name, _, text in (each.partition("=") for each in rest)}
    url = os.environ.get("MATA_SERVER_URL", "http://127.0.0.1:8110")
    with Client(url, os.environ.get("MATA_SERVER_API_KEY")) as client:
        result = client.infer(model, picture, **params)
    for detection in result.detections or []:
        box = [round(edge) for edge in detection.bbox]
        print(f"{detection.confidence:.2f} {detection.label} {box}")
    for classification in result.classifications or []:
        print(f"{classification.confidence:.2f} {classification.label}")
    if result.text:
        print(result.text)


if __name__ == "__main__":
    try:
        main()
    except MataError as error:
        sys.exit(f"{error.status}: {error}")
    except OSError as error:
        sys.exit(str(error))
