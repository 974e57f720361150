"""Reads an ONNX file's description: inputs, outputs, metadata, and the files of its weights.

An ONNX file is a protocol buffer (onnx.proto of the ONNX project); only its outermost fields are
read, by the wire format's own rules, and tensors are skipped. So the server can distinguish a
detector from a classifier in milliseconds, without a runtime and without loading a weight.
"""

from __future__ import annotations

import mmap
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING

from mataserver import MataError
from mataserver_onnx.constants import constant, scalar
from mataserver_onnx.ends import MAX_INPUTS, Operator, trace
from mataserver_onnx.protobuf import Message, TooManyFieldsError, message_of, number_of

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

Dim = int | str
"""A dimension of a tensor: its length, or a name (perhaps empty) for any length."""

FLOAT, INT32, FLOAT16 = 1, 6, 10
WHOLE_NUMBERS = frozenset({2, 3, 4, 5, 6, 7, 9, 12, 13})
"""Numbers of ``TensorProto.DataType``."""

MAX_OUTPUTS = 1024
"""Maximum outputs, each of which is traced back; a large language model has some 200."""
_EXTERNAL = 1
_FIRST_NEGATIVE = 2**63
"""Of the 64 bits of an integer, those from here on are a negative one."""
_NOT_ONNX = "the file is not an ONNX model, or not the whole of one"
_TOO_MANY = "the file describes more nodes, weights or ports than a network has"


@dataclass(frozen=True, slots=True)
class Port:
    """An input or output: its name, its dimensions and the number of its element type."""

    name: str
    dims: tuple[Dim, ...]
    kind: int = FLOAT

    def __str__(self) -> str:
        """Return it as ``name [1, 84, ?]``."""
        sides = ", ".join(str(side) if isinstance(side, int) else "?" for side in self.dims)
        return f"{printable(self.name)} [{sides}]"


@dataclass(frozen=True, slots=True)
class Graph:
    """A network as its file describes it.

    inputs, outputs: in the file's order, without weights.
    metadata:        the exporter's key-value entries.
    opset:           the version of ONNX's own operators; 0 where there is none (OpenVINO).
    ends:            the kinds of the operators that produce each output, traced back: see ``ends``.
    external:        the files beside it that hold weights, by the name in the graph, each with its
                     minimum size in bytes.
    """

    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    metadata: dict[str, str] = field(default_factory=dict)
    opset: int = 0
    ends: dict[str, tuple[str, ...]] = field(default_factory=dict)
    external: dict[str, int] = field(default_factory=dict)

    def output(self, name: str) -> Port | None:
        """Return an output by its name."""
        return next((port for port in self.outputs if port.name == name), None)


def printable(text: str, most: int = 40) -> str:
    """Return the beginning of a file's text for a message, which is one line."""
    return "".join(each if each.isprintable() else "?" for each in text[:most])


def read(path: Path) -> Graph:
    """Read an ONNX file; unchanged files are cached.

    Raises ``MataError`` for a file that is not an ONNX model.
    """
    status = path.stat()
    found = _read(path, status.st_mtime_ns, status.st_size)
    if isinstance(found, str):
        raise MataError(found)
    return found


@lru_cache(maxsize=64)
def _read(path: Path, _changed: int, size: int) -> Graph | str:
    """Return a file's graph or, kept as well since each task asks again, what is wrong with it."""
    if not size:
        return "the file is empty"
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        try:
            return _model(Message.whole(content))
        except TooManyFieldsError:
            return _TOO_MANY
        except (ValueError, IndexError):
            return _NOT_ONNX


def _model(model: Message) -> Graph:
    """Read ``ModelProto``."""
    parts: Graph | None = None
    metadata: dict[str, str] = {}
    opset = 0
    for number, value in model.fields():
        if number == 7:
            parts = _graph(message_of(value))
        elif number == 8:
            domain, version = _operators(message_of(value))
            opset = version if domain in {"", "ai.onnx"} else opset
        elif number == 14:
            key, text = _pair(message_of(value))
            metadata[key] = text
    if parts is None or not parts.inputs or not parts.outputs:
        raise ValueError("no graph with inputs and outputs")
    return Graph(parts.inputs, parts.outputs, metadata, opset, parts.ends, parts.external)


