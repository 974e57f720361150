"""Writes a question, or a conversation, as the text that a model was trained on.

Each function takes a family's processor, the parameters, and the last question, which stands for
that of the parameters.
"""

from __future__ import annotations

import contextlib
import itertools
import re
from typing import TYPE_CHECKING, Any

from jinja2 import TemplateError
from msgspec.structs import replace

from mataserver import InvalidParams, MataError
from mataserver_hf.vlm_params import Turn, VlmParams

if TYPE_CHECKING:
    from collections.abc import Sequence

    Message = dict[str, Any]


_FAULTS = (
    TemplateError,
    ArithmeticError,  # a range without an end, for one
    AttributeError,
    LookupError,
    RecursionError,
    TypeError,  # also to include a file: there are none to a template
    ValueError,
)
"""What a template raises: it is a program of the checkpoint's author, in Jinja's sandbox."""


MOST_WRITTEN = 2**20
"""Characters that a template may add: what it adds is tokenized with each question."""


def check_template(processor: Any) -> None:
    """Raise ``MataError`` for a chat template that takes no question, with a system prompt or not.

    One that never ends is ended with the load.
    """
    plain = VlmParams(prompt="What is this?")
    try:
        chat_prompt(processor, plain, plain.prompt)
    except MataError:
        chat_prompt(processor, replace(plain, system_prompt="Be brief."), plain.prompt)


def chat_prompt(processor: Any, params: VlmParams, prompt: str) -> str:
    """Return the conversation, formatted with the checkpoint's own chat template.

    Images stand among the words where the template shows them there, else before them. Raises
    ``InvalidParams`` for a part of it that the template has no place for.
    """
    if any(asked.image_places for _, asked in params.questions()):
        with contextlib.suppress(ValueError):
            text, in_place = _formatted(processor, _messages(params, prompt))
            if in_place:
                return text
        layout = prompt.removeprefix(params.prompt)  # of an answer that can be parsed
        params = _images_first(params)
        prompt = params.prompt + layout
    try:
        text, _ = _formatted(processor, _messages(params, prompt))
    except ValueError as error:
        raise _not_held(processor, params, prompt, str(error)) from error
    return text


def _formatted(processor: Any, messages: list[Message]) -> tuple[str, bool]:
    """Return the template's text of messages, and whether images stand where they do in these.

    Raises ``ValueError`` with what the template lacks, if it does not hold them.
    """
    marked = _marked(messages)
    mark = processor.image_token
    try:
        layout, text = (_written(processor, each) for each in (marked, messages))
    except _FAULTS as error:
        raise ValueError("takes no question") from error
    if not text.count(mark) == layout.count(mark) == sum(map(_image_count, messages)):
        raise ValueError("has no place for an image")
    if not _holds(layout, marked, mark):
        raise ValueError("leaves out the question")
    return text, _in_place(layout, marked, mark)


def _written(processor: Any, messages: list[Message]) -> str:
    text = str(processor.apply_chat_template(messages, add_generation_prompt=True))
    said = sum(len(part) for each in messages for part in _texts(each))
    if len(text) > MOST_WRITTEN + said:
        raise MataError(
            f"the chat template of this checkpoint adds more than {MOST_WRITTEN} characters"
        )
    return text


def prefixed_prompt(processor: Any, params: VlmParams, prompt: str) -> str:
    """Return a prompt of PaliGemma."""
    _check_alone(params)
    return f"{processor.image_token}{_apart(params, prompt)}"


def task_prompt(processor: Any, params: VlmParams, prompt: str) -> str:
    """Return a prompt of Florence-2; its task words that take no input must stand alone."""
    _check_alone(params)
    prompt = _apart(params, prompt)
    for task in processor.task_prompts_without_inputs:
        if task in prompt and task != prompt:
            raise InvalidParams(f"params.prompt: {task} must stand alone")
    return prompt


def _apart(params: VlmParams, prompt: str) -> str:
    """Return the words of a prompt, which may have a task before those of ``params``."""
    return prompt.removesuffix(params.prompt) + _images_first(params).prompt


def _images_first(params: VlmParams) -> VlmParams:
    """Return the parameters with all images of a question before its words."""
    turns = tuple(replace(turn, prompt=_in_lines(turn), image_places=()) for turn in params.history)
    return replace(params, prompt=_in_lines(params), history=turns, image_places=())


