"""The model of the peer Triton: decodes the image, and answers the same as everybody's."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import simplejpeg
import triton_python_backend_utils as backend

import answers
import stub


class TritonPythonModel:
    """Triton asks for this name."""

    def initialize(self, _options: Any) -> None:
        """Load the model."""
        if stub.asked():
            stub.decoder()
        self._found = answers.detections(answers.COUNTS["noop"])

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answer requests."""
        return [self._answer(each) for each in requests]

    def _answer(self, request: Any) -> Any:
        image = backend.get_input_tensor_by_name(request, "image").as_numpy()
        simplejpeg.decode_jpeg(image, colorspace="RGB")
        rows = [{"label": label, "confidence": s, "bbox": box} for label, s, box in self._found]
        text = json.dumps({"task": "detect", "detections": rows}).encode()
        answer = backend.Tensor("answer", np.array([text], np.object_))
        return backend.InferenceResponse([answer])
