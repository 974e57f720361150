"""A plugin whose models chat: what one was told of is its answer."""

from __future__ import annotations

import importlib.metadata
import time
from typing import TYPE_CHECKING, Annotated, Any

from msgspec import UNSET, Meta, Struct

from mataserver import Backend, InvalidParams, MaxTokens, Params, Usage, VlmResult, hookimpl

if TYPE_CHECKING:
    from collections.abc import Iterator

POINT = importlib.metadata.EntryPoint("planted-chat", "planted_chat:plugin", "mataserver")
NAMES = {"chat": "vlm", "stubborn": "vlm"}
REPLIES = {
    "How wide is the picture?": "It is {} pixels wide.",
    "And how high?": "{} pixels high. You asked before: '{}'",
}
"""What is answered in the documentation's picture."""
CONTEXT = 24
"""Words: a question, what was said before, and the answer."""


class Turn(Struct, frozen=True, forbid_unknown_fields=True):
    """An earlier question."""

    prompt: str
    answer: str


class ChatParams(Params, frozen=True, kw_only=True):
    """Parameters; ``seconds`` is how long a word takes."""

    prompt: str = ""
    history: Annotated[tuple[Turn, ...], Meta(max_length=3)] = ()
    max_tokens: MaxTokens = 12
    seconds: Annotated[float, Meta(ge=0, le=60)] = 0.0


class Chat:
    """Says what it was told of: earlier questions, and what is asked."""

    def __init__(self, name: str) -> None:
        self._stubborn = name == "stubborn"

    def predict(self, images: Any, params: Any) -> list[VlmResult]:
        """Answer in one piece."""
        return [
            next(each for each in self.stream(*both) if isinstance(each, VlmResult))
            for both in zip(images, params, strict=True)
        ]

    def stream(self, image: Any, params: ChatParams) -> Iterator[str | VlmResult]:
        """Answer word by word."""
        if self._stubborn and params.history:
            raise InvalidParams("params.history: this model takes no earlier questions")
        said = [text for turn in params.history for text in (turn.prompt, turn.answer)]
        taken = len(" ".join([*said, params.prompt]).split())
        if taken >= CONTEXT:
            raise InvalidParams(f"params.prompt: takes {taken} tokens, at most {CONTEXT - 1}")
        asked = "/".join(turn.prompt for turn in params.history)
        width, height = image.shape[1], image.shape[0]
        reply = REPLIES.get(params.prompt, f"{width} told [{asked}] asked {params.prompt}")
        whole = reply.format(height if params.history else width, asked).split()
        words = whole[: min(params.max_tokens, CONTEXT - taken)]
        for at, word in enumerate(words):
            time.sleep(params.seconds)
            yield f" {word}" if at else word
        usage = Usage(taken, len(words), len(words) < len(whole))
        yield VlmResult(" ".join(words), usage=usage or UNSET)


class Plugin:
    """The plugin."""

    @hookimpl
    def backends(self) -> list[Backend]:
        """Return a backend for each name."""
        return [
            Backend(name=name, task=task, source="pip", load=load, params=ChatParams)
            for name, task in NAMES.items()
        ]


def load(spec: Any, _context: Any) -> Chat:
    """Make the model."""
    return Chat(spec.name)


plugin = Plugin()
