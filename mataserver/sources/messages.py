"""What the download child tells the server: one JSON object a line on its standard output."""

from __future__ import annotations

from typing import Literal, TypeAlias

import msgspec


class Progress(msgspec.Struct, frozen=True, kw_only=True, tag="progress"):
    """How far a download is; bytes and files that were there before count as done."""

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
    """Why it failed: ``detail`` is the client's sentence.

    "unreachable": the hub could not be asked, so what is on disk may do;
    "refused":     the hub says no;
    "unwritten":   this machine cannot keep it.
    """

    kind: Literal["unreachable", "refused", "unwritten"]
    detail: str


class Waiting(msgspec.Struct, frozen=True):
    """A pull waits for its turn: ``place`` is 1 for the next."""

    place: int


class Said(msgspec.Struct, frozen=True):
    """A line of pip's, for whoever sits before the terminal: it may name paths and hosts."""

    text: str


Step: TypeAlias = Progress | Waiting | Said
"""What is told while a model is pulled."""

Message: TypeAlias = Progress | Downloaded | Config | HubFailure
