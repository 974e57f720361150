"""The messages of a chat: a conversation about one image.

It becomes the last question (``prompt``), the turns before it (``history``) and the number of the
turn whose question shows the image (``image_turn``).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from mataserver import BadRequest, decode_base64

SAID = ("prompt", "system_prompt", "history", "image_turn")
"""The parameters that are taken from the messages."""

_TOOL_ROLES = ("tool", "function")
_NO_TOOLS = "not supported: the models of this server call no tools"


class ImageUrl(Struct, forbid_unknown_fields=True):
    """``url`` is a data URI; ``detail`` is accepted, a model reads all of an image anyway."""

    url: Annotated[str, Meta(min_length=1)]
    detail: Literal["auto", "low", "high", "original"] | None = None


class TextPart(Struct, tag_field="type", tag="text", forbid_unknown_fields=True):
    """Text within a message. The two hints are for another provider's cache: ignored."""

    text: str
    cache_control: Any = None
    prompt_cache_breakpoint: Any = None


class ImagePart(Struct, tag_field="type", tag="image_url", forbid_unknown_fields=True):
    """An image within a message. The hints as at a text."""

    image_url: ImageUrl
    cache_control: Any = None
    prompt_cache_breakpoint: Any = None


Part = TextPart | ImagePart


class Message(Struct, forbid_unknown_fields=True):
    """One message; the content of a user's may hold an image.

    Its name is ignored, and the hint; so are an earlier answer's annotations.
    """

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: str | list[Part] | None = None
    name: str | None = None
    cache_control: Any = None
    annotations: list[Any] | None = None
    tool_calls: list[Any] | None = None


def check_roles(messages: object) -> None:
    """Refuse what is said to tools and by them before its own fields are looked at."""
    for index, message in enumerate(messages if isinstance(messages, list) else ()):
        if not isinstance(message, dict):
            continue
        if message.get("role") in _TOOL_ROLES:
            raise BadRequest(f"messages[{index}].role: {message['role']!r}: {_NO_TOOLS}")
        for name in ("tool_calls", "function_call"):
            if message.get(name):
                raise BadRequest(f"messages[{index}].{name}: {_NO_TOOLS}")


def read(messages: list[Message]) -> tuple[bytes, str, dict[str, Any]]:
    """Return the image, its field, and what was said, as parameters of an inference."""
    read_so_far = _Conversation()
    for index, message in enumerate(messages):
        read_so_far.add(message, f"messages[{index}]")
    if read_so_far.is_answered:
        raise BadRequest(f"messages[{len(messages) - 1}].role: the last question has an answer")
    if len(read_so_far.images) != 1:
        raise BadRequest(
            f"messages: a model answers about one image, got {len(read_so_far.images)}: send one "
            "image_url"
        )
    url, where, _ = read_so_far.images[0]
    return _decoded(url, where), where, read_so_far.params()


@dataclass(slots=True)
class _Turn:
    """The texts of a question, and of its answer; None before there is one."""

    prompt: list[str] = field(default_factory=list)
    answer: list[str] | None = None


@dataclass(slots=True)
class _Conversation:
    """What the messages say. Of an image: its URL, its field, and the turn that shows it."""

    system: list[str] = field(default_factory=list)
    turns: list[_Turn] = field(default_factory=list)
    images: list[tuple[str, str, int]] = field(default_factory=list)

    @property
    def is_answered(self) -> bool:
        """Whether the last question has an answer."""
        return bool(self.turns) and self.turns[-1].answer is not None

    def add(self, message: Message, where: str) -> None:
        """Add a message; consecutive ones of a role are one text."""
        said = self._said(message.role, where)
        for place, part in enumerate(_parts(message)):
            if isinstance(part, TextPart):
                said.append(part.text)
            elif message.role == "user":
                at = f"{where}.content[{place}].image_url.url"
                self.images.append((part.image_url.url, at, len(self.turns) - 1))
            else:
                raise BadRequest(f"{where}.content: only a user sends images")

    def _said(self, role: str, where: str) -> list[str]:
        """Return the texts that a message adds to."""
        if role == "user":
            if not self.turns or self.is_answered:
                self.turns.append(_Turn())
            return self.turns[-1].prompt
        if role != "assistant":
            return self.system
        if not self.turns:
            raise BadRequest(f"{where}.role: a conversation begins with a user's message")
        turn = self.turns[-1]
        turn.answer = [] if turn.answer is None else turn.answer
        return turn.answer

    def params(self) -> dict[str, Any]:
        """Return the parameters of an inference; there is an image and a question about it."""
        *earlier, last = self.turns
        given: dict[str, Any] = {
            "system_prompt": "\n".join(self.system),
            "prompt": "\n".join(last.prompt),
            "history": [
                {"prompt": "\n".join(turn.prompt), "answer": "\n".join(turn.answer or ())}
                for turn in earlier
            ],
            "image_turn": self.images[0][2],
        }
        return {name: value for name, value in given.items() if value}


def _parts(message: Message) -> list[Part]:
    content = message.content
    return [TextPart(content)] if isinstance(content, str) else content or []


def _decoded(url: str, where: str) -> bytes:
    if url[:5].lower() != "data:":
        raise BadRequest(
            f"{where}: must be a data URI (data:image/jpeg;base64,...): "
            "this server does not fetch images"
        )
    try:
        return decode_base64(url)
    except BadRequest as error:
        raise BadRequest(f"{where}: {error.detail}") from None