def _in_lines(asked: Turn | VlmParams) -> str:
    """Return a question with line breaks where images stood: its words do not run together."""
    ends = [0, *asked.image_places, len(asked.prompt)]
    *lines, last = (asked.prompt[begin:end] for begin, end in itertools.pairwise(ends))
    return "\n".join(line for line in (*(each.removesuffix("\n") for each in lines), last) if line)


def _messages(params: VlmParams, prompt: str) -> list[Message]:
    """Return the conversation as chat templates take it."""
    messages: list[Message] = []
    if params.system_prompt:
        messages.append(_message("system", params.system_prompt))
    for index, (_, asked) in enumerate(params.questions()):
        places = asked.image_places or (0,) * params.image_count(index, asked)
        if not isinstance(asked, Turn):
            messages.append(_message("user", prompt, places))
        else:
            messages.append(_message("user", asked.prompt, places))
            messages.append(_message("assistant", asked.answer))
    return messages


def _message(role: str, text: str, places: Sequence[int] = ()) -> Message:
    """Return a message whose images stand after so many characters of its text."""
    content: list[dict[str, str]] = []
    begin = 0
    for place in places:
        if place > begin:
            content.append({"type": "text", "text": text[begin:place]})
        content.append({"type": "image"})
        begin = place
    if begin < len(text) or not content:
        content.append({"type": "text", "text": text[begin:]})
    return {"role": role, "content": content}


def _image_count(message: Message) -> int:
    return sum(part["type"] == "image" for part in message["content"])


def _texts(message: Message) -> list[str]:
    return [part["text"] for part in message["content"] if part["type"] == "text"]


def _marked(messages: list[Message]) -> list[Message]:
    """Return the messages with a number for each text, which no template rewrites.

    An empty answer has one, too: it ends a turn like any other.
    """
    numbers = itertools.count()

    def marked(part: dict[str, str]) -> dict[str, str]:
        return {**part, "text": f"71{next(numbers):04}83"} if part["type"] == "text" else part

    return [{**each, "content": [marked(part) for part in each["content"]]} for each in messages]


def _holds(layout: str, messages: list[Message], image: str) -> bool:
    """Whether a text has each message in its turn, with as many images as the message has.

    What a template does to the words does not matter: some strip them, and leave thoughts out of
    answers. Some write the system prompt into a question, and some images before its words.
    """
    system, turns = messages[:1], messages[1:]
    if messages[0]["role"] != "system":
        system, turns = [], messages
    if not all(text in layout for each in system for text in _texts(each)):
        return False
    for question, answer in itertools.zip_longest(turns[::2], turns[1::2]):
        part, found, rest = layout.partition(*_texts(answer)) if answer else (layout, True, "")
        if not found or not all(text in part for text in _texts(question)):
            return False
        if part.count(image) != _image_count(question):
            return False
        layout = rest
    return True


def _in_place(layout: str, messages: list[Message], image: str) -> bool:
    """Whether a text shows the words and images of the questions in their order."""
    asked = [
        part.get("text", image)
        for each in messages
        if each["role"] == "user"
        for part in each["content"]
    ]
    return re.findall("|".join(map(re.escape, {*asked})), layout) == asked


def _not_held(processor: Any, params: VlmParams, prompt: str, lack: str) -> MataError:
    """Return the error for a conversation that the template does not hold.

    It names the part that the template would do without. Raises the error of the rest, if it is not
    held either.
    """
    if (count := sum(1 for _ in params.pictures())) > 1:
        turns = tuple(replace(turn, images=()) for turn in params.history)
        chat_prompt(processor, replace(params, images=(), history=turns), prompt)
        return _one_image(count)
    if params.history:
        chat_prompt(processor, replace(params, history=(), image_turn=0), prompt)
        return _no_history()
    if params.system_prompt:
        chat_prompt(processor, replace(params, system_prompt=""), prompt)
        return _no_system_prompt()
    return MataError(f"the chat template of this checkpoint {lack}")


def _check_alone(params: VlmParams) -> None:
    """Raise ``InvalidParams`` for anything beside the question and one image."""
    if params.system_prompt:
        raise _no_system_prompt()
    if (count := sum(1 for _ in params.pictures())) > 1:
        raise _one_image(count)
    if params.history:
        raise _no_history()


def _one_image(count: int) -> InvalidParams:
    return InvalidParams(f"params.images: this model reads one image a request, got {count}")


def _no_system_prompt() -> InvalidParams:
    return InvalidParams("params.system_prompt: this model takes no system prompt")


def _no_history() -> InvalidParams:
    return InvalidParams("params.history: this model takes no such earlier questions and answers")
