"""The messages of a chat: a conversation about images.

It becomes the last question (``prompt``), the turns before it (``history``), and the number of the
turn whose question shows the first image (``image_turn``), which is the inference's own. The others
are ``images`` of their turns. Where each stands in its question are the ``image_places``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from mataserver import BadRequest, decode_base64

FROM_MESSAGES = ("prompt", "system_prompt", "history", "image_turn", "images", "image_places")
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

    Of an image: its bytes and its field. ``places`` says how many characters stand before each.
    """

    prompt: list[str] = field(default_factory=list)
    length: int = 0
    images: list[tuple[bytes, str]] = field(default_factory=list)
    places: list[int] = field(default_factory=list)
    answer: list[str] | None = None

    def ask(self, text: str) -> None:
        """Add to the question."""
        self.prompt.append(text)
        self.length += len(text)

    def params(self, where: str, fields: dict[str, str]) -> dict[str, Any]:
        """Return the parameters of the question, and add the fields of its images to ``fields``."""
        fields |= {f"{where}images[{at}]": given for at, (_, given) in enumerate(self.images)}
        params: dict[str, Any] = {"prompt": "".join(self.prompt)}
        if self.images:
            params["images"] = [image for image, _ in self.images]
        if any(self.places):
            params["image_places"] = self.places
        return params


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
        """Add a message; consecutive ones of a role are one text, with line breaks between."""
        if message.role == "user":
            self._ask(message, where)
            return
        texts = self._texts(message.role, where)
        for part in _parts(message):
            if not isinstance(part, TextPart):
                raise BadRequest(f"{where}.content: only a user sends images")
            texts.append(part.text)

    def _ask(self, message: Message, where: str) -> None:
        """Add a question's message; an image is no end of a line."""
        if not self.turns or self.is_answered:
            self.turns.append(_Turn())
        turn = self.turns[-1]
        gap = "\n" if turn.prompt else ""
        for place, part in enumerate(_parts(message)):
            if isinstance(part, TextPart):
                turn.ask(gap + part.text)
                gap = "\n"
            else:
                if gap and not place:
                    turn.ask(gap)
                gap = ""
                at = f"{where}.content[{place}].image_url.url"
                turn.images.append((_decoded(part.image_url.url, at), at))
                turn.places.append(turn.length)

    def _texts(self, role: str, where: str) -> list[str]:
        """Return the texts that a message adds to, which is not a user's."""
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
                "answer": "\n".join(turn.answer or ()),
                **turn.params(f"params.history[{at}].", fields),
            }
            for at, turn in enumerate(self.turns[:-1])
        ]
        given: dict[str, Any] = {
            "system_prompt": "\n".join(self.system),
            "history": history,
            "image_turn": first,
            **self.turns[-1].params("params.", fields),
        }
        return ParsedMessages(
            image, {name: value for name, value in given.items() if value}, fields
        )


def without_places(params: dict[str, Any]) -> dict[str, Any]:
    """Return parameters for a model that has no ``image_places``.

    Its images stand before the question, in whose words a line break marks where one was shown.
    """
    placed = _in_lines(params)
    if "history" in placed:
        placed["history"] = [_in_lines(turn) for turn in placed["history"]]
    return placed


def _in_lines(params: dict[str, Any]) -> dict[str, Any]:
    places = params.get("image_places", ())
    if not places:
        return dict(params)
    shown = [0, *dict.fromkeys(places), None]
    *lines, last = (params["prompt"][begin:end] for begin, end in pairwise(shown))
    lines = [line.removesuffix("\n") for line in lines]
    left = {name: value for name, value in params.items() if name != "image_places"}
    return {**left, "prompt": "\n".join(line for line in (*lines, last) if line)}


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
