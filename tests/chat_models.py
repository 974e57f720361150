"""Vision-language models that repeat what they were asked: for tests of chats."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import time
from typing import Annotated, Any

from msgspec import Meta, Struct, to_builtins

from conftest import register
from mataserver import (
    Backend,
    BadRequest,
    InvalidParams,
    MaxTokens,
    Params,
    Temperature,
    Text,
    Unavailable,
    Usage,
    VlmResult,
    hookimpl,
)
from mataserver import plugins as plugin_host
from mataserver_openai import completions

NAMES = ("echo", "mute")


class EchoTurn(Struct, frozen=True):
    prompt: Text
    answer: Text
    image_places: tuple[int, ...] = ()


class EchoParams(Params, frozen=True):
    prompt: Text = ""
    system_prompt: Text = ""
    max_tokens: MaxTokens = 100
    temperature: Temperature = 0.0
    top_p: float = 1.0
    seed: Annotated[int, Meta(ge=0, le=2**63 - 1)] | None = None
    history: tuple[EchoTurn, ...] = ()
    image_turn: int = 0
    image_places: tuple[int, ...] = ()
    seconds: float = 0.0
    fail_at: int = -1


class Echo:
    """Answers with the prompt's words, or with all of its parameters when asked for them."""

    def predict(self, images: Any, params: Any) -> list[VlmResult]:
        pairs = zip(images, params, strict=True)
        return [list(self.stream(image, each))[-1] for image, each in pairs]

    def stream(self, image: Any, params: EchoParams) -> Any:
        if not params.prompt:
            raise InvalidParams("params.prompt: this model needs a prompt")
        text = params.prompt
        if text.strip() == "parameters":
            text = json.dumps({**to_builtins(params), "size": list(image.shape[:2])})
        words = text.split(" ")
        kept = words[: params.max_tokens]
        for number, word in enumerate(kept):
            if number == params.fail_at:
                if number:
                    raise Unavailable("the model would not go on", retry_after=1.2)
                raise BadRequest("the model would not go on")
            time.sleep(params.seconds)
            yield word if number == len(kept) - 1 else f"{word} "
        usage = Usage(len(params.prompt.split()), len(kept), truncated=len(kept) < len(words))
        yield VlmResult(" ".join(kept), usage=usage)


class MuteParams(Params, frozen=True):
    prompt: Text = ""


class Mute:
    """Writes nothing piece by piece, counts no tokens and takes no seed."""

    def predict(self, images: Any, params: Any) -> list[VlmResult]:
        return [VlmResult(each.prompt) for each in params]


def load_echo(_spec: Any, _ctx: Any) -> Echo:
    return Echo()


def load_mute(_spec: Any, _ctx: Any) -> Mute:
    return Mute()


class Chatty:
    @hookimpl
    def backends(self) -> list[Backend]:
        echo = Backend(name="echo", task="vlm", source="pip", load=load_echo, params=EchoParams)
        mute = Backend(name="mute", task="vlm", source="pip", load=load_mute, params=MuteParams)
        # Under the name that the example of the OpenAPI document asks for.
        shown = dataclasses.replace(echo, name=completions.EXAMPLE["model"])
        return [echo, mute, shown]


plugin = Chatty()
POINT = importlib.metadata.EntryPoint("chatty", "chat_models:plugin", plugin_host.GROUP)


def register_all(data_dir):
    """Register both beside two fake models."""
    register(data_dir, {**dict.fromkeys(NAMES, "vlm"), "fake-vlm": "vlm", "fake-detect": "detect"})
