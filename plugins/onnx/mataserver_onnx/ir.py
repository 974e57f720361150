"""Reads the description of an OpenVINO model (IR: an ``.xml`` file and a ``.bin`` of weights)."""

from __future__ import annotations

import heapq
from functools import lru_cache
from typing import TYPE_CHECKING
from xml.parsers import expat

from mataserver import MataError
from mataserver_onnx.ends import MAX_INPUTS, Operator, trace
from mataserver_onnx.graph import FLOAT, FLOAT16, MAX_OUTPUTS, Graph, Port

if TYPE_CHECKING:
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
_MAX_BYTES = 32 * 2**20
_MAX_ELEMENTS = 2_000_000
_MAX_KEPT = 100_000
"""Layers and edges, which stay in memory; those of a large language model are some 20,000."""
_MAX_DEPTH = 256
_MAX_DIGITS = 20
_LAYER, _EDGE = ["net", "layers", "layer"], ["net", "edges", "edge"]
"""Where the network's own layers and edges are; those of a loop's body lie deeper."""
_NOT_IR = "the file is not an OpenVINO model, or not the whole of one"


def read(path: Path) -> Graph:
    """Read the graph of an ``.xml`` file; unchanged files are cached.

    Raises ``MataError`` for a file that is not an OpenVINO model.
    """
    status = path.stat()
    if status.st_size > _MAX_BYTES:
        raise MataError("the file is too large for the description of a model")
    found = _read(path, status.st_mtime_ns, status.st_size)
    if found is None:
        raise MataError(_NOT_IR)
    return found


@lru_cache(maxsize=64)
def _read(path: Path, _changed: int, _size: int) -> Graph | None:
    """Return a file's graph; None, kept as well since each task asks, for one that has none."""
    found = _Description()
    try:
        # At once: expat reads a token that is not complete again with each further piece.
        found.parser().Parse(path.read_bytes(), True)  # noqa: FBT003 - it takes no name
    except (expat.ExpatError, ValueError):
        return None
    inputs, outputs = (
        {number: port for number, port in found.ports.items() if found.kinds[number] == kind}
        for kind in ("Parameter", "Result")
    )
    if not inputs or not 0 < len(outputs) <= MAX_OUTPUTS:
        return None
    made = found.operators()
    # A result passes on what its only input holds.
    ends = {
        port.name: trace(made[number].inputs[0] if number in made else "", made.get)
        for number, port in outputs.items()
    }
    return Graph(
        tuple(inputs.values()),
        tuple(outputs.values()),
        ends=ends,
        external={path.with_suffix(".bin").name: 0},
    )


class _Description:
    """Collects the layers and edges from the events of a parser.

    The file may be a stranger's, and the server reads it: no tree of its elements is kept, and the
    handlers raise ``ValueError`` for entities, which can stand for any amount of text, and for more
    elements than a network has.

    kinds:  each layer's type, by its number.
    ports:  the port of each ``Parameter`` and ``Result``.
    before: the layer that each of a layer's inputs comes from.
    """

    def __init__(self) -> None:
        """Begin with nothing."""
        self.kinds: dict[str, str] = {}
        self.ports: dict[str, Port] = {}
        self.before: dict[str, dict[int, str]] = {}
        self._path: list[str] = []
        self._elements = self._kept = 0
        self._layer: dict[str, str] | None = None  # the layer that is read, if its port is needed
        self._port: dict[str, str] | None = None
        self._dims: list[int] = []
        self._text: str | None = None

    def parser(self) -> expat.XMLParserType:
        """Return a parser that reports to this object."""
        made = expat.ParserCreate()
        made.buffer_text = True
        made.StartDoctypeDeclHandler = _refuse_document_type
        made.StartElementHandler = self._start
        made.EndElementHandler = self._end
        made.CharacterDataHandler = self._characters
        return made

    def operators(self) -> dict[str, Operator]:
        """Return the layers that have inputs, by number; an input is the layer that it is of."""
        return {
            number: Operator(
                self.kinds.get(number, ""),
                tuple(ports[port] for port in heapq.nsmallest(MAX_INPUTS, ports)),
            )
            for number, ports in self.before.items()
        }

    def _start(self, tag: str, given: dict[str, str]) -> None:
        self._elements += 1
        self._path.append(tag)
        if self._elements > _MAX_ELEMENTS or len(self._path) > _MAX_DEPTH:
            raise ValueError("more elements than a network has")
        if self._path in (_EDGE, _LAYER):
            self._kept += 1
            if self._kept > _MAX_KEPT:
                raise ValueError("more layers and edges than a network has")
        if self._path == _EDGE:
            to = self.before.setdefault(given.get("to-layer", ""), {})
            to[int(given.get("to-port", "0"))] = given.get("from-layer", "")
        elif self._path == _LAYER:
            kind = self.kinds[given.get("id", "")] = given.get("type", "")
            if kind in {"Parameter", "Result"}:
                self._layer, self._port, self._dims = given, None, []
        elif self._layer is not None and tag == "port" and self._port is None:
            self._port = given
        elif self._port is not None and tag == "dim":
            self._text = ""

    def _characters(self, text: str) -> None:
        if self._text is not None:
            self._text += text
            if len(self._text) > _MAX_DIGITS:
                raise ValueError("a longer number than a dimension has")

    def _end(self, tag: str) -> None:
        if self._text is not None and tag == "dim":
            self._dims.append(int(self._text))
            self._text = None
        elif self._layer is not None and self._path == _LAYER:
            self.ports[self._layer.get("id", "")] = _port(self._layer, self._port, self._dims)
            self._layer = self._port = None
        self._path.pop()


def _refuse_document_type(*_: object) -> None:
    raise ValueError("a document type, which may define entities")


def _port(layer: dict[str, str], port: dict[str, str] | None, sides: list[int]) -> Port:
    """Return a layer's only port; a dimension of -1 has any length."""
    if port is None:
        raise ValueError("a layer without a port")
    names = layer.get("output_names") or port.get("names") or layer.get("name") or ""
    dims: tuple[Dim, ...] = tuple("" if side < 0 else side for side in sides)
    return Port(names.partition(",")[0], dims, _KINDS.get(port.get("precision", ""), 0))
