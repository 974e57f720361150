"""Errors in OpenAI's form: their status stays, their form changes."""

from __future__ import annotations

import re

from msgspec import UNSET, Struct, UnsetType

_FIELD = re.compile(r"(?:params\.)?([a-z_]\w*(?:\[\d+\])?(?:\.[a-z_]\w*(?:\[\d+\])?)*): ")


class ChatError(Struct):
    """An error as OpenAI tells it; ``param`` names the field that is wrong, where there is one.

    ``retry_after`` is of an event alone, which has no header: seconds until a retry may succeed.
    """

    message: str
    type: str
    param: str | None
    code: str | None
    retry_after: int | UnsetType = UNSET


class ChatProblem(Struct):
    """The body of such an error."""

    error: ChatError


def chat_problem(status: int, detail: str) -> ChatProblem:
    """Return an error in OpenAI's form."""
    return ChatProblem(_chat_error(status, detail))


def _chat_error(status: int, detail: str) -> ChatError:
    field = _FIELD.match(detail)
    kind = "invalid_request_error" if status < 500 else "server_error"
    code = "invalid_api_key" if status in {401, 403} else None
    if status == 404 and detail.startswith("Model not found"):
        return ChatError(detail, kind, "model", "model_not_found")
    return ChatError(detail, kind, field[1] if field else None, code)
