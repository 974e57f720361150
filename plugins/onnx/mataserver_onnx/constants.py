"""Single numbers that a graph holds: what an operator such as Mul is given beside its values."""

from __future__ import annotations

import struct

from mataserver_onnx.protobuf import Message, number_of

_CODES = {1: "<f", 6: "<i", 7: "<q", 10: "<e", 11: "<d"}
"""How ``struct`` reads a number of each ``TensorProto.DataType`` that may stand beside shares."""
_IN_BYTES, _FLOATS, _DOUBLES = 9, 4, 10
"""The fields of a ``TensorProto`` that may hold its numbers."""
_LONGEST = 8


def scalar(tensor: Message) -> float | None:
    """Return the only number of a ``TensorProto``; None where it has more, or one elsewhere."""
    kind, data = 0, b""
    for number, value in tensor.fields():
        if number == 2:
            kind = number_of(value)
        elif number in {_IN_BYTES, _FLOATS, _DOUBLES} and isinstance(value, Message):
            data += value.bytes(_LONGEST + 1)
    code = _CODES.get(kind, "")
    if not code or len(data) != struct.calcsize(code):
        return None
    return float(struct.unpack(code, data)[0])


def constant(node: Message) -> float | None:
    """Return the number that a ``NodeProto`` of the kind Constant gives, if it is a single one."""
    for attribute in node.messages(5):
        for tensor in attribute.messages(5):
            return scalar(tensor)
    return None
