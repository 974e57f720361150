"""Messages between the children that fetch models and the server: JSON, one per line."""

from __future__ import annotations

from typing import Literal, TypeAlias

import msgspec

from mataserver.errors import BadRequest


class SourceUnreachable(BadRequest):
    """400: the hub or another source is unreachable; nothing is known about the model."""


class Progress(msgspec.Struct, frozen=True, kw_only=True, tag="progress"):
    """A download's progress; bytes and files present beforehand count as done."""

    done_bytes: int
    total_bytes: int
    done_files: int
    total_files: int


class Completed(msgspec.Struct, frozen=True, tag="completed"):
    """The text of the repository's ``config.json``, or the path of the complete snapshot."""

    value: str


class FetchFailure(msgspec.Struct, frozen=True, tag="failure"):
    """The reason of a failure; ``detail`` is the message for clients.

    "unreachable": no answer from the source, so a cached copy may be used;
    "refused":     the source denied it;
    "unwritten":   this machine cannot store it.
    """

    kind: Literal["unreachable", "refused", "unwritten"]
    detail: str

    def error(self, hint: str = "") -> BadRequest:
        """Return the error for the client."""
        kind = SourceUnreachable if self.kind == "unreachable" else BadRequest
        return kind(self.detail, hint=hint)


class FetchOrder(msgspec.Struct, frozen=True):
    """What the child of a plugin's source has to fetch.

    fetch:    the plugin's function, as "module:name".
    model:    the whole name, for messages.
    settings: the plugin's settings as JSON, of the type ``settings_type``, as "module:name".
    """

    fetch: str
    source: str
    model: str
    reference: str
    folder: str
    settings: msgspec.Raw
    settings_type: str | None


class Fetched(msgspec.Struct, frozen=True, tag="fetched"):
    """Every file has arrived; ``file`` is the one to serve, None for the whole folder."""

    file: str | None


class QueuePosition(msgspec.Struct, frozen=True):
    """A pull is queued at ``place``, 1 for the next."""

    place: int


class PipOutput(msgspec.Struct, frozen=True):
    """A line of pip's output, for the terminal: it may contain paths and hosts."""

    text: str


Step: TypeAlias = Progress | QueuePosition | PipOutput
"""The progress events of a pull."""

FetchMessage: TypeAlias = Progress | Fetched | FetchFailure
"""What the child of a plugin's source says."""

Message: TypeAlias = Progress | Completed | FetchFailure
