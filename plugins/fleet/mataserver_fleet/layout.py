"""Where the files of an upload belong: by their names, which may carry a path."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mataserver import BadRequest
from mataserver_fleet import schema
from mataserver_fleet.onnx_signature import config_of
from mataserver_fleet.shared_path import NOTE

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from mataserver import Upload

MAX_PATH_BYTES, MAX_DEPTH = 255, 8
MAX_PART_BYTES = 240
"""Bytes of a part of a path: while a file is written it has a longer name."""
_VERSION = re.compile(r"[1-9][0-9]{0,8}")
_NUMBER = re.compile(r"[+-]?[0-9]+")
_RESERVED_NAMES = frozenset({schema.NAME, NOTE})
_PART = re.compile(r"(?!\..*\.new\Z)[^/\\]+")
ONNX = "model.onnx"
_CODE_FIELDS = ("runtime", "model_operations", "model_repository_agents", "cc_model_filenames")
_CODE_PARAMETERS = re.compile(
    r"EXECUTION_ENV_PATH|.*(LIBRARY|EXTENSION|PLUGIN).*|.*_SO|(.*_)?LIBS?(_.*)?", re.IGNORECASE
)
_CODE_FILES = re.compile(r".*\.(so(\.\d+)*|py|pyc|pyd)", re.IGNORECASE)
_OTHER_CONFIG = re.compile(r"configs/.*\.pbtxt", re.IGNORECASE)
"""What a Triton that is started with a name of configurations takes instead of config.pbtxt."""
_PLATFORMS = {
    "onnxruntime_onnx": "onnxruntime",
    "tensorrt_plan": "tensorrt",
    "pytorch_libtorch": "pytorch",
}


@dataclass(frozen=True)
class Layout:
    """The files of a model's upload.

    config:   what ``config.pbtxt`` says, None without one.
    common:   files of all versions, by their path in the model's folder.
    versions: files of each version, by their path in the version's folder.
    """

    config: dict[str, Any] | None
    common: Mapping[str, Path]
    versions: Mapping[int, Mapping[str, Path]]


def layout_of(model: str, files: Sequence[Upload], default_version: int) -> Layout:
    """Sort files by their names; one without a folder is of the version ``default_version``.

    A folder that is called like the model may stand before all of it. Raises ``BadRequest``.
    """
    placed: dict[tuple[str, ...], Path] = {}
    for each in files:
        parts = parts_of(each.name)
        parts = parts[1:] if len(parts) > 1 and parts[0] == model else parts
        if parts in placed:
            raise BadRequest(f"{each.name[:64]!r} is given twice")
        placed[parts] = each.path
    config = _config(placed.pop((schema.NAME,), None))
    labels = {each.get("label_filename") for each in (config or {}).get("output", ())}
    common: dict[str, Path] = {}
    versions: dict[int, dict[str, Path]] = {}
    for parts, path in placed.items():
        if len(parts) > 1 and _VERSION.fullmatch(parts[0]):
            versions.setdefault(int(parts[0]), {})["/".join(parts[1:])] = path
        elif len(parts) > 1 or parts[0] in labels:
            common["/".join(parts)] = path
        else:
            versions.setdefault(default_version, {})[parts[0]] = path
    _check_common(common)
    for paths in (common, *versions.values()):
        _check_tree(paths)
    return Layout(config, common, versions)


def parts_of(name: str) -> tuple[str, ...]:
    """Return the parts of a relative path. Raises ``BadRequest`` for one that leads elsewhere.

    So it does for one that does not look like what it is.
    """
    parts = tuple(name.split("/"))
    sound = name.isprintable() and all(map(_is_sound, parts))
    if not sound or len(name.encode()) > MAX_PATH_BYTES or len(parts) > MAX_DEPTH:
        raise BadRequest(f"{name[:64]!a}: a file's name must be a path below the model's folder")
    return parts


def _is_sound(part: str) -> bool:
    """Whether a part of a path is the name of a file or a folder, and none of a file in the making.

    A space at an end of it is not seen.
    """
    plain = _PART.fullmatch(part) is not None and part not in {".", ".."}
    return plain and part == part.strip() and len(part.encode()) <= MAX_PART_BYTES


def _check_common(paths: Iterable[str]) -> None:
    """Raise ``BadRequest`` for files of all versions in the place of what a Triton looks for."""
    for path in paths:
        first, _, rest = path.partition("/")
        if first in _RESERVED_NAMES:
            raise BadRequest(f"{first!r} is the server's own name")
        if _NUMBER.fullmatch(first) and rest:
            raise BadRequest(
                f"{first[:64]!r} is not a version: a version is a number from 1 to 999999999"
            )
        if _NUMBER.fullmatch(first):
            raise BadRequest(f"{first[:64]!r} has the name of a version")


def _check_tree(paths: Mapping[str, Path]) -> None:
    """Raise ``BadRequest`` for paths of which one would be a file and a folder."""
    for path in paths:
        above = path
        while above := above.rpartition("/")[0]:
            if above in paths:
                raise BadRequest(f"{above[:64]!r} is a file and a folder")


def complete_config(model: str, layout: Layout, known: dict[str, Any] | None) -> dict[str, Any]:
    """Return the configuration of an upload: its own, else a ``known`` one, else one of its ONNX.

    Raises ``BadRequest`` for the name of another model, and where there is none.
    """
    config = layout.config or known or _derive_config(model, layout)
    if config.get("name", model) != model:
        raise BadRequest(f"{schema.NAME}: it is of {config['name'][:64]!r}, and not of {model}")
    return {**config, "name": model}


def backend_of(config: dict[str, Any]) -> str:
    """Return the backend that a configuration asks for, or an empty text."""
    return config.get("backend") or _PLATFORMS.get(config.get("platform", ""), "")


def check_paths_inside(config: dict[str, Any]) -> None:
    """Raise ``BadRequest`` for a configuration that names a file outside the model's folder."""
    for where, path in _paths(config):
        try:
            parts_of(path)
        except BadRequest:
            raise BadRequest(f"{schema.NAME}: {where} leads out of the model's folder") from None


