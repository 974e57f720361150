"""ONNX files of a few bytes: ``y = x + number``."""

from __future__ import annotations

from onnx import TensorProto, helper


def adding(number, shape=("n", 3), kind=TensorProto.FLOAT):
    """Return the bytes of a model."""
    node = helper.make_node("Add", ["x", "number"], ["y"])
    dims = None if shape is None else list(shape)
    graph = helper.make_graph(
        [node],
        "adding",
        [
            helper.make_tensor_value_info("x", kind, dims),
            helper.make_tensor_value_info("number", kind, [1]),
        ],
        [helper.make_tensor_value_info("y", kind, dims)],
        [helper.make_tensor("number", kind, [1], [number])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    return model.SerializeToString()
