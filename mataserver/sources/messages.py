"""Messages from the download child to the server: JSON on standard output, one per line."""

from __future__ import annotations

from typing import Literal, TypeAlias

import msgspec


class Progress(msgspec.Struct, frozen=True, kw_only=True, tag="progress"):
    """A download's progress; bytes and files present beforehand count as done."""

    done_bytes: int
    total_bytes: int
    done_files: int
    total_files: int


class Downloaded(msgspec.Struct, frozen=True, tag="downloaded"):
    """The snapshot is complete at ``path``."""

    path: str


class Config(msgspec.Struct, frozen=True, tag="config"):
    """The text of the repository's ``config.json``."""

    text: str


class HubFailure(msgspec.Struct, frozen=True, tag="failure"):
    """The reason of a failure; ``detail`` is the message for clients.

    "unreachable": no answer from the hub, so a cached copy may be used;
    "refused":     the hub denied it;
    "unwritten":   this machine cannot store it.
    """

    kind: Literal["unreachable", "refused", "unwritten"]
    detail: str


class QueuePosition(msgspec.Struct, frozen=True):
    """A pull is queued at ``place``, 1 for the next."""

    place: int


class PipOutput(msgspec.Struct, frozen=True):
    """A line of pip's output, for the terminal: it may contain paths and hosts."""

    text: str


Step: TypeAlias = Progress | QueuePosition | PipOutput
"""The progress events of a pull."""

Message: TypeAlias = Progress | Downloaded | Config | HubFailure
