"""Draw a model's results on a picture, with supervision's annotators.

python examples/draw_supervision.py MODEL PICTURE [OUTPUT]

    python examples/draw_supervision.py opencv-qr examples/pictures/codes.jpg codes.png

The server is at MATA_SERVER_URL (default http://127.0.0.1:8110), the key is MATA_SERVER_API_KEY.
It needs supervision: pip install supervision
"""

import os
import sys

import supervision
from PIL import Image

from mataserver_client import Client, MataError, to_supervision


def main() -> None:
    """Infer, draw boxes, masks and labels, and save the picture."""
    if len(sys.argv) < 3:
        sys.exit("usage: python examples/draw_supervision.py MODEL PICTURE [OUTPUT]")
    model, picture, output = (*sys.argv[1:], "annotated.png")[:3]
    url = os.environ.get("MATA_SERVER_URL", "http://127.0.0.1:8110")
    with Client(url, os.environ.get("MATA_SERVER_API_KEY")) as client:
        result = client.infer(model, picture)
    detections = to_supervision(result)
    labels = [
        f"{name} {confidence:.2f}"
        for name, confidence in zip(
            detections.data["class_name"], detections.confidence, strict=True
        )
    ]
    scene = Image.open(picture).convert("RGB")
    scene = supervision.MaskAnnotator().annotate(scene, detections)
    scene = supervision.BoxAnnotator().annotate(scene, detections)
    scene = supervision.LabelAnnotator().annotate(scene, detections, labels)
    scene.save(output)
    print(f"{len(detections)} found, drawn into {output}")


if __name__ == "__main__":
    try:
        main()
    except MataError as error:
        sys.exit(f"{error.status}: {error}")
    except (OSError, ValueError) as error:  # no boxes in the result, or an unknown picture format
        sys.exit(str(error))
