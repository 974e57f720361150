"""Reads scalar constants of a graph, such as the second operand of a Mul."""

from __future__ import annotations

import struct

from mataserver_onnx.protobuf import Message, number_of

_CODES = {1: "<f", 6: "<i", 7: "<q", 10: "<e", 11: "<d"}
"""The ``struct`` format of each ``TensorProto.DataType`` that probabilities are scaled by."""
_IN_BYTES, _FLOATS, _DOUBLES = 9, 4, 10
"""The fields of a ``TensorProto`` that may hold its numbers."""
_MAX_BYTES = 8


def scalar(tensor: Message) -> float | None:
    """Return the only number of a ``TensorProto``; None if it has more, or an external one."""
    kind, data = 0, b""
    for number, value in tensor.fields():
        if number == 2:
            kind = number_of(value)
        elif number in {_IN_BYTES, _FLOATS, _DOUBLES} and isinstance(value, Message):
            data = (data + value.bytes(_MAX_BYTES + 1))[: _MAX_BYTES + 1]
    code = _CODES.get(kind, "")
    if not code or len(data) != struct.calcsize(code):
        return None
    return float(struct.unpack(code, data)[0])


def constant(node: Message) -> float | None:
    """Return the number of a ``NodeProto`` of kind Constant, if it is a scalar."""
    for attribute in node.messages(5):
        for tensor in attribute.messages(5):
            return scalar(tensor)
    return None
