"""Locates the weights of the learned matchers, without downloads and without a framework.

A place is a path, or the name of a repository in the hub's cache on this machine: ``owner/name``,
and ``owner/name/file`` for one file of it.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

Place = Annotated[str, Meta(min_length=1, max_length=4096)]
Names = Annotated[list[str], Meta(min_length=2, max_length=6)]


class Checkpoint(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A network of one repository, or of one file."""

    weights: Place


class DetectorAndMatcher(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A network that finds features and one that matches them, a file each."""

    features: Place
    matcher: Place


class ExternalProgram(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A program that matches photographs.

    command:              the program and its first arguments.
    licence_acknowledged: whether the operator may use it: MASt3R is CC BY-NC-SA 4.0.
    """

    command: list[Place] = []
    licence_acknowledged: bool = False


class Matchers(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What each learned matcher needs. ``fusion``: the matchers that ``fusion`` mixes."""

    superpoint_lightglue: Checkpoint = Checkpoint(weights="ETH-CVG/lightglue_superpoint")
    disk_lightglue: DetectorAndMatcher = DetectorAndMatcher(
        features="kornia/disk/depth-save.pth", matcher="kornia/lightglue/disk_lightglue.pth"
    )
    aliked_lightglue: DetectorAndMatcher = DetectorAndMatcher(
        features="kornia/aliked/aliked-n16.pth", matcher="kornia/lightglue/aliked_lightglue.pth"
    )
    loftr: Checkpoint = Checkpoint(weights="kornia/loftr/loftr_outdoor.ckpt")
    mast3r: ExternalProgram = ExternalProgram()
    fusion: Names = msgspec.field(
        default_factory=lambda: ["mast3r", "aliked_lightglue", "superpoint_lightglue"]
    )


def locate(place: str) -> Path | None:
    """Return the path of a place on this machine; None when it does not exist."""
    path = Path(place).expanduser()
    if path.exists():
        return path.resolve()
    owner, _, rest = place.partition("/")
    name, _, inside = rest.partition("/")
    if not name or owner in {"", ".", "..", "~"} or ".." in inside.split("/"):
        return None
    repository = _cache() / f"models--{owner}--{name}"
    try:
        commit = (repository / "refs" / "main").read_text().strip()
    except (OSError, UnicodeDecodeError):
        return None
    path = repository / "snapshots" / commit / inside
    return path if path.exists() else None


def _cache() -> Path:
    """Return the hub's cache, from the environment variables of its own library."""
    for variable in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        if variable in os.environ:
            return Path(os.environ[variable]).expanduser()
    caches = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser()
    home = os.environ.get("HF_HOME")
    return (Path(home).expanduser() if home else caches / "huggingface") / "hub"
