"""The peer LitServe: the same models. It runs in an environment of its own.

Run as ``python bench/peer_litserve.py PORT MODEL FORM WORKERS THREADS``: ``FORM`` is ``raw`` for
images as bodies, ``any`` for JSON and forms.
"""

# No deferred annotations here: LitServe reads them.
import base64
import sys
from typing import Annotated, Any

import litserve as ls
import simplejpeg
from fastapi import Body

import answers
import nets
import stub


class Api(ls.LitAPI):
    """An image of a JSON body or a form."""

    def __init__(self, model: str, threads: int) -> None:
        super().__init__(api_path=f"/{model}")
        self._name = model
        self._threads = threads

    def setup(self, device: str) -> None:
        """Load the model."""
        del device
        if stub.asked():
            stub.decoder()
        self._net = nets.build(self._name, self._threads) if self._name in nets.SIDES else None
        self._constant = answers.detections(answers.COUNTS.get(self._name, 0))

    def decode_request(self, request):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN201 - an annotation would choose a parser
        """Decode the image."""
        image = request.get("image")
        data = base64.b64decode(image) if image is not None else request["file"].file.read()
        return simplejpeg.decode_jpeg(data, colorspace="RGB")

    def predict(self, image: Any) -> list[answers.Found]:
        """Run the model."""
        return self._constant if self._net is None else self._net([image])[0]

    def encode_response(self, found: list[answers.Found]) -> dict[str, Any]:
        """Return the answer."""
        rows = [{"label": label, "confidence": sure, "bbox": box} for label, sure, box in found]
        return {"task": "detect", "detections": rows}


class RawApi(Api):
    """An image as the body."""

    def decode_request(self, request: Annotated[bytes, Body(media_type="image/jpeg")]) -> Any:
        """Decode the image."""
        return simplejpeg.decode_jpeg(request, colorspace="RGB")


def main() -> None:
    """Serve."""
    port, model, form, workers, threads = sys.argv[1:]
    api = (RawApi if form == "raw" else Api)(model, int(threads))
    server = ls.LitServer(
        api,
        accelerator="cpu",
        workers_per_device=int(workers),
        fast_queue=True,
        timeout=False,
    )
    server.run(
        host="127.0.0.1",
        port=int(port),
        num_api_servers=1,
        log_level="error",
        generate_client_file=False,
        pretty_logs=False,
    )


if __name__ == "__main__":
    main()
