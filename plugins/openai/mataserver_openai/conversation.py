"""The messages of a chat: a conversation about images.

It becomes the last question (``prompt``), the turns before it (``history``), and the number of the
turn whose question shows the first image (``image_turn``), which is the inference's own. The others
are ``images`` of their turns.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from mataserver import BadRequest, decode_base64

FROM_MESSAGES = ("prompt", "system_prompt", "history", "image_turn", "images")
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


FIRST_IMAGE = ""


@dataclass(frozen=True, slots=True)
class ParsedMessages:
    """What the messages say: the first image, and the parameters of an inference.

    ``fields`` are the fields of the images, by their parameters; that of the first by
    ``FIRST_IMAGE``.
    """

    image: bytes
    params: dict[str, Any]
    fields: dict[str, str]


def read(messages: list[Message]) -> ParsedMessages:
    """Return what the messages say. Raises ``BadRequest`` naming the one that is wrong."""
    read_so_far = _Conversation()
    for index, message in enumerate(messages):
        read_so_far.add(message, f"messages[{index}]")
    if read_so_far.is_answered:
        raise BadRequest(f"messages[{len(messages) - 1}].role: the last question has an answer")
    return read_so_far.parsed()


@dataclass(slots=True)
class _Turn:
    """The texts and images of a question, and the texts of its answer; None before there is one.

    Of an image: its bytes and its field.
    """

    prompt: list[str] = field(default_factory=list)
    images: list[tuple[bytes, str]] = field(default_factory=list)
    answer: list[str] | None = None


@dataclass(slots=True)
class _Conversation:
    """What the messages said so far."""

    system: list[str] = field(default_factory=list)
    turns: list[_Turn] = field(default_factory=list)

    @property
    def is_answered(self) -> bool:
        """Whether the last question has an answer."""
        return bool(self.turns) and self.turns[-1].answer is not None

    def add(self, message: Message, where: str) -> None:
        """Add a message; consecutive ones of a role are one text."""
        texts = self._texts(message.role, where)
        for place, part in enumerate(_parts(message)):
            if isinstance(part, TextPart):
                texts.append(part.text)
            elif message.role == "user":
                at = f"{where}.content[{place}].image_url.url"
                self.turns[-1].images.append((_decoded(part.image_url.url, at), at))
            else:
                raise BadRequest(f"{where}.content: only a user sends images")

    def _texts(self, role: str, where: str) -> list[str]:
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

    def parsed(self) -> ParsedMessages:
        """Return all of it. Raises ``BadRequest`` without an image."""
        first = next((at for at, turn in enumerate(self.turns) if turn.images), None)
        if first is None:
            raise BadRequest("messages: a model answers about images: send at least one image_url")
        image, where = self.turns[first].images.pop(0)
        fields = {FIRST_IMAGE: where}
        history = [
            {
                "prompt": "\n".join(turn.prompt),
                "answer": "\n".join(turn.answer or ()),
                **_images(turn, f"params.history[{at}].", fields),
            }
            for at, turn in enumerate(self.turns[:-1])
        ]
        last = self.turns[-1]
        given: dict[str, Any] = {
            "system_prompt": "\n".join(self.system),
            "prompt": "\n".join(last.prompt),
            "history": history,
            "image_turn": first,
            **_images(last, "params.", fields),
        }
        return ParsedMessages(
            image, {name: value for name, value in given.items() if value}, fields
        )


def _images(turn: _Turn, where: str, fields: dict[str, str]) -> dict[str, Any]:
    """Return the parameter for images of a turn, if it has any, and add their fields."""
    fields |= {f"{where}images[{at}]": given for at, (_, given) in enumerate(turn.images)}
    return {"images": [image for image, _ in turn.images]} if turn.images else {}


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
