"""A chat completion as it is asked for, to images and the parameters of an inference."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from mataserver import (
    BadRequest,
    Confidence,
    InvalidParams,
    MaxTokens,
    convert_json,
    decode_json,
)
from mataserver_openai import conversation
from mataserver_openai.conversation import Message

MAX_STOPS = 4
_DEEPEST = 5
"""Levels of a body down to the field of an image: message, its place, part, its place, image."""
_STREAMED = "stream_options: only with stream"

ChatTemperature = Annotated[float, Meta(ge=0.0, le=2.0)]
Seed = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
"""OpenAI's ranges: what its own servers refuse is refused here."""
Stop = Annotated[str, Meta(min_length=1, max_length=256)]


class StreamOptions(Struct, forbid_unknown_fields=True):
    """What a stream holds beside the text."""

    include_usage: bool = False
    include_obfuscation: bool = False


class ChatRequest(Struct):
    """``POST /v1/chat/completions``. Further fields are parameters of the model."""

    model: Annotated[str, Meta(min_length=1, max_length=512)]
    messages: Annotated[list[Message], Meta(min_length=1, max_length=256)]
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: MaxTokens | None = None
    max_completion_tokens: MaxTokens | None = None
    temperature: ChatTemperature | None = None
    top_p: Confidence | None = None
    seed: Seed | None = None
    stop: Stop | Annotated[list[Stop], Meta(max_length=MAX_STOPS)] | None = None
    n: Literal[1] | None = None


NEUTRAL: dict[str, tuple[Any, ...]] = {
    "audio": (),
    "frequency_penalty": (0,),
    "function_call": ("none", "auto"),
    "functions": ([],),
    "logit_bias": ({},),
    "logprobs": (False,),
    "modalities": (["text"],),
    "moderation": (),
    "n": (1,),
    "prediction": (),
    "presence_penalty": (0,),
    "reasoning_effort": ("none",),
    "response_format": ({"type": "text"},),
    "tool_choice": ("none", "auto"),
    "tools": ([],),
    "top_logprobs": (0,),
    "verbosity": ("medium",),
    "web_search_options": (),
}
"""Fields that no model here serves, each with the values that ask for nothing."""

IGNORED_FIELDS = frozenset(
    {
        "metadata",
        "parallel_tool_calls",
        "prompt_cache_key",
        "prompt_cache_options",
        "prompt_cache_retention",
        "safety_identifier",
        "service_tier",
        "store",
        "user",
    }
)
"""Fields that do not change an answer."""


@dataclass(frozen=True, slots=True)
class CompletionRequest:
    """What a completion runs on. ``params`` are those of the API, not yet checked.

    ``fields`` are where the images were given, for errors about them: see
    ``conversation.ParsedMessages``.
    """

    model: str
    image: bytes
    params: dict[str, Any]
    seed: int | None = None
    stop: tuple[str, ...] = ()
    stream: bool = False
    usage: bool = False
    fields: dict[str, str] = field(default_factory=dict)


def read(data: bytes) -> CompletionRequest:
    """Read a request's body. Raises ``BadRequest`` naming the field that is wrong."""
    fields = _object(data)
    for name, neutral in NEUTRAL.items():
        value = fields.pop(name, None)
        if value is not None and not any(_same(value, each) for each in neutral):
            raise BadRequest(f"{name}: not supported by the models of this server")
    conversation.check_roles(fields.get("messages"))
    asked = _typed(fields)
    if asked.stream_options is not None and not asked.stream:
        raise BadRequest(_STREAMED)
    parsed = conversation.read(asked.messages)
    options = asked.stream_options or StreamOptions()
    stop = (asked.stop,) if isinstance(asked.stop, str) else tuple(asked.stop or ())
    params = {**_extra(fields), **parsed.params, **_sampling(asked)}
    stream = bool(asked.stream)
    return CompletionRequest(
        asked.model,
        parsed.image,
        params,
        asked.seed,
        stop,
        stream,
        options.include_usage,
        parsed.fields,
    )


def _same(value: object, neutral: object) -> bool:
    """Whether two JSON values are the same; in Python true is also 1."""
    return value == neutral and isinstance(value, bool) == isinstance(neutral, bool)


def _typed(fields: dict[str, Any]) -> ChatRequest:
    try:
        return convert_json(_without_nulls(fields), ChatRequest)
    except InvalidParams as error:
        raise BadRequest(error.detail) from None


def _without_nulls(value: Any, depth: int = _DEEPEST) -> Any:
    """Return a JSON value without the fields that are null: clients write out all they know."""
    if depth < 0:
        return value
    if isinstance(value, list):
        return [
            _without_nulls(each, depth - 1) if isinstance(each, dict) else each for each in value
        ]
    if isinstance(value, dict):
        given = ((name, each) for name, each in value.items() if each is not None)
        return {name: _without_nulls(each, depth - 1) for name, each in given}
    return value


def _object(data: bytes) -> dict[str, Any]:
    try:
        return decode_json(data, dict[str, Any])
    except InvalidParams:
        raise BadRequest("The body must be a JSON object") from None


def _extra(fields: dict[str, Any]) -> dict[str, Any]:
    """Return the fields that are no part of the form: parameters of the model by their own names.

    What it takes from the messages cannot be given twice.
    """
    known = {*ChatRequest.__struct_fields__, *IGNORED_FIELDS}
    for name in conversation.FROM_MESSAGES:
        if name in fields:
            raise BadRequest(f"{name}: unknown field; it is one of the messages")
    return {name: value for name, value in fields.items() if name not in known}


def _sampling(asked: ChatRequest) -> dict[str, Any]:
    if asked.max_tokens is not None and asked.max_completion_tokens is not None:
        raise BadRequest("max_tokens: give it or max_completion_tokens, not both")
    given = {
        "max_tokens": asked.max_tokens or asked.max_completion_tokens,
        "temperature": asked.temperature,
        "top_p": asked.top_p,
    }
    return {name: value for name, value in given.items() if value is not None}
