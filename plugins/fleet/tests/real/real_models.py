"""Models of a real Triton that its clients can ask for everything: tensors, streams, sequences."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

sys.path[:0] = [str(Path(__file__).resolve().parents[1])]

from onnx_files import adding  # noqa: E402

SAME = """
import triton_python_backend_utils as pb


class TritonPythonModel:
    def execute(self, requests):
        return [self.one(each) for each in requests]

    def one(self, request):
        given = {each.name(): each for each in request.inputs()}
        wanted = [each for each in request.requested_output_names() if each[5:] in given]
        return pb.InferenceResponse([pb.Tensor(n, given[n[5:]].as_numpy()) for n in wanted])
"""
SPELLS = """
import numpy as np
import triton_python_backend_utils as pb


class TritonPythonModel:
    def execute(self, requests):
        for request in requests:
            word = pb.get_input_tensor_by_name(request, "word").as_numpy()[0]
            sender = request.get_response_sender()
            for letter in word.decode():
                answer = pb.Tensor("letter", np.array([letter.encode()], dtype=object))
                sender.send(pb.InferenceResponse([answer]))
            sender.send(flags=pb.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
"""
SUMS = """
import numpy as np
import triton_python_backend_utils as pb


class TritonPythonModel:
    def initialize(self, args):
        self.sums = {}

    def execute(self, requests):
        return [self.one(each) for each in requests]

    def one(self, request):
        def of(name):
            return pb.get_input_tensor_by_name(request, name).as_numpy().ravel()[0]

        before = 0 if of("START") else self.sums[int(of("CORRID"))]
        self.sums[int(of("CORRID"))] = now = before + int(of("value"))
        return pb.InferenceResponse([pb.Tensor("sum", np.array([[now]], dtype=np.int32))])
"""
KINDS = {
    "bool": "BOOL", "u8": "UINT8", "i16": "INT16", "i64": "INT64", "u64": "UINT64", "f16": "FP16",
    "f32": "FP32", "f64": "FP64", "text": "STRING",
}  # fmt: skip
"""The inputs of the model that gives back what it is given, with their types."""


def _same_config():
    inputs = "".join(
        f'input {{ name: "{name}" data_type: TYPE_{kind} dims: [-1] optional: true }}'
        f'output {{ name: "same_{name}" data_type: TYPE_{kind} dims: [-1] }}'
        for name, kind in KINDS.items()
    )
    return f'backend: "python" {inputs}'


_SPELLS_CONFIG = """
backend: "python" model_transaction_policy { decoupled: true }
input { name: "word" data_type: TYPE_STRING dims: [1] }
output { name: "letter" data_type: TYPE_STRING dims: [1] }
"""
_SUMS_CONFIG = """
backend: "python" max_batch_size: 1
sequence_batching { max_sequence_idle_microseconds: 60000000 control_input [
  { name: "START" control [{ kind: CONTROL_SEQUENCE_START int32_false_true: [0, 1] }] },
  { name: "CORRID" control [{ kind: CONTROL_SEQUENCE_CORRID data_type: TYPE_UINT64 }] }
] }
input { name: "value" data_type: TYPE_INT32 dims: [1] }
output { name: "sum" data_type: TYPE_INT32 dims: [1] }
"""
_ADDS_CONFIG = """
backend: "onnxruntime"
input { name: "x" data_type: TYPE_FP32 dims: [-1, 3] }
output { name: "y" data_type: TYPE_FP32 dims: [-1, 3] }
"""
MODELS = {
    "adds": {"config.pbtxt": _ADDS_CONFIG, "1/model.onnx": adding(1)},
    "same": {"config.pbtxt": _same_config(), "1/model.py": SAME},
    "spells": {"config.pbtxt": _SPELLS_CONFIG, "1/model.py": SPELLS},
    "sums": {"config.pbtxt": _SUMS_CONFIG, "1/model.py": SUMS},
}
GIVEN = {
    "bool": np.array([True, False]),
    "u8": np.array([0, 255], np.uint8),
    "i16": np.array([-(2**15)], np.int16),
    "i64": np.array([2**62, -1], np.int64),
    "u64": np.array([2**64 - 1], np.uint64),
    "f16": np.array([0.5, np.inf], np.float16),
    "f32": np.array([1.1, np.nan, -0.0], np.float32),
    "f64": np.array([np.pi], np.float64),
    "text": np.array([b"", "ä".encode(), b"\x00\xff"], dtype=object),
}
TYPES = {name: kind.replace("STRING", "BYTES") for name, kind in KINDS.items()}
