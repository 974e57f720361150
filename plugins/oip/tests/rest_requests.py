"""Requests of the inference protocol over REST, and what is answered."""

from __future__ import annotations

import base64
import json

from api_answers import no_leak
from conftest import picture

PNG = picture()
TEXT = base64.b64encode(PNG).decode()
IMAGE = {"name": "image", "datatype": "BYTES", "shape": [1], "data": [TEXT]}
INFER = "/v2/models/fake-detect/infer"
LENGTH = "Inference-Header-Content-Length"


def body(asked, *parts):
    """Return body and headers of a request with binary data."""
    text = json.dumps(asked).encode()
    return {"data": b"".join((text, *parts)), "headers": {LENGTH: str(len(text))}}


def binary(size, name="image", datatype="BYTES", shape=(1,)):
    """Return an input whose data are binary."""
    parameters = {"binary_data_size": size}
    return {"name": name, "datatype": datatype, "shape": [*shape], "parameters": parameters}


async def refused(http, status, path=INFER, method="POST", **request):
    """Ask for what must be refused; return the sentence."""
    async with http.request(method, path, **request) as response:
        answer = await response.json()
        assert response.status == status, answer
        assert response.content_type == "application/json"
        assert response.headers["X-Request-Id"]
    assert list(answer) == ["error"]
    no_leak(answer["error"])
    return answer["error"]


async def infer(http, asked, path=INFER):
    """Infer with JSON alone; return the decoded answer."""
    async with http.post(path, json=asked) as response:
        answer = await response.json()
        assert response.status == 200, answer
        return answer


def values(answer):
    """Return the data of each output of a JSON answer."""
    return {each["name"]: each["data"] for each in answer["outputs"]}
