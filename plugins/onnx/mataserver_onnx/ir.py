"""What an OpenVINO model (IR: an ``.xml`` file and the weights in a ``.bin``) says of itself."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

from mataserver import MataError
from mataserver_onnx.graph import FLOAT, FLOAT16, Graph, Port

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from mataserver_onnx.graph import Dim

_KINDS = {"FP32": FLOAT, "FP16": FLOAT16}
_MAX_BYTES = 256 * 2**20
_NOT_IR = "the file is not an OpenVINO model, or not the whole of one"


def read(path: Path) -> Graph:
    """Read the graph of an ``.xml`` file; one that has not changed is read once.

    Raises ``MataError`` for a file that is no OpenVINO model.
    """
    status = path.stat()
    if status.st_size > _MAX_BYTES:
        raise MataError("the file is too large for the description of a model")
    return _read(path, status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=64)
def _read(path: Path, _changed: int, _size: int) -> Graph:
    inputs: list[Port] = []
    outputs: list[Port] = []
    makers: dict[str, str] = {}
    kinds: dict[str, str] = {}
    ends: dict[str, str] = {}
    try:
        for element in _elements(path):
            if element.tag == "edge":
                maker = kinds.get(element.get("from-layer", ""), "")
                makers[ends.get(element.get("to-layer", ""), "")] = maker
                continue
            number, kind = element.get("id", ""), element.get("type", "")
            kinds[number] = kind
            if kind == "Parameter":
                inputs.append(_port(element, _names(element)))
            elif kind == "Result":
                outputs.append(_port(element, element.get("output_names", "")))
                ends[number] = outputs[-1].name
    except (ET.ParseError, ValueError) as error:
        raise MataError(_NOT_IR) from error
    if not inputs or not outputs:
        raise MataError(_NOT_IR)
    made = {port.name: makers.get(port.name, "") for port in outputs}
    weights = {path.with_suffix(".bin").name: 0}
    return Graph(tuple(inputs), tuple(outputs), makers=made, external=weights)


def _elements(path: Path) -> Iterator[ET.Element]:
    """Yield the layers, then the edges, and forget each."""
    # expat itself bounds what entities may grow to, and resolves none from outside.
    for _, element in ET.iterparse(path):  # noqa: S314 - no more than the runtime itself will parse
        if element.tag in {"layer", "edge"}:
            yield element
            element.clear()


def _names(layer: ET.Element) -> str:
    port = layer.find(".//port")
    return layer.get("name", "") if port is None else port.get("names", layer.get("name", ""))


def _port(layer: ET.Element, names: str) -> Port:
    """Read a layer's only port; a side of -1 has any length."""
    port = layer.find(".//port")
    if port is None:
        raise ValueError("a layer without a port")
    sides = [int(side.text or "") for side in port.findall("dim")]
    dims: tuple[Dim, ...] = tuple("" if side < 0 else side for side in sides)
    return Port(names.partition(",")[0], dims, _KINDS.get(port.get("precision", ""), 0))
