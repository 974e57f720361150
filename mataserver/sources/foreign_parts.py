"""Refuses a checkpoint for transformers whose settings name what does not lie in its directory.

transformers would look for it elsewhere on this machine or on the hub, or run it. Other libraries
mean other things by these settings, so a plugin calls this for what transformers opens.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mataserver.errors import MataError

if TYPE_CHECKING:
    from collections.abc import Iterator

_ADAPTER = "adapter_config.json"
_IMPLEMENTATIONS = ("attn_implementation", "_attn_implementation", "experts_implementation")
"""What computes a part of the network: a repository of the hub brings code for it."""


def check_parts(path: Path, name: str = "the checkpoint") -> None:
    """Raise ``MataError``, which names it ``name``, for such a checkpoint in a directory ``path``.

    Settings that cannot be read are left to transformers, which reports them.
    """
    if (path / _ADAPTER).is_file():
        raise MataError(
            f"{name} is an adapter for another checkpoint ({_ADAPTER}), which this server does not "
            "load: merge it into that one's weights"
        )
    config, tokenizer = (_read(path / each) for each in ("config.json", "tokenizer_config.json"))
    for settings in _objects(config):
        named = settings.get("backbone")
        if isinstance(named, str) and {*"/\\:"} & {*named} and not settings.get("backbone_config"):
            raise _elsewhere(name, "config.json", "backbone", named, "another checkpoint")
        for key in _IMPLEMENTATIONS:
            for each in _texts(settings.get(key)):
                if "/" in each:
                    raise _elsewhere(name, "config.json", key, each, "code of another repository")
        for each in _texts(settings.get("transformers_weights")):
            _check_inside(name, "config.json", "transformers_weights", each)
    for each in _texts(tokenizer.get("fast_tokenizer_files")):
        _check_inside(name, "tokenizer_config.json", "fast_tokenizer_files", each)


def _check_inside(name: str, file: str, key: str, named: str) -> None:
    place = Path(named)
    if place.is_absolute() or ".." in place.parts:
        raise _elsewhere(name, file, key, named, "a file outside of its directory")


def _elsewhere(name: str, file: str, key: str, named: str, what: str) -> MataError:
    return MataError(f"{key} in {file} of {name} names {what}, which is not loaded: {named[:64]!r}")


def _read(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _objects(value: Any) -> Iterator[dict[str, Any]]:
    """Yield an object and all within it: parts of a network have settings of their own."""
    waiting = [value]
    while waiting:
        each = waiting.pop()
        if isinstance(each, dict):
            yield each
        if isinstance(each, dict | list):
            waiting.extend(each.values() if isinstance(each, dict) else each)


def _texts(value: Any) -> Iterator[str]:
    """Yield the texts of a setting: one, a list of them, or an object with one for each part."""
    values = value.values() if isinstance(value, dict) else value
    for each in values if isinstance(value, dict | list) else [value]:
        if isinstance(each, str):
            yield each