def check_no_code(config: dict[str, Any], files: Iterable[str]) -> None:
    """Raise ``BadRequest`` for what could make a Triton run the uploader's own code."""
    for field in _CODE_FIELDS:
        if config.get(field):
            raise BadRequest(f"{schema.NAME}: {field} is not allowed here")
    for key in _parameters(config):
        if _CODE_PARAMETERS.fullmatch(key):
            raise BadRequest(f"{schema.NAME}: the parameter {key[:64]} is not allowed here")
    for name in files:
        if _OTHER_CONFIG.fullmatch(name):
            raise BadRequest(f"{name[:64]!r}: another configuration is not allowed here")
        if _CODE_FILES.fullmatch(name):
            raise BadRequest(f"{name[:64]!r}: files of code are not allowed here")


def _config(path: Path | None) -> dict[str, Any] | None:
    if path is None:
        return None
    from mataserver_fleet import pbtxt  # brings protobuf, which only pushes need

    with path.open("rb") as file:
        return pbtxt.read(file.read(schema.MAX_BYTES + 1))


def _derive_config(model: str, layout: Layout) -> dict[str, Any]:
    for _, files in sorted(layout.versions.items(), reverse=True):
        if ONNX in files:
            return config_of(files[ONNX], model)
    raise BadRequest(f"{schema.NAME} is missing; it can only be derived for a {ONNX}")


def _parameters(config: Any) -> Iterator[str]:
    """Yield the name of each parameter, wherever in a configuration it stands."""
    if isinstance(config, list):
        for each in config:
            yield from _parameters(each)
    elif isinstance(config, dict):
        for name, value in config.items():
            if name == "parameters" and isinstance(value, dict):
                yield from value
            yield from _parameters(value)


def _paths(config: Any, where: str = "") -> Iterator[tuple[str, str]]:
    """Yield each field of a configuration that names a file."""
    if isinstance(config, list):
        for each in config:
            yield from _paths(each, where)
    elif isinstance(config, dict):
        for name, value in config.items():
            if isinstance(value, str) and value and name.endswith(("filename", "_file")):
                yield name, value
            else:
                yield from _paths(value, name)
