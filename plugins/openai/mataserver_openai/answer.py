"""A chat completion as it is answered: whole, or in chunks."""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

if TYPE_CHECKING:
    from msgspec import Raw

    from mataserver import Usage

DONE = b"data: [DONE]\n\n"
"""What ends a stream."""

Finish = Literal["stop", "length"]


class ChatUsage(Struct):
    """How many tokens an answer took."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class ChatMessage(Struct):
    """The model's message."""

    content: Annotated[Any, Meta(extra_json_schema={"type": "string"})]
    role: Literal["assistant"] = "assistant"
    refusal: None = None


class Choice(Struct):
    """The one answer."""

    message: ChatMessage
    finish_reason: Finish
    index: int = 0
    logprobs: None = None


class Completion(Struct, kw_only=True):
    """A whole answer. ``usage`` is left out where the model does not count tokens."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[Choice]
    usage: ChatUsage | UnsetType = UNSET


class Delta(Struct):
    """What a chunk adds to the message."""

    role: str | UnsetType = UNSET
    content: str | UnsetType = UNSET


class ChunkChoice(Struct):
    """The one answer's part of a chunk."""

    delta: Delta
    finish_reason: Finish | None = None
    index: int = 0
    logprobs: None = None


class Chunk(Struct, kw_only=True):
    """One event of a stream."""

    id: str
    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    created: int
    model: str
    choices: list[ChunkChoice]
    usage: ChatUsage | UnsetType | None = UNSET


@dataclass(frozen=True, slots=True)
class CompletionEnd:
    """How an answer ended. ``usage`` is None without counts."""

    usage: Usage | None = None

    @property
    def finish(self) -> Finish:
        """Why it ended: by itself or at a stop sequence, or at a limit."""
        return "length" if self.usage is not None and self.usage.truncated else "stop"

    @property
    def tokens(self) -> ChatUsage | UnsetType:
        """The number of tokens, if it is known."""
        if self.usage is None:
            return UNSET
        asked, written = self.usage.prompt_tokens, self.usage.completion_tokens
        return ChatUsage(asked, written, asked + written)


@dataclass(frozen=True, slots=True)
class CompletionWriter:
    """Writes one answer of ``model``; all its parts have the same id.

    With ``counts`` a stream ends with the tokens, and its other chunks have a ``usage`` of null.
    """

    model: str
    counts: bool = False
    id: str = field(default_factory=lambda: f"chatcmpl-{secrets.token_hex(12)}")
    created: int = field(default_factory=lambda: int(time.time()))

    def whole(self, text: str | Raw, ending: CompletionEnd) -> Completion:
        """Return the answer in one piece; a text that is encoded already is not looked into."""
        return Completion(
            id=self.id,
            created=self.created,
            model=self.model,
            choices=[Choice(ChatMessage(text), ending.finish)],
            usage=ending.tokens,
        )

    def first(self) -> bytes:
        """Return the event that begins a stream."""
        return self._event(ChunkChoice(Delta("assistant", "")))

    def piece(self, text: str) -> bytes:
        """Return the event of a piece of text."""
        return self._event(ChunkChoice(Delta(content=text)))

    def last(self, ending: CompletionEnd) -> bytes:
        """Return the events that end a stream, with the tokens where they are wanted and known."""
        events = self._event(ChunkChoice(Delta(), ending.finish))
        if self.counts and ending.usage is not None:
            events += self._event(usage=ending.tokens)
        return events + DONE

    def _event(self, *choices: ChunkChoice, usage: ChatUsage | UnsetType = UNSET) -> bytes:
        untold = None if self.counts else UNSET
        chunk = Chunk(
            id=self.id,
            created=self.created,
            model=self.model,
            choices=list(choices),
            usage=untold if usage is UNSET else usage,
        )
        return event(chunk)


def event(data: object) -> bytes:
    """Return one server-sent event."""
    return b"data: " + msgspec.json.encode(data) + b"\n\n"
