"""Compares two versions of a model: their configurations and their files."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Return a line for each difference of two versions as the server tells them.

    ``+`` is only in the new one, ``-`` only in the old one, ``~`` is another one. Files are named
    by their path in the version's folder, or in the model's where they are of all versions.
    """
    before = {**dict(_settings(old["config"])), **_files(old)}
    after = {**dict(_settings(new["config"])), **_files(new)}
    return [
        line
        for name in sorted({*before, *after})
        for line in _line(name, before.get(name), after.get(name))
    ]


def _line(name: str, old: str | None, new: str | None) -> Iterator[str]:
    if old == new:
        return
    if old is None:
        yield f"+ {name} {new}"
    elif new is None:
        yield f"- {name} {old}"
    else:
        yield f"~ {name} {old} -> {new}"


def _files(version: Mapping[str, Any]) -> dict[str, str]:
    own = f"{version['version']}/"
    return {
        f"file {each['path'].removeprefix(own)}": f"sha256:{each['digest']} ({each['size']} bytes)"
        for each in version["files"]
    }


def _settings(value: Any, where: str = "config") -> Iterator[tuple[str, str]]:
    """Yield each plain value of a configuration under its place in it."""
    if isinstance(value, dict) and value:
        for name, each in value.items():
            yield from _settings(each, f"{where}.{name}")
    elif isinstance(value, list) and any(isinstance(each, dict) for each in value):
        for number, each in enumerate(value):
            yield from _settings(each, f"{where}[{number}]")
    else:
        yield where, msgspec.json.encode(value).decode()
