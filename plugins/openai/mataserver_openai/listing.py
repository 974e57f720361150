"""The models in OpenAI's form, beside the fields of our own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import msgspec
from msgspec import Struct

from mataserver import ModelInfo

if TYPE_CHECKING:
    from collections.abc import Iterable

Form = Literal["mata", "openai"]


class OpenAIModel(ModelInfo, kw_only=True):
    """One model: OpenAI's fields, then ours. ``created`` is when it was pulled, in Unix seconds."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str


class OpenAIModels(Struct, kw_only=True):
    """All models."""

    object: Literal["list"] = "list"
    data: list[OpenAIModel]


class OpenAIDeleted(Struct, kw_only=True):
    """A model that was removed."""

    id: str
    object: Literal["model"] = "model"
    deleted: bool = True


def to_model(info: ModelInfo, created: float) -> OpenAIModel:
    """Return one model."""
    known: dict[str, Any] = msgspec.structs.asdict(info)
    return OpenAIModel(id=info.model, created=int(created), owned_by=info.source, **known)


def to_models(infos: Iterable[tuple[ModelInfo, float]]) -> OpenAIModels:
    """Return all models, each given with the time it was pulled at."""
    return OpenAIModels(data=[to_model(info, created) for info, created in infos])
