"""One picture through one model with the Python client.

python examples/infer.py MODEL PICTURE [NAME=VALUE ...]

    python examples/infer.py opencv-qr examples/pictures/codes.jpg confidence=0.6

The server is MATA_SERVER_URL (default http://127.0.0.1:8110), the key MATA_SERVER_API_KEY.
"""

import json
import os
import sys

from mataserver_client import Client, MataError


def value(text: str) -> object:
    """Read a parameter as JSON, or as the text that it is."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def main() -> None:
    """Infer and print what was found."""
    if len(sys.argv) < 3:
        sys.exit("usage: python examples/infer.py MODEL PICTURE [NAME=VALUE ...]")
    model, picture, *rest = sys.argv[1:]
    params = {name: value(text) for name, _, text in (each.partition("=") for each in rest)}
    url = os.environ.get("MATA_SERVER_URL", "http://127.0.0.1:8110")
    with Client(url, os.environ.get("MATA_SERVER_API_KEY")) as client:
        answer = client.infer(model, picture, **params)
    for found in answer.detections or []:
        print(f"{found.confidence:.2f} {found.label} {[round(edge) for edge in found.bbox]}")
    for guess in answer.classifications or []:
        print(f"{guess.confidence:.2f} {guess.label}")
    if answer.text:
        print(answer.text)


if __name__ == "__main__":
    try:
        main()
    except MataError as error:
        sys.exit(f"{error.status}: {error}")
    except OSError as error:
        sys.exit(str(error))
