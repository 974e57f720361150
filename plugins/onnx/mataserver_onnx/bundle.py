"""The files of one model: the network and the files beside it."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from mataserver import MataError
from mataserver_onnx import graph, ir, metadata_file
from mataserver_onnx.graph import printable

if TYPE_CHECKING:
    from pathlib import Path

    from mataserver_onnx.graph import Graph

SUFFIXES = frozenset({".onnx", ".xml"})
_USUAL_NAMES = (
    "model.onnx",
    "onnx/model.onnx",
    "openvino_model.xml",
    "openvino/openvino_model.xml",
)
_MAX_JSON = 8 * 2**20


class AmbiguousNetworkError(MataError):
    """A directory with several networks, none of which has a usual name."""


@dataclass(frozen=True, slots=True)
class Bundle:
    """One model's files.

    network:   the ``.onnx`` or ``.xml`` file.
    root:      the directory of ``config.json``, ``preprocessor_config.json`` and label files.
    graph:     the description of the graph in the network's file.
    config:    the decoded ``config.json``, or empty; also with the settings of timm's processor.
    processor: the image processor's settings, from either file that holds them, or empty.
    has_foreign_metadata: whether the ``metadata.yaml`` beside it is another program's, and unread.
    """

    network: Path
    root: Path
    graph: Graph
    config: dict[str, Any]
    processor: dict[str, Any]
    has_foreign_metadata: bool = False


def open_bundle(path: Path, wanted: str = "") -> Bundle:
    """Read the model at ``path``, a file or a directory; ``wanted`` names a file in it.

    Raises ``MataError`` when there is no network, several, or an incomplete one.
    """
    network = find_network(path, wanted)
    root = path if path.is_dir() else path.parent
    found = read_graph(network)
    metadata = metadata_file.read(network.parent) if network.suffix == ".xml" else found.metadata
    found = replace(found, metadata=metadata or {})
    config, processor = _json(root / "config.json"), image_settings(root)
    if isinstance(processor.get("pretrained_cfg"), dict):  # transformers' processor for timm
        config, processor = config | {"pretrained_cfg": processor["pretrained_cfg"]}, {}
    return Bundle(
        network=network,
        root=root,
        graph=found,
        config=config,
        processor=processor,
        has_foreign_metadata=metadata is None,
    )


def image_settings(root: Path) -> dict[str, Any]:
    """Return the settings of the image processor of the directory ``root``; empty without any.

    transformers writes them into ``processor_config.json`` with those of the whole processor, or
    into ``preprocessor_config.json``, and looks for them in this order. Raises ``MataError``.
    """
    nested = _json(root / "processor_config.json").get("image_processor")
    return nested if isinstance(nested, dict) else _json(root / "preprocessor_config.json")


def find_network(path: Path, wanted: str = "") -> Path:
    """Return the file of the network at ``path``, a file or a directory.

    In a directory it is ``wanted``, or the one with a usual name, or the only one. Raises
    ``MataError`` where there is none and ``AmbiguousNetworkError`` where there are several.
    """
    if not path.is_dir():
        return path
    if wanted:
        if PurePosixPath(wanted).is_absolute() or ".." in PurePosixPath(wanted).parts:
            raise MataError("plugins.onnx: file must be a path inside the model's directory")
        chosen = path / wanted
        if not chosen.is_file():
            raise MataError(f"the model's directory has no file {wanted}")
        return chosen
    for name in _USUAL_NAMES:
        if (path / name).is_file():
            return path / name
    return _only_network(path)


def networks(path: Path) -> list[Path]:
    """Return the networks of a directory: ONNX files, or else OpenVINO's with their weights."""
    found = sorted(file for pattern in ("*.onnx", "onnx/*.onnx") for file in path.glob(pattern))
    return found or sorted(
        file
        for pattern in ("*.xml", "openvino/*.xml")
        for file in path.glob(pattern)
        if file.with_suffix(".bin").is_file()
    )


def _only_network(path: Path) -> Path:
    found = networks(path)
    if not found:
        raise MataError("the model's directory holds no .onnx file, and no .xml with its .bin")
    if len(found) > 1:
        names = ", ".join(printable(str(file.relative_to(path)), 100) for file in found[:6])
        raise AmbiguousNetworkError(
            "the model's directory holds several networks: name one of them under "
            f"plugins.onnx.models as file ({names})"
        )
    return found[0]


def read_graph(network: Path) -> Graph:
    """Read the graph of a file. Raises ``MataError`` for an incomplete one."""
    try:
        found = ir.read(network) if network.suffix == ".xml" else graph.read(network)
    except OSError as error:
        raise MataError(f"the model cannot be read: {error.strerror}") from error
    for name, least in sorted(found.external.items()):
        _check_weights(network.parent, name, least)
    return found


def _check_weights(directory: Path, name: str, least: int) -> None:
    """Check that the weights file ``name`` exists and has at least ``least`` bytes."""
    place = PurePosixPath(name)
    if not name or place.is_absolute() or ".." in place.parts:
        raise MataError("the model refers to weights outside its directory")
    file = directory / name
    if not os.path.isfile(file):  # noqa: PTH113 - unlike Path, it raises for no name
        raise MataError(
            f"the file {printable(name, 100)} with the model's weights is missing beside it"
        )
    if file.stat().st_size < least:
        raise MataError(f"the file {printable(name, 100)} with the model's weights is not whole")


def _json(file: Path) -> dict[str, Any]:
    """Decode a JSON object; a missing file is an empty one. Raises ``MataError``."""
    try:
        if not file.is_file():
            return {}
        with file.open("rb") as stream:
            content = stream.read(_MAX_JSON + 1)
        decoded = json.loads(content) if len(content) <= _MAX_JSON else None
    except (OSError, ValueError, RecursionError) as error:
        raise MataError(f"the model's {file.name} cannot be read") from error
    if not isinstance(decoded, dict):
        raise MataError(f"the model's {file.name} is not a JSON object")
    return decoded