def _graph(graph: Message) -> Graph:
    """Read ``GraphProto``."""
    weights: set[str] = set()
    external: dict[str, int] = {}
    inputs: list[Port] = []
    outputs: list[Port] = []
    producers: dict[str, Operator] = {}
    scalars: dict[str, float] = {}
    for number, value in graph.fields():
        if number == 1:
            made = _node(message_of(value))
            producers.update(made)
            if any(each.kind == "Constant" for each in made.values()):
                scalars.update(_known(made, constant(message_of(value))))
        elif number == 5:
            name, place, end = _tensor(message_of(value))
            weights.add(name)
            scalars.update(_known([name], scalar(message_of(value))))
            if place is not None:
                external[place] = max(end, external.get(place, 0))
        elif number == 11:
            inputs.append(_port(message_of(value)))
        elif number == 12:
            outputs.append(_port(message_of(value)))
    if len(outputs) > MAX_OUTPUTS:
        raise TooManyFieldsError
    given = tuple(port for port in inputs if port.name not in weights)
    ends = {port.name: trace(port.name, producers.get, scalars) for port in outputs}
    return Graph(given, tuple(outputs), ends=ends, external=external)


def _known(names: Iterable[str], value: float | None) -> dict[str, float]:
    return {} if value is None else dict.fromkeys(names, value)


def _node(node: Message) -> dict[str, Operator]:
    """Return the outputs of a ``NodeProto``, each with the operator that produces it."""
    inputs, outputs, kind = [], [], ""
    for number, value in node.fields():
        if number == 1:
            inputs.append(message_of(value).text())
        elif number == 2:
            outputs.append(message_of(value).text())
        elif number == 4:
            kind = message_of(value).text()
    return dict.fromkeys(outputs, Operator(kind, tuple(inputs[:MAX_INPUTS])))


def _tensor(tensor: Message) -> tuple[str, str | None, int]:
    """Return the name of a ``TensorProto``, the file of its values, and the end offset in that."""
    name, elsewhere = "", False
    notes: dict[str, str] = {}
    for number, value in tensor.fields():
        if number == 8:
            name = message_of(value).text()
        elif number == 13:
            key, text = _pair(message_of(value))
            notes[key] = text
        elif number == 14:
            elsewhere = number_of(value) == _EXTERNAL
    if not elsewhere:
        return name, None, 0
    end = int(notes.get("offset", "0")) + int(notes.get("length", "0"))
    return name, notes.get("location", ""), end


def _port(info: Message) -> Port:
    """Read ``ValueInfoProto``; a value that is not a tensor has no dimensions."""
    name, kind = "", 0
    dims: tuple[Dim, ...] = ()
    for number, value in info.fields():
        if number == 1:
            name = message_of(value).text()
        elif number == 2:
            for tensor in message_of(value).messages(1):
                kind, dims = _tensor_type(tensor)
    return Port(name, dims, kind)


def _tensor_type(tensor: Message) -> tuple[int, tuple[Dim, ...]]:
    kind = 0
    dims: tuple[Dim, ...] = ()
    for number, value in tensor.fields():
        if number == 1:
            kind = number_of(value)
        elif number == 2:
            dims = tuple(_dim(dim) for dim in message_of(value).messages(1))
    return kind, dims


def _dim(dim: Message) -> Dim:
    """Return a dimension; some exporters write -1 for any length, as 64 bits without a sign."""
    for number, value in dim.fields():
        if number == 1:
            side = number_of(value)
            return side if side < _FIRST_NEGATIVE else ""
        if number == 2:
            return message_of(value).text()
    return ""


def _operators(opset: Message) -> tuple[str, int]:
    """Read ``OperatorSetIdProto``."""
    domain, version = "", 0
    for number, value in opset.fields():
        if number == 1:
            domain = message_of(value).text()
        elif number == 2:
            version = number_of(value)
    return domain, version


def _pair(entry: Message) -> tuple[str, str]:
    """Read ``StringStringEntryProto``."""
    texts = {number: message_of(value).text() for number, value in entry.fields()}
    return texts.get(1, ""), texts.get(2, "")
