"""Reads the description of an OpenVINO model (IR: an ``.xml`` file and a ``.bin`` of weights)."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

from mataserver import MataError
from mataserver_onnx.ends import Operator, trace
from mataserver_onnx.graph import FLOAT, FLOAT16, Graph, Port

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from mataserver_onnx.graph import Dim

_KINDS = {
    "FP32": FLOAT,
    "FP16": FLOAT16,
    "U8": 2,
    "I8": 3,
    "U16": 4,
    "I16": 5,
    "I32": 6,
    "I64": 7,
    "BOOL": 9,
    "U32": 12,
    "U64": 13,
}
"""Numbers of ``TensorProto.DataType`` by OpenVINO's names."""
_MAX_BYTES = 256 * 2**20
_NOT_IR = "the file is not an OpenVINO model, or not the whole of one"


def read(path: Path) -> Graph:
    """Read the graph of an ``.xml`` file; unchanged files are cached.

    Raises ``MataError`` for a file that is not an OpenVINO model.
    """
    status = path.stat()
    if status.st_size > _MAX_BYTES:
        raise MataError("the file is too large for the description of a model")
    return _read(path, status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=64)
def _read(path: Path, _changed: int, _size: int) -> Graph:
    kinds: dict[str, str] = {}
    ports: dict[str, Port] = {}
    before: dict[str, dict[int, str]] = {}
    try:
        for element in _elements(path):
            if element.tag == "edge":
                to = before.setdefault(element.get("to-layer", ""), {})
                to[int(element.get("to-port", "0"))] = element.get("from-layer", "")
                continue
            number = element.get("id", "")
            kinds[number] = element.get("type", "")
            if kinds[number] in {"Parameter", "Result"}:
                ports[number] = _port(element)
    except (ET.ParseError, ValueError) as error:
        raise MataError(_NOT_IR) from error
    inputs, outputs = (
        {number: port for number, port in ports.items() if kinds[number] == kind}
        for kind in ("Parameter", "Result")
    )
    if not inputs or not outputs:
        raise MataError(_NOT_IR)
    return Graph(
        tuple(inputs.values()),
        tuple(outputs.values()),
        ends={port.name: _end(number, kinds, before) for number, port in outputs.items()},
        external={path.with_suffix(".bin").name: 0},
    )


def _end(result: str, kinds: dict[str, str], before: dict[str, dict[int, str]]) -> tuple[str, ...]:
    """Return the kinds of the layers that produce a result, traced back from it."""

    def producer(number: str) -> Operator | None:
        ports = before.get(number, {})
        inputs = tuple(ports[port] for port in sorted(ports))
        return Operator(kinds.get(number, ""), inputs) if inputs else None

    [first, *_] = before.get(result, {0: ""}).values()
    return trace(first, producer)


def _elements(path: Path) -> Iterator[ET.Element]:
    """Yield the layers, then the edges, and release each."""
    # expat itself limits the expansion of entities, and resolves no external ones.
    for _, element in ET.iterparse(path):  # noqa: S314 - no more than the runtime itself will parse
        if element.tag in {"layer", "edge"}:
            yield element
            element.clear()


def _port(layer: ET.Element) -> Port:
    """Read a layer's only port; a dimension of -1 has any length."""
    port = layer.find(".//port")
    if port is None:
        raise ValueError("a layer without a port")
    names = layer.get("output_names") or port.get("names") or layer.get("name") or ""
    sides = [int(side.text or "") for side in port.findall("dim")]
    dims: tuple[Dim, ...] = tuple("" if side < 0 else side for side in sides)
    return Port(names.partition(",")[0], dims, _KINDS.get(port.get("precision", ""), 0))
