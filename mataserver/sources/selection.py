"""Selection of a repository's files: weights in one format, and no documentation."""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

import msgspec

from mataserver.sources.cache import WEIGHTS

if TYPE_CHECKING:
    from collections.abc import Iterable

# Folders with the same weights for other runtimes, or in the authors' original format.
_FOREIGN_FOLDERS = frozenset({"onnx", "openvino", "coreml", "original", "runs", "tflite"})
_FOREIGN = re.compile(
    r".*\.(h5|msgpack|ot|onnx|onnx_data.*|gguf|ggml|tflite|mlmodel|mlpackage|pb|engine)"
    r"|(tf_model|flax_model|rust_model|openvino_model).*"
)
# Training leftovers, code (which is never run), and pictures of the model card.
_NEVER = re.compile(
    r"(optimizer|scheduler|scaler|rng_state.*|trainer_state|training_args)\.(pt|pth|bin|json)"
    r"|events\.out\.tfevents.*|\.git.*"
    r"|.*\.(py|ipynb|png|jpe?g|gif|webp|svg|mp4|mov|avi|pdf|zip|tar|gz|whl|sh)",
    re.IGNORECASE,
)
_VARIANT = re.compile(r".*\.(fp16|bf16|fp32|fp8|int8|non_ema)(-\d{5}-of-\d{5})?\.[a-z]+")


class RepoFile(msgspec.Struct, frozen=True):
    """A file of a repository.

    name: its path in the repository; size in bytes; blob: the name of its content in the cache;
    sha256: the hash of its content, known for large files only.
    """

    name: str
    size: int
    blob: str
    sha256: str | None = None


def select(files: Iterable[RepoFile]) -> list[RepoFile]:
    """Return the files that a framework loads from.

    A folder's weights are taken as safetensors; pickles (``.bin`` and the like) only if there are
    none; ``fp16`` and other variants only if there is nothing else. Other runtimes' formats are
    included only if the repository has no other weights.
    """
    wanted = [file for file in files if not _NEVER.fullmatch(PurePosixPath(file.name).name)]
    native = [file for file in wanted if not _is_foreign(file.name)]
    if not any(_is_weight(file.name) for file in native):
        return wanted
    folders: dict[str, list[RepoFile]] = defaultdict(list)
    for file in native:
        folders[str(PurePosixPath(file.name).parent)].append(file)
    return [file for folder in folders.values() for file in _one_format(folder)]


def has_weights(files: Iterable[RepoFile]) -> bool:
    """Whether any of the files contains weights, in any format."""
    return any(_is_weight(file.name) for file in files)


def _one_format(folder: list[RepoFile]) -> list[RepoFile]:
    weights = [file for file in folder if _is_weight(file.name)]
    rest = [file for file in folder if not _is_weight(file.name)]
    plain = [file for file in weights if not _VARIANT.fullmatch(file.name)] or weights
    safe = [file for file in plain if file.name.endswith(".safetensors")] or plain
    models = [file for file in safe if not PurePosixPath(file.name).name.startswith("consolidated")]
    return rest + (models or safe)


def _is_weight(name: str) -> bool:
    return PurePosixPath(name).suffix in WEIGHTS


def _is_foreign(name: str) -> bool:
    path = PurePosixPath(name)
    return not _FOREIGN_FOLDERS.isdisjoint(path.parts[:-1]) or bool(_FOREIGN.fullmatch(path.name))
